"""What is asked of each row: prompts by a template, parameters from columns, and ids of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imagetask import GenerationStore, ImageDataset, ManagedModel, load_model
from imagetask.chunks import run_chunk
from imagetask.dataset import build_dataset
from imagetask.errors import SourceError, UsageError
from imagetask.plan import first_rows, make_plan, open_source
from imagetask.settings import RunSettings
from imagetask.snapshot import read_rows
from tests.model_server import ModelServer
from tests.small_datasets import make_dataset

ROWS = pl.DataFrame(
    {
        "style": ["oil", "ink", None, "chalk", "oil", "oil", "pastel"],
        "subject": ["a cat", "a {dog}", "a fox", "two owls", "a cat", "a cat", "a hen"],
        "seed": [7, None, 3, 4, 7, 8, 2**31 - 1],
        "width": ["64", "", "64", "wide", "48", None, "96"],
        "height": [64, None, 64, 48, 48, None, 48],
        "negative_prompt": ["blur", "", None, "x", "blur", None, None],
        "steps": [4, 8, 4, 4, 4, None, 12],
        "quality": ["low", None, "low", "low", "high", "low", "low"],
    }
)
OPTIONS: dict[str, Any] = {
    "prompt": "{{one}} {style} painting of {subject}",
    "param_column": {"num_inference_steps": "steps", "quality": "quality"},
    "width": 32,
    "height": 32,
    "num_inference_steps": 2,
    "num_generations": 2,
}


def generated(out: Path, rows: pl.DataFrame, server: ModelServer, model: str, **options: Any) -> ImageDataset:
    """The rows, answered by a real server, as the flow does it."""
    source = out.with_suffix(".parquet")
    rows.write_parquet(source)
    name, url = ("openai:m", server.openai_url) if model == "openai" else (model, server.url)
    settings = RunSettings(source=str(source), out=out, model=[name], **options)
    settings.layout.make()
    made = load_model(name, base_url=url, generation_kwargs=settings.generation_kwargs())
    store = GenerationStore(settings.store_url)
    with ManagedModel(made, store=store, seed=settings.seed) as managed:
        manifests = [run_chunk(settings, chunk, managed) for chunk in make_plan(settings, [made]).chunks]
    return build_dataset(settings.layout, manifests, store, {"model": settings.model})


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says was asked, with the sizes as OpenAI's wire has them."""
    parameters = json.loads(row["parameters"])
    if "width" in parameters:
        parameters["size"] = f"{parameters.pop('width')}x{parameters.pop('height')}"
    return {"prompt": row["asked_prompt"], "seed": row["seed"], **parameters}


def asked(body: dict[str, Any]) -> dict[str, Any]:
    """What a server was asked on either wire, flat."""
    flat = {"prompt": body.get("inputs"), **body, **body.get("parameters", {})}
    if "width" in flat:
        flat["size"] = f"{flat.pop('width')}x{flat.pop('height')}"
    return {name: value for name, value in flat.items() if name not in ("inputs", "parameters", "model", "n")}


@pytest.mark.parametrize("model", ["openai", "inference-endpoints"])
def test_what_the_server_was_asked_is_what_each_row_says(tmp_path: Path, model_server: ModelServer, model: str) -> None:
    dataset = generated(tmp_path / "out", ROWS, model_server, model, **OPTIONS)
    rows = dataset.scan().drop("image").collect().to_dicts()
    good = [row for row in rows if row["status"] == "done"]
    received = [asked(call.body) for call in model_server.calls]
    bodies = {(body["prompt"], body["seed"], body["size"]): body for body in received}
    assert len(good) == 2 * 5 == len(model_server.calls)
    for row in good:
        said = told(row)
        assert bodies[said["prompt"], said["seed"], said["size"]] == said
        assert row["asked_prompt"] == f"{{one}} {row['style']} painting of {row['subject']}" == row["prompt"]

    first = [row for row in good if row["generation"] == 0]
    assert [row["seed"] for row in first if row["subject"] != "a {dog}"] == [7, 7, 8, 2**31 - 1]
    assert [row["asked_size"] for row in first] == ["64x64", "32x32", "48x48", "32x32", "96x48"]
    steps = [json.loads(row["parameters"])["num_inference_steps"] for row in first]
    assert steps == [4, 8, 4, 2, 12], "a null leaves the run's own"
    assert [json.loads(row["parameters"]).get("negative_prompt") for row in first] == ["blur", "", "blur", None, None]
    assert len({(row["subject"], row["seed"], row["generation"]) for row in good}) == 10 - 1  # one row equals another


def test_cells_that_are_no_parameters_fail_their_row_alone(tmp_path: Path, model_server: ModelServer) -> None:
    dataset = generated(tmp_path / "out", ROWS, model_server, "openai", **OPTIONS)
    failed = dataset.failures().filter(pl.col("generation") == 0)
    assert failed["error_kind"].to_list() == ["invalid_input", "invalid_input"]
    assert failed["error_message"].to_list() == [
        "the prompt is null",
        "the column 'width' holds 'wide' as width: expected a whole number of at least 1 (px)",
    ]


def test_a_column_of_seeds_stands_in_the_dataset_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "out", [{"prompt": "a", "seed": 5}, {"prompt": "b", "seed": None}])
    seeds = dataset.scan().select("seed").collect()["seed"].to_list()
    assert seeds[0] == 5
    assert seeds[1] not in (5, None)


def test_rows_that_differ_in_a_parameter_are_different_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "guidance_scale": scale} for scale in (1.5, 4.0, 1.5)]
    ids = make_dataset(tmp_path / "out", rows).scan().select("row_id").collect()["row_id"].to_list()
    assert len(set(ids)) == 3
    assert ids[2] == f"{ids[0]}-1", "the second of two equal rows"


def test_ids_of_the_users_own_are_the_rows_ids(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "id": 12}, {"prompt": "a cat", "id": 7}]
    dataset = make_dataset(tmp_path / "out", rows, row_id_column="id")
    assert dataset.scan().select("row_id", "id").collect().rows() == [("12", 12), ("7", 7)]
    named = make_dataset(tmp_path / "named", [{"prompt": "a", "row_id": "first"}], row_id_column="row_id")
    assert named.scan().select("row_id").collect().item() == "first"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": None}], r"row 1 \(counted from 0\): 'id' is empty"),
        (
            [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "y"}, {"prompt": "c", "id": "x"}],
            r"row 2 \(counted from 0\): 'id' holds 'x' a second time",
        ),
        ([{"prompt": "a", "key": "x"}], "no column 'id'"),
    ],
)
def test_ids_that_are_none_are_refused(tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(SourceError, match=says):
        make_dataset(tmp_path / "out", rows, row_id_column="id")


def test_preview_has_the_prompts_and_the_ids_of_the_run(tmp_path: Path) -> None:
    ROWS.with_row_index("id").write_parquet(tmp_path / "rows.parquet")
    settings = RunSettings.checked(
        source=str(tmp_path / "rows.parquet"), out=tmp_path / "out", row_id_column="id", prompt="{subject}!"
    )
    settings.layout.make()
    frame, marks, total = first_rows(settings, 3)
    make_plan(settings, [load_model("placeholder")])
    rows, of_plan = read_rows(settings.layout, 0, 3)
    assert (total, frame["prompt"].to_list()) == (7, ["a cat!", "a {dog}!", "a fox!"])
    assert marks.equals(of_plan)
    assert rows.equals(frame)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "{colour}"}, "no column 'colour'"),
        ({"prompt": "a $style painting"}, "names no column of .*: every row would ask for the same; write.*{subject}"),
        ({"prompt_column": "subject", "row_id_column": "titel"}, "did you mean 'title'.*--row-id-column title"),
        ({"prompt": "{tags}"}, "no text or numbers in 'tags'"),
        ({"prompt": "{subject}", "task": "tests.custom_tasks:Postcard"}, "reads no column 'prompt'"),
        ({"prompt": "{title}", "rename": {"subject": "prompt"}}, "has a column 'prompt'"),
        ({"prompt_column": "subject", "param_column": {"size": "sizes"}}, "no column 'sizes'"),
        ({"prompt": "{subject}", "prompt_column": "subject"}, "give one of the two"),
        ({"prompt": "{subject"}, "expected columns in braces"),
        ({"param_column": {"prompt": "subject"}}, "--prompt-column"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_told_before_anything_is(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    pl.DataFrame({"subject": ["a"], "title": ["b"], "style": ["c"], "tags": [["d"]]}).write_parquet(
        tmp_path / "p.parquet"
    )
    with pytest.raises(UsageError, match=says):
        open_source(RunSettings.checked(source=str(tmp_path / "p.parquet"), out=tmp_path / "out", **options))


def test_one_prompt_for_all_rows_is_taken_where_another_column_tells_them_apart(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "out", [{"seed": 1}, {"seed": 2}], prompt="a cat")
    assert dataset.scan().select("asked_prompt", "seed").collect().rows() == [("a cat", 1), ("a cat", 2)]


def test_rows_that_cannot_be_asked_for_fail_alone(tmp_path: Path, model_server: ModelServer) -> None:
    rows = pl.DataFrame(
        {"prompt": ["a", "b", "c", "d"], "seed": ["1", str(2**63), "3", "4"], "width": [64, 64, 64, None]}
    ).with_columns(height=pl.Series([64, 64, None, None], dtype=pl.Int64))
    dataset = generated(tmp_path / "out", rows, model_server, "openai")
    failed = dataset.failures().select("prompt", "error_kind", "error_message").rows()
    assert [(prompt, kind) for prompt, kind, _ in failed] == [("b", "invalid_input"), ("c", "invalid_input")]
    assert "below 2**63" in failed[0][2]
    assert failed[1][2] == "the row has no height, and neither has the run: they go together"
    assert len(model_server.calls) == 2


def test_a_column_that_has_the_name_of_a_score_is_refused_with_the_option_that_mends_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--rename aspect=source_aspect"):
        make_dataset(tmp_path / "out", [{"prompt": "a", "aspect": "16:9"}])
