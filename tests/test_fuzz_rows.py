"""Rows of any content, from the source through plan and parts into the dataset; settings and requests of any value."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from imagetask.errors import GenerationError, SourceError, UsageError
from imagetask.images import Image
from imagetask.layout import Layout
from imagetask.models.base import ImageGenerationModel, ImageRequest
from imagetask.models.managed import ManagedModel
from imagetask.models.placeholder import PlaceholderImageGeneration
from imagetask.settings import RunSettings
from imagetask.snapshot import read_rows, rows_digest, write_snapshot
from imagetask.sources import read_errors, scan_source
from imagetask.store import generation_key
from tests.fuzzing import examples, json_values, sentence, whole_text
from tests.small_datasets import make_dataset

OURS = ["status", "image", "model_name", "row_id", "attempts", "latency", "generation", "error_kind"]


def snapshot(frame: pl.DataFrame, inputs: list[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What a plan keeps of the rows, and what tells them apart."""
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder) / "out")
        layout.make()
        with read_errors("the frame"):
            count = write_snapshot(scan_source(frame), inputs, layout, "the frame")
        assert count == frame.height
        rows, marks = read_rows(layout, 0, count)
        return rows.clone(), marks.clone()


@examples(60)
@given(dataframes(min_cols=1, max_cols=4, min_size=1, max_size=5, allow_null=True))
def test_frame_of_any_types_is_kept_in_the_plan_as_it_is_or_refused(frame: pl.DataFrame) -> None:
    try:
        rows, marks = snapshot(frame, frame.columns[:2])
    except SourceError as error:
        sentence(error)
        return
    assert rows.columns == frame.columns
    for column in frame.columns:
        assert repr(rows[column].to_list()) == repr(frame[column].to_list())
    assert marks["row_id"].n_unique() == frame.height


@examples(150)
@given(
    dataframes(min_cols=1, max_cols=2, min_size=2, max_size=2, allow_null=True, excluded_dtypes=[pl.Int128, pl.UInt128])
)
def test_rows_have_equal_digests_only_where_they_are_equal(frame: pl.DataFrame) -> None:
    ordinals = pl.Series([0])
    one, other = (rows_digest(frame[number], ordinals) for number in (0, 1))
    if one == other:
        assert repr(frame.row(0)) == repr(frame.row(1))
    assert one == rows_digest(frame[0].clone(), ordinals)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([None], [float("nan")]),
        ([float("inf")], [float("nan")]),
        ([1], [1.0]),
        (["2026-01-01"], pl.Series(["2026-01-01"]).str.to_date()),
        ([b"x"], ["eA=="]),
    ],
)
def test_rows_that_differ_in_type_or_in_a_number_that_json_lacks_have_other_digests(one: Any, other: Any) -> None:
    nan = pl.Float64 if one == [None] else None
    frames = [pl.DataFrame({"a": pl.Series(one, dtype=nan)}), pl.DataFrame({"a": pl.Series(other)})]
    first, second = (rows_digest(frame, pl.Series([0])) for frame in frames)
    assert first != second


@examples(12)
@given(st.lists(st.tuples(whole_text | st.none(), whole_text | st.none(), json_values), min_size=1, max_size=8))
def test_every_row_of_any_text_is_in_the_dataset_in_its_place(rows: list[tuple[str | None, str | None, Any]]) -> None:
    frame = pl.DataFrame(
        {
            "prompt": [prompt for prompt, _, _ in rows],
            "note": [note for _, note, _ in rows],
            "nested": [{"text": note, "list": [note or "", "x"]} for _, note, _ in rows],
            "json": [json.dumps(value) for _, _, value in rows],
        },
        schema_overrides={"prompt": pl.String, "note": pl.String},
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder) / "out", frame, chunk_rows=3)
        found = dataset.scan().drop("image").collect()
        assert found.select(frame.columns).to_dicts() == frame.to_dicts()
        assert found["row_id"].n_unique() == frame.height
        for number, (prompt, status) in enumerate(found.select("prompt", "status").rows()):
            asked = prompt is not None and bool(prompt.strip())
            assert status == ("done" if asked else "failed")
            assert (dataset.image(number) is not None) == asked


@pytest.mark.parametrize("column", OURS)
def test_column_named_like_one_of_ours_is_refused_with_the_option_that_mends_it(tmp_path: Path, column: str) -> None:
    rows = pl.DataFrame({"prompt": ["a cat"], column: ["theirs"]})
    with pytest.raises(SourceError, match=f"--rename {column}=source_{column}"):
        make_dataset(tmp_path / "out", rows)
    dataset = make_dataset(tmp_path / "out", rows, rename={column: f"source_{column}"})
    assert dataset.scan().select(f"source_{column}").collect().item() == "theirs"


def test_prompt_of_a_megabyte_and_one_with_nuls_get_their_images(tmp_path: Path) -> None:
    prompts = ["a cat " * 170_000, "\0", "a\0b", "\u202e" * 1000, "👩‍👩‍👧‍👦"]
    dataset = make_dataset(tmp_path / "out", [{"prompt": prompt} for prompt in prompts])
    found = dataset.scan().select("prompt", "status").collect()
    assert found["prompt"].to_list() == prompts
    assert found["status"].to_list() == ["done"] * len(prompts)


def test_a_million_equal_prompts_each_have_their_own_ordinal_and_id(tmp_path: Path) -> None:
    count = 1_000_000
    layout = Layout(tmp_path / "out")
    layout.make()
    frame = pl.LazyFrame({"prompt": ["a cat"]}).select(pl.col("prompt").repeat_by(count).explode())
    assert write_snapshot(frame, ["prompt"], layout, "the frame") == count
    rows, marks = read_rows(layout, count - 2, count)
    assert rows["prompt"].to_list() == ["a cat", "a cat"]
    assert marks["ordinal"].to_list() == [count - 2, count - 1]
    assert pl.scan_parquet(layout.ordinals).select(pl.col("row_id").n_unique()).collect().item() == count


_ODD = (
    json_values
    | st.sampled_from(["", "\0", "a\0b", "~nobody/x", "http://[", "s3://", "://", "\ud800", "openai:", ":", "x" * 5000])
    | st.sampled_from([float("nan"), float("inf"), -1, 10**400, b"x", object(), Path("\0")])
)


@examples(200)
@given(st.dictionaries(st.sampled_from([*RunSettings.model_fields, "unknown", "", "\0"]), _ODD, max_size=4))
def test_settings_of_any_value_are_taken_or_refused_in_a_sentence(fields: dict[str, Any]) -> None:
    given = {"source": "p.csv", "out": "out", **fields}
    try:
        settings = RunSettings.checked(**given)
    except UsageError as error:
        sentence(error)
        return
    assert RunSettings.checked(**settings.model_dump()) == settings


_requests = st.builds(
    ImageRequest,
    prompt=st.text(min_size=1, max_size=5).filter(lambda text: bool(text.strip())),
    negative_prompt=st.none() | st.text(max_size=3),
    width=st.sampled_from([None, 16, 32]),
    num_inference_steps=st.sampled_from([None, 1, 10]),
    extra=st.dictionaries(st.sampled_from(["a", "b"]), json_values.filter(lambda value: value is not None), max_size=2),
)


class Quick(ImageGenerationModel):
    """Has the same picture for every request."""

    _picture = PlaceholderImageGeneration().generate([ImageRequest("a cat", width=16, height=16)])[0]

    @property
    def model_name(self) -> str:
        return "quick"

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        return [self._picture for _ in requests]


@pytest.fixture(scope="module")
def quick() -> Iterator[ManagedModel]:
    with ManagedModel(Quick()) as managed:
        yield managed


@examples(60)
@given(_requests, _requests, st.integers(0, 1), st.integers(0, 1))
def test_requests_have_equal_keys_and_seeds_just_where_they_are_equal(
    quick: ManagedModel, one: ImageRequest, other: ImageRequest, first: int, second: int
) -> None:
    [[made], [also]] = quick.for_rows([first, second]).generate_outputs([one, other])
    said = [json.dumps([r.prompt, r.parameters(), n], sort_keys=True) for r, n in ((one, first), (other, second))]
    assert (made.key == also.key) == (said[0] == said[1])
    assert (made.seed == also.seed) == (said[0] == said[1])


@examples(150)
@given(st.dictionaries(st.text(max_size=5), json_values | st.text(max_size=20)))
def test_anything_that_is_json_has_a_key(identity: dict[str, Any]) -> None:
    key = generation_key(identity)
    assert len(key) == 32
    assert key == generation_key(dict(reversed(identity.items())))
