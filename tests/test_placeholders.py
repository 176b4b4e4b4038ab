"""The same bytes for three or more different prompts: those rows fail, wherever they are, and are made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.generate_images import generate_images
from imagetask_flows.retry_failed import retry_failed

from imagetask import GenerationStore, ImageDataset, ManagedModel
from imagetask.chunks import run_chunk
from imagetask.layout import Layout
from imagetask.models import load_model
from imagetask.models.pacing import Pace
from imagetask.parts import is_final, part_path, read_manifest
from imagetask.placeholders import remake_placeholders
from imagetask.plan import make_plan
from imagetask.settings import RunSettings
from tests.model_server import ModelServer

ALIKE = ["alike 0", "alike 1", "alike 2"]


def write(path: Path, prompts: Sequence[str]) -> Path:
    pl.DataFrame({"prompt": prompts}).write_csv(path)
    return path


def parts_of(folder: Path, prompts: Sequence[str], server: ModelServer, **options: Any) -> pl.DataFrame:
    """The parts of a run, as the flow makes them: what stands is kept, placeholders are found at the end."""
    source = write(folder / "rows.csv", prompts)
    settings = RunSettings(source=str(source), out=folder / "out", model=["openai:m"], **options)
    settings.layout.make()
    model = load_model("openai:m", base_url=server.openai_url, api_key="k")
    plan = make_plan(settings, [model])
    with ManagedModel(model, store=GenerationStore(settings.store_url)) as managed:
        for chunk in plan.chunks:
            if not is_final(read_manifest(settings.layout, chunk)):
                run_chunk(settings, chunk, managed)
        before = managed.tally.calls
        remake_placeholders(settings, lambda _: managed)
        assert managed.tally.calls == before, "looking for placeholders asks for nothing"
    return pl.concat(pl.read_parquet(part_path(settings.layout, chunk.digest)) for chunk in plan.chunks)


def failed(parts: pl.DataFrame) -> list[str]:
    """The prompts of the rows that failed; all of one kind."""
    rows = parts.explode("error_kind") if isinstance(parts.schema["error_kind"], pl.List) else parts
    rows = rows.drop_nulls("error_kind")
    assert set(rows["error_kind"]) <= {"placeholder_image"}
    return rows["prompt"].to_list()


def same_picture(server: ModelServer, match: str = "alike") -> None:
    server.recover()
    server.fail(match, "same_image", forever=True)


@pytest.mark.parametrize("chunk_rows", [1, 2, 10])
def test_the_same_bytes_for_three_prompts_fail_those_rows_in_whatever_chunks_they_are(
    chunk_rows: int, tmp_path: Path, model_server: ModelServer
) -> None:
    same_picture(model_server)
    prompts = [ALIKE[0], "good 0", ALIKE[1], "good 1", ALIKE[2]]
    parts = parts_of(tmp_path, prompts, model_server, chunk_rows=chunk_rows)
    assert failed(parts) == ALIKE
    rows = parts.filter(pl.col("prompt").is_in(ALIKE))
    assert set(rows["status"]) == {"failed"}
    assert set(rows["error_message"]) == {"the same picture came for 3 or more different prompts"}
    assert rows["image"].null_count() == 3
    assert parts["image"].null_count() == 3
    model_server.reset()
    model_server.recover()
    parts = parts_of(tmp_path, prompts, model_server, chunk_rows=chunk_rows)
    assert sorted(model_server.prompts) == ALIKE, "these alone are asked for again"
    assert (failed(parts), parts["image"].n_unique()) == ([], 5)
    assert parts["attempts"].to_list() == [2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    "prompts", [ALIKE[:2], [*ALIKE[:2], *ALIKE[:2]], ["alike"] * 5], ids=["two", "two, twice", "equal"]
)
def test_the_same_bytes_for_one_or_two_prompts_are_no_sign(
    prompts: list[str], tmp_path: Path, model_server: ModelServer
) -> None:
    same_picture(model_server)
    assert failed(parts_of(tmp_path, [*prompts, "good"], model_server)) == []


@pytest.mark.parametrize("task", ["imagetask.tasks:ImageGeneration", "tests.custom_tasks:Grouped"])
def test_of_several_generations_those_with_the_same_bytes_fail_and_the_others_stay(
    task: str, tmp_path: Path, model_server: ModelServer
) -> None:
    model_server.fail("alike", "same_image")
    parts = parts_of(tmp_path, [*ALIKE, "good"], model_server, task=task, num_generations=2)
    assert sorted(failed(parts)) == ALIKE
    images = parts.explode("image") if isinstance(parts.schema["image"], pl.List) else parts
    assert (images.height, images["image"].null_count()) == (8, 3)


@pytest.mark.prefect_server
@pytest.mark.usefixtures("prefect_server")
def test_rows_of_earlier_runs_whose_parts_stand_fail_with_the_third_and_are_made_when_the_backend_is_well(
    tmp_path: Path, model_server: ModelServer
) -> None:
    out, source = tmp_path / "out", tmp_path / "rows.csv"
    asked: dict[str, Any] = {"source": str(source), "out": str(out), "model": "openai:m", "chunk_rows": 3}
    asked |= {"base_url": model_server.openai_url, "return_state": True}
    same_picture(model_server)
    first = [ALIKE[0], ALIKE[1], "good 0"]
    write(source, first)
    assert generate_images(**asked).name == "Completed"

    write(source, [*first, "good 1", ALIKE[2], "good 2"])
    model_server.reset()
    state = generate_images(**asked)
    assert sorted(model_server.prompts) == [ALIKE[2], "good 1", "good 2"], "the first chunk stands"
    counts = state.result()
    assert (state.name, counts["failed"]) == ("Completed with failures", {"placeholder_image": 3})
    assert (counts["done"], counts["failed_rows"]) == (3, 3)
    assert "| failed: `placeholder_image` | 3 |" in Layout(out).card.read_text()
    assert sorted(ImageDataset(out).failures()["prompt"]) == ALIKE

    model_server.reset()
    assert retry_failed(str(out))["failed"] == {"placeholder_image": 3}
    assert sorted(model_server.prompts) == ALIKE

    model_server.recover()
    model_server.reset()
    counts = generate_images(**{**asked, "return_state": False})
    assert (counts["done"], counts["failed"], counts["reused"]) == (6, {}, 3)
    assert sorted(model_server.prompts) == ALIKE
    rows = ImageDataset(out).scan().collect()
    assert rows["attempts"].to_list() == [3, 3, 1, 1, 3, 1]
    assert rows["image"].struct.field("bytes").n_unique() == 6


def test_pictures_that_come_for_one_prompt_after_another_slow_the_calls_down(
    tmp_path: Path, model_server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    model_server.latency = 0.05
    same_picture(model_server)
    model = load_model("openai:m", base_url=model_server.openai_url, api_key="k")
    pace = Pace(64)
    with ManagedModel(model, store=GenerationStore(tmp_path / "store"), pace=pace) as managed:
        managed.generate_outputs([f"alike {number}" for number in range(60)])
    assert len(model_server.calls) == 60
    assert model_server.max_in_flight < 32, "64 are allowed, and would be reached"
    assert pace.limit < 8
    assert "the same picture came for several prompts" in caplog.text
