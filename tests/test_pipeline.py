"""From a table to a dataset, through Prefect: every row in its place, every image as the server sent it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest

from imagetask import ImageDataset, TaskError
from tests.conftest import Generate
from tests.model_server import ModelServer, RemoteModelServer, start_model_server

pytestmark = pytest.mark.prefect_server


@pytest.fixture
def server_apart() -> Iterator[RemoteModelServer]:
    """A model server in a process of its own, for many calls."""
    with start_model_server() as server:
        yield server


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows).write_csv(path)
    return path


def loaded(folder: Path, cache: Path) -> datasets.Dataset:
    """The dataset as a user of `datasets` gets it."""
    return datasets.load_dataset(str(folder), cache_dir=str(cache), split="train")


def hashes(folder: Path, column: str = "image") -> list[str | None]:
    """SHA-256 of each row's image bytes, None where there is none."""
    cells = ImageDataset(folder).scan().select(column).collect()[column]
    return [None if cell is None else hashlib.sha256(cell["bytes"]).hexdigest() for cell in cells.to_list()]


@pytest.mark.parametrize("backend", ["openai", "inference-endpoints"])
def test_all_real_prompts_become_a_dataset_with_the_bytes_that_the_server_sent(
    backend: str, parti_prompts: Path, tmp_path: Path, server_apart: RemoteModelServer, generate: Generate
) -> None:
    out = tmp_path / "out"
    counts = generate(
        parti_prompts,
        out,
        model=f"{backend}:studio/painter-1",
        base_url=server_apart.openai_url if backend == "openai" else server_apart.model_url("painter-1"),
        prompt_column="Prompt",
    )
    source = pl.read_csv(parti_prompts, separator="\t", quote_char=None)
    assert source.height == counts["done"] == counts["rows"] == 1632
    assert (counts["failed"], counts["reused"]) == ({}, 0)
    calls = {call.sha256: call for call in server_apart.calls}
    assert len(calls) == server_apart.counts().calls == server_apart.counts().delivered == 1632

    dataset = loaded(out, tmp_path / "cache")
    assert dataset.select_columns(source.columns).to_polars().equals(source), "every row in its place"
    assert isinstance(dataset.features["image"], datasets.Image)
    encoded = dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
    shas = [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in encoded]
    assert len(set(shas)) == 1632
    assert [calls[sha].prompt for sha in shas] == source["Prompt"].to_list(), "the picture of its own prompt"
    assert {row["image"].size for row in dataset.select_columns("image")} == {(64, 64)}
    assert set(dataset["model_name"]) == {"studio/painter-1"}
    assert set(dataset["status"]) == {"done"}


def test_three_generations_are_three_rows_with_three_images_also_for_equal_prompts(
    tmp_path: Path, model_server: ModelServer, generate: Generate
) -> None:
    rows = [{"id": "a", "prompt": "a cat"}, {"id": "b", "prompt": "a cat"}, {"id": "c", "prompt": "a dog"}]
    source = write_rows(tmp_path / "prompts.csv", rows)

    generate(
        source, tmp_path / "out", model="openai:m", base_url=model_server.openai_url, num_generations=3, chunk_rows=2
    )

    frame = ImageDataset(tmp_path / "out").scan().select("id", "prompt", "generation", "seed", "row_id").collect()
    assert frame["id"].to_list() == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert frame["generation"].to_list() == [0, 1, 2] * 3
    assert frame["seed"].n_unique() == 9
    assert frame["row_id"].n_unique() == 3
    shas = hashes(tmp_path / "out")
    assert len(set(shas)) == model_server.counts().calls == 9
    prompts = {call.sha256: call.prompt for call in model_server.calls}
    assert [prompts[sha] for sha in shas] == frame["prompt"].to_list()


def test_two_models_each_answer_every_row_with_an_image_of_their_own(
    tmp_path: Path, model_server: ModelServer, generate: Generate
) -> None:
    rows = [
        {"prompt": "a cat", "note": "first"},
        {"prompt": "a cat", "note": "second"},
        {"prompt": "a dog", "note": ""},
    ]
    source = write_rows(tmp_path / "prompts.csv", rows)
    out = tmp_path / "out"

    counts = generate(
        source, out, model=["openai:m", "inference-endpoints:n"], base_url=model_server.openai_url, chunk_rows=1
    )

    frame = ImageDataset(out).scan().select("prompt", "note", "model_name").collect()
    assert frame["model_name"].to_list() == ["m"] * 3 + ["n"] * 3
    assert frame["prompt"].to_list() == ["a cat", "a cat", "a dog"] * 2
    assert counts["done"] == counts["rows"] == model_server.counts().calls == 6
    calls = {call.sha256: call for call in model_server.calls}
    shas = hashes(out)
    assert len(set(shas)) == 6
    assert [calls[sha].wire for sha in shas] == ["openai"] * 3 + ["huggingface"] * 3
    assert [calls[sha].prompt for sha in shas] == frame["prompt"].to_list()


def test_a_custom_task_with_its_own_process_runs_in_the_pipeline(
    tmp_path: Path, model_server: ModelServer, generate: Generate
) -> None:
    rows = [{"n": n, "subject": f"animal {n}", "place": place} for n, place in enumerate(["Bern", "Sion", "Zug"])]
    source = write_rows(tmp_path / "prompts.csv", rows)
    model_server.fail("Sion", "refused", forever=True)

    counts = generate(
        source,
        tmp_path / "out",
        model="inference-endpoints:m",
        base_url=model_server.model_url("m"),
        task="tests.custom_tasks:Postcard",
        chunk_rows=2,
    )

    assert (counts["done"], counts["failed"]) == (2, {"refused": 1})
    dataset = loaded(tmp_path / "out", tmp_path / "cache")
    assert dataset["n"][:] == [0, 1, 2]
    assert dataset["title"][:] == ["animal 0 – 64 px", None, "animal 2 – 64 px"]
    assert dataset["letters"][:] == [4, 4, 3]
    assert dataset["status"][:] == ["done", "failed", "done"]
    assert [image is None for image in dataset["image"]] == [False, True, False]
    prompts = {call.sha256: call.prompt for call in model_server.calls}
    assert [prompts[sha] for sha in hashes(tmp_path / "out") if sha] == [
        "a postcard of animal 0 in Bern",
        "a postcard of animal 2 in Zug",
    ]


def test_pictures_that_a_task_made_are_picture_columns_of_the_dataset(
    tmp_path: Path, model_server: ModelServer, generate: Generate
) -> None:
    source = write_rows(tmp_path / "prompts.csv", [{"prompt": "a cat"}, {"prompt": "a dog"}, {"prompt": "a cow"}])
    model_server.fail("dog", "refused", forever=True)

    generate(
        source,
        tmp_path / "out",
        model="openai:m",
        base_url=model_server.openai_url,
        task="tests.custom_tasks:Variants",
        chunk_rows=1,
    )

    dataset = loaded(tmp_path / "out", tmp_path / "cache")
    pictures = {name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)}
    assert pictures == {"image", "thumbnail", "grey", "copy"}
    assert isinstance(dataset.features["halves"].feature, datasets.Image)
    assert all(dataset[1][name] is None for name in [*pictures, "halves"])
    for row in (dataset[0], dataset[2]):
        assert row["thumbnail"].size == (16, 16)
        assert row["grey"].mode == "L"
        assert [half.size for half in row["halves"]] == [(32, 64), (32, 64)]
    assert hashes(tmp_path / "out", "copy") == hashes(tmp_path / "out")
    assert set(filter(None, hashes(tmp_path / "out"))) == set(model_server.delivered)


def test_grouped_generations_are_lists_with_nulls_for_what_failed(
    tmp_path: Path, model_server: ModelServer, generate: Generate
) -> None:
    source = write_rows(tmp_path / "prompts.csv", [{"prompt": "a cat"}, {"prompt": "a dog"}, {"prompt": "a cow"}])
    model_server.fail("dog", "ok", "refused")
    model_server.fail("cow", "refused", forever=True)
    out = tmp_path / "out"

    counts = generate(
        source,
        out,
        model="openai:m",
        base_url=model_server.openai_url,
        task="tests.custom_tasks:Grouped",
        num_generations=3,
    )

    assert (counts["done"], counts["failed"], counts["failed_rows"]) == (5, {"refused": 4}, 2)
    dataset = loaded(out, tmp_path / "cache")
    assert dataset["status"][:] == ["done", "2 of 3", "failed"]
    assert isinstance(dataset.features["image"].feature, datasets.Image)
    images, kinds = dataset["image"][:], dataset["error_kind"][:]
    assert [len(row) for row in images] == [3, 3, 3]
    assert [[image is None for image in row] for row in images] == [[kind is not None for kind in row] for row in kinds]
    assert [sum(image is not None for image in row) for row in images] == [3, 2, 0]
    refused = {call.body["seed"] for call in model_server.calls if call.fault == "refused"}
    marked = zip(dataset["seed"][:], kinds, strict=True)
    assert {seed for row in marked for seed, kind in zip(*row, strict=True) if kind == "refused"} == refused
    assert all(f'"prompt": "{row["prompt"]}"' in row["raw_input"][0] for row in dataset)
    assert '"usage"' in dataset[0]["raw_output"][2]
    assert ImageDataset(out).failures()["prompt"].to_list() == ["a dog", "a cow"]


def test_a_process_that_breaks_the_contract_stops_the_run_and_keeps_what_came(
    tmp_path: Path, model_server: ModelServer, generate: Generate
) -> None:
    source = write_rows(tmp_path / "prompts.csv", [{"prompt": "a cat"}, {"prompt": "a dog"}])
    options: dict[str, Any] = {"model": "openai:m", "base_url": model_server.openai_url}

    with pytest.raises(TaskError, match="process of the task 'OneShort' yielded 1 rows for 2 rows"):
        generate(source, tmp_path / "out", task="tests.custom_tasks:OneShort", **options)
    assert model_server.counts().calls == 2, "and the chunk is not tried again: only the code can mend it"

    counts = generate(source, tmp_path / "out", **options)
    assert (counts["done"], counts["reused"]) == (2, 2)
    assert model_server.counts().calls == 2
