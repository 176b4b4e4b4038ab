"""The quality columns find what was planted and nothing else, look at each picture once, and remove no row."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image as PILImage
from PIL import ImageEnhance, ImageFilter

from imagetask import ImageDataset, ImageRequest, PlaceholderImageGeneration
from imagetask.errors import DatasetError, TaskError, UsageError
from imagetask.layout import Layout
from imagetask.quality import keep_expression, scan_scored, scored
from imagetask.quality.groups import alike_pictures, first_alike
from imagetask.quality.measures import measure
from imagetask.quality.table import GROUPS, MEASURES
from imagetask.shards import transform_shards
from imagetask.tasks.base import SCORES
from tests.small_datasets import make_dataset

Picture = PILImage.Image
MEASURED = ("blank", "blur", "phash", "aspect", "colourfulness")


def encoded(picture: Picture, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


WORDS = (
    *(
        "a",
        "the",
        "of",
        "in",
        "with",
        "under",
        "beside",
        "red",
        "old",
        "tiny",
        "glass",
        "wooden",
        "cat",
        "owl",
        "harbour",
    ),
    *("bicycle", "mountain", "teapot", "lighthouse", "robot", "orchard", "violin", "astronaut", "bridge", "midnight"),
)


def placeholders(count: int, side: int = 96) -> list[bytes]:
    """Different pictures that share their layout."""
    random = np.random.default_rng(5)
    prompts = (" ".join(random.choice(WORDS, random.integers(2, 16))) for _ in range(count))
    asked = [ImageRequest(prompt, width=side, height=side, seed=n) for n, prompt in enumerate(prompts)]
    made = PlaceholderImageGeneration().generate(asked)
    return [image.data for image in made if not isinstance(image, Exception)]


def synthetic(count: int) -> list[bytes]:
    """Different pictures of another kind: soft clouds of colour."""
    random = np.random.default_rng(7)
    clouds = (random.integers(0, 256, (6, 6, 3), np.uint8) for _ in range(count))
    return [encoded(PILImage.fromarray(cloud).resize((96, 96), PILImage.Resampling.BICUBIC)) for cloud in clouds]


def measured(pictures: list[bytes]) -> pl.DataFrame:
    with ThreadPoolExecutor() as threads:
        return pl.DataFrame([asdict(one[0]) for one in threads.map(measure, pictures) if one is not None])


def dataset_of(out: Path, pictures: list[bytes | None]) -> Layout:
    """A dataset whose column `image` holds these pictures, made by a task of its own."""
    rows = [{"prompt": f"row {n}", "given": data} for n, data in enumerate(pictures)]
    make_dataset(out, rows, task="tests.custom_tasks:Given")
    return Layout(out)


def planted() -> dict[str, bytes]:
    """A few pictures, and what became of the first."""
    first, *others = placeholders(6, 256)
    picture = PILImage.open(io.BytesIO(first)).convert("RGB")
    half = picture.resize((128, 128))
    return {
        "first": first,
        **{f"other {n}": data for n, data in enumerate(others)},
        "black": encoded(PILImage.new("RGB", (64, 64))),
        "white": encoded(PILImage.new("RGB", (64, 48), "white"), "JPEG"),
        "same": first,
        "encoded anew": encoded(picture, "JPEG", quality=60),
        "half": encoded(half, "WEBP", quality=80),
        "brighter": encoded(ImageEnhance.Brightness(picture).enhance(1.1)),
        "cropped": encoded(picture.crop((5, 5, 251, 251)), "JPEG", quality=90),
        "narrower": encoded(picture.crop((0, 0, 251, 256)), "JPEG", quality=90),
        "blurred": encoded(PILImage.open(io.BytesIO(others[0])).convert("RGB").filter(ImageFilter.GaussianBlur(6))),
    }


def test_planted_pictures_are_found_and_no_others(tmp_path: Path) -> None:
    cases = planted()
    layout = dataset_of(tmp_path / "out", [*cases.values(), None])
    assert scored(layout)
    rows = dict(zip([*cases, "none"], scan_scored(layout).drop("image").collect().to_dicts(), strict=True))
    assert [name for name, row in rows.items() if row["blank"]] == ["black", "white"]
    alike = {name: row["near_duplicate_group"] for name, row in rows.items() if row["near_duplicate_group"] is not None}
    assert alike.pop("first") == 0
    copies = {"same", "encoded anew", "half", "brighter", "cropped", "narrower"}
    assert {name for name, group in alike.items() if group == 0} == copies
    assert {name for name, row in rows.items() if row["same_bytes_group"] == 0} == {"first", "same"}
    assert {name for name, row in rows.items() if row["duplicate"]} == {*copies, "blurred"}
    sharp = [row["blur"] for name, row in rows.items() if name.startswith(("first", "other"))]
    assert rows["blurred"]["blur"] < min(sharp) / 20
    assert rows["black"]["colourfulness"] == 0 < min(rows[f"other {n}"]["colourfulness"] for n in range(5))
    assert rows["white"]["aspect"] == pytest.approx(4 / 3)
    assert [rows["none"][name] for name in (*MEASURED, *GROUPS)] == [None] * 8


@pytest.mark.parametrize("made", [placeholders, synthetic], ids=["placeholders", "clouds"])
def test_a_thousand_different_pictures_are_in_no_group(made: Callable[[int], list[bytes]]) -> None:
    pictures = made(1000)
    assert len(set(pictures)) == 1000
    assert alike_pictures(measured(pictures)).to_list() == list(range(1000))


def test_groups_lead_from_one_to_the_next_and_crowds_stay_together() -> None:
    random = np.random.default_rng(3)
    chain = random.integers(0, 2**64, (1, 4), np.uint64).repeat(4, axis=0)
    for step in range(1, 4):
        chain[step:, 1] ^= np.uint64((1 << 20) - 1 << 20 * (step - 1))
    crowd = np.zeros((3000, 4), np.uint64)
    crowd[:, 3] = random.integers(0, 1 << 12, 3000, np.uint64)
    others = random.integers(0, 2**64, (500, 4), np.uint64)
    hashes = np.concatenate([others, chain, crowd])[:, None]
    first = first_alike(hashes, np.full((len(hashes), 1, 48), 100, np.uint8))
    assert (first[:500] == np.arange(500)).all()
    assert set(first[500:504]) == {500}
    assert set(first[504:]) == {504}


def test_the_same_scene_in_other_colours_is_not_alike() -> None:
    hashes = np.zeros((4, 1, 4), np.uint64)
    colours = np.array([[100, 50, 50], [50, 100, 50], [110, 55, 55], [50, 100, 50]], np.uint8).repeat(16, axis=0)
    assert first_alike(hashes, colours.reshape(4, 1, 48)).tolist() == [0, 1, 0, 1]


def test_each_picture_is_decoded_once_also_when_the_dataset_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(data: bytes) -> Any:
        decoded.append(len(data))
        return measure(data)

    monkeypatch.setattr("imagetask.quality.scoring.measure", counted)
    out = tmp_path / "out"
    rows: list[dict[str, Any]] = [{"prompt": f"p {n}"} for n in range(30)]
    make_dataset(out, rows[:20], chunk_rows=8)
    assert scored(Layout(out))
    before = scan_scored(Layout(out)).select("row_id", *MEASURED).collect()
    assert not scored(Layout(out)), "nothing has changed"
    assert len(decoded) == 20
    make_dataset(out, rows, chunk_rows=8)
    with pytest.raises(DatasetError, match="not scored as they are now: imagetask score"):
        scan_scored(Layout(out))
    assert scored(Layout(out))
    assert len(decoded) == 30
    assert scan_scored(Layout(out)).select("row_id", *MEASURED).head(20).collect().equals(before)


def test_rows_and_scores_stay_side_by_side_over_shards_and_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.cutting.SHARD_ROWS", 7)
    monkeypatch.setattr("imagetask.parts.ROW_GROUP_ROWS", 3)
    rows = [{"prompt": None if n % 5 == 3 else f"p {n}"} for n in range(23)]
    make_dataset(tmp_path / "out", rows, chunk_rows=7)
    layout = Layout(tmp_path / "out")
    scored(layout)
    for row in scan_scored(layout).collect().to_dicts():
        data = row["image"] and row["image"]["bytes"]
        one = measure(data) if data else None
        assert row["phash"] == (one and one[0].phash)
    alone = pl.read_parquet(layout.quality / "*.parquet")
    both = scan_scored(layout).select("row_id", "image_sha256")
    assert alone.select("row_id", "image_sha256").equals(both.collect()), "the table can be read alone"
    assert f"PROJECT 2/{len(pl.read_parquet_schema(layout.data / '*.parquet'))} COLUMNS" in both.explain()


def test_several_pictures_in_a_row_have_lists_of_scores(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a"}, {"prompt": None}, {"prompt": "b"}]
    make_dataset(tmp_path / "out", rows, task="tests.custom_tasks:Grouped", num_generations=2)
    layout = Layout(tmp_path / "out")
    scored(layout)
    found = scan_scored(layout).select("image_sha256", *MEASURED, "duplicate").collect()
    assert found["blank"].to_list() == [[False, False], [None, None], [False, False]]
    assert found["phash"].list.len().to_list() == [2, 2, 2]


SCORERS = """
def length(pictures): return {"pixels": [p.width * p.height for p in pictures], "mode": [p.mode for p in pictures]}
def short(pictures): return {"pixels": [1]}
def raising(pictures): raise RuntimeError("no model")
def clashing(pictures): return {"status": [1.0] * len(pictures)}
def nothing(pictures): return [1]
"""

OTHER_SCORER = """
def other(pictures):
    with open({asked!r}, "a") as file:
        file.write("x" * len(pictures))
    return {{"other": [0.5] * len(pictures)}}
"""


def test_a_source_may_have_no_column_that_the_scores_have() -> None:
    assert {*SCORES} == {*MEASURES, *GROUPS}


@pytest.fixture
def scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_scorers.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)
    return tmp_path / "my_scorers.py"


def test_a_scorer_of_ones_own_adds_columns_and_is_remembered(tmp_path: Path, scorers: Path) -> None:
    out = tmp_path / "out"
    rows: list[dict[str, Any]] = [{"prompt": "a"}, {"prompt": None}, {"prompt": "b"}]
    make_dataset(out, rows)
    dataset = ImageDataset(out)
    dataset.score("my_scorers:length")
    assert dataset.score().select("pixels", "mode").collect().rows() == [(256.0, "RGB"), (None, None), (256.0, "RGB")]
    make_dataset(out, [*rows, {"prompt": "c"}])
    assert ImageDataset(out).score().select("pixels").collect()["pixels"].to_list() == [256, None, 256, 256]


def test_a_further_scorer_and_one_that_changed_leave_the_others_alone(
    tmp_path: Path, scorers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked.txt"
    (tmp_path / "other_scorers.py").write_text(OTHER_SCORER.format(asked=str(asked)))
    make_dataset(tmp_path / "out", [{"prompt": "a"}, {"prompt": "b"}])
    dataset = ImageDataset(tmp_path / "out")
    dataset.score("other_scorers:other")
    dataset.score("my_scorers:length")
    scorers.write_text(SCORERS.replace("p.width * p.height", "1"))
    monkeypatch.delitem(sys.modules, "my_scorers")
    importlib.invalidate_caches()
    assert dataset.score().select("other", "pixels", "mode").collect().rows() == [(0.5, 1.0, "RGB")] * 2
    assert asked.read_text() == "xx"


def test_what_a_scorer_gave_stays_where_it_cannot_be_had_any_more(
    tmp_path: Path, scorers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "out", list[str]()
    make_dataset(out, [{"prompt": "a"}])
    scored(Layout(out), ["my_scorers:length"])
    scorers.unlink()
    monkeypatch.delitem(sys.modules, "my_scorers")
    make_dataset(out, [{"prompt": "a"}, {"prompt": "b"}])
    scored(Layout(out), say=said.append)
    assert scan_scored(Layout(out)).select("pixels").collect()["pixels"].to_list() == [256, None]
    assert "what it gave stays, new pictures have null" in said[0]
    scored(Layout(out), say=said.append)
    assert len(said) == 1, "nothing was to be scored"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("short", "gave no 2 values in the column 'pixels'"),
        ("raising", "raised RuntimeError: no model"),
        ("clashing", "gave the column 'status', which there is already"),
        ("nothing", "gave list: expected a dict of columns"),
    ],
)
def test_a_scorer_that_breaks_its_contract_is_named_and_nothing_changes(
    tmp_path: Path, scorers: Path, name: str, says: str
) -> None:
    make_dataset(tmp_path / "out", [{"prompt": "a"}, {"prompt": "b"}])
    with pytest.raises(TaskError, match=f"the scorer my_scorers:{name} {says}"):
        scored(Layout(tmp_path / "out"), [f"my_scorers:{name}"])
    assert not any((tmp_path / "out" / "quality").glob("*"))


def test_a_column_of_the_source_that_has_a_scorers_name_is_told(tmp_path: Path, scorers: Path) -> None:
    make_dataset(tmp_path / "out", [{"prompt": "a"}])
    scored(Layout(tmp_path / "out"), ["my_scorers:length"])
    make_dataset(tmp_path / "out", [{"prompt": "a", "pixels": 3}])
    with pytest.raises(
        DatasetError, match=r"has a column 'pixels', and so has the table of scores: .*--rename pixels=…"
    ):
        ImageDataset(tmp_path / "out").score()


@pytest.mark.parametrize("path", ["my_scorers", "no_such_module:score", "my_scorers:absent"])
def test_a_scorer_that_is_none_is_refused(tmp_path: Path, scorers: Path, path: str) -> None:
    make_dataset(tmp_path / "out", [{"prompt": "a"}])
    with pytest.raises(UsageError, match="scorer"):
        scored(Layout(tmp_path / "out"), [path])


def test_the_example_of_a_scorer_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    make_dataset(tmp_path / "out", [{"prompt": "a"}])
    [brightness] = ImageDataset(tmp_path / "out").score("brightness_scorer:brightness").select("brightness").collect()
    assert 0 < brightness[0] < 255


SCHEMA = pl.Schema({"status": pl.String, "blur": pl.Float64, "duplicate": pl.Boolean})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blurr > 100", "names 'blurr', which is no column; did you mean 'blur'"),
        ("zzzzzz", "there are status, blur, duplicate"),
        ("blur >", "is no SQL expression"),
        ("blur + 1", "gives Float64: expected what is true or false"),
        ("status > ", "is no SQL expression"),
        ("", "is no SQL expression"),
    ],
)
def test_what_is_no_condition_is_told(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        keep_expression(text, SCHEMA)


def test_a_condition_selects_rows() -> None:
    frame = pl.DataFrame({"status": ["done", "done", "failed"], "blur": [50.0, 500.0, None], "duplicate": [False] * 3})
    kept = frame.filter(keep_expression("status = 'done' AND blur > 100 AND NOT duplicate", frame.schema))
    assert kept["blur"].to_list() == [500.0]


def test_columns_that_become_pictures_later_leave_the_scores_alone(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", [{"prompt": "a", "other": placeholders(1)[0]}])
    transform_shards(Layout(tmp_path / "out"), ["other"])
    assert scored(Layout(tmp_path / "out"))


def test_no_code_is_run_that_only_a_table_from_elsewhere_names(tmp_path: Path, scorers: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    make_dataset(out, [{"prompt": "a"}])
    scored(Layout(out), ["my_scorers:length"])
    (Layout(out).state / "scorers.json").unlink()
    scorers.write_text("raise SystemExit('this was run')")
    make_dataset(out, [{"prompt": "a"}, {"prompt": "b"}])
    scored(Layout(out), say=said.append)
    assert "was never named for this folder: it is not run" in said[0]
    assert scan_scored(Layout(out)).select("pixels").collect()["pixels"].to_list() == [256, None]
