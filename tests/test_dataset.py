"""A finished folder, opened by `ImageDataset` and by `datasets`, and changed in place."""

from __future__ import annotations

import base64
import datetime
import io
import json
import re
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from imagetask import DatasetError, ImageDataset, ImageError, UsageError
from imagetask.columns import frame_to_hub_table
from tests.small_datasets import make_dataset

ROWS: list[dict[str, Any]] = [{"prompt": "a red cat"}, {"prompt": None}, {"prompt": "a blue boat"}]


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (24, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def text(colour: str) -> str:
    return base64.b64encode(picture(colour)).decode()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ImageDataset], Any]:
    """Opens a dataset's folder as a user does, with `datasets.load_dataset(DIR)`."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def opened(dataset: ImageDataset) -> Any:
        return datasets.load_dataset(str(dataset.folder), split="train", cache_dir=str(tmp_path / "cache"))

    return opened


@pytest.fixture(scope="module")
def three_rows(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Three rows in two chunks; the second one failed."""
    return make_dataset(tmp_path_factory.mktemp("three") / "out", ROWS, chunk_rows=2)


@pytest.fixture
def references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    """Five rows in three shards, with pictures as base64 text in the source's columns `reference` and `more`."""
    monkeypatch.setattr("imagetask.shards.SHARD_BYTES", 1)
    return make_dataset(tmp_path / "out", reference_rows(), chunk_rows=2)


def reference_rows() -> list[dict[str, Any]]:
    return [
        {"prompt": "a", "reference": text("red"), "more": [text("red")], "note": "no image"},
        {"prompt": "b", "reference": None, "more": None, "note": text("red")},
        {"prompt": "c", "reference": text("green"), "more": [], "note": text("red")},
        {"prompt": "d", "reference": text("blue"), "more": [text("red"), None], "note": text("red")},
        {"prompt": "e", "reference": text("white"), "more": [text("blue")], "note": "no image either"},
    ]


def snapshot(folder: Path) -> dict[str, bytes]:
    """What a reader of the dataset can see, and what else lies about, but for the store and the parts."""
    files = [
        *folder.glob("*.md"),
        *folder.glob("data/*"),
        *folder.glob("_imagetask/*.*"),
        *folder.glob("_imagetask/.*"),
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def test_folder_without_a_finished_dataset_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere holds no finished dataset"):
        ImageDataset(tmp_path / "nowhere")
    (tmp_path / "begun" / "_imagetask" / "parts").mkdir(parents=True)
    (tmp_path / "begun" / "data").mkdir()
    with pytest.raises(DatasetError, match="begun holds no finished dataset"):
        ImageDataset(tmp_path / "begun")


def test_lost_shard_is_an_error_and_not_fewer_rows(tmp_path: Path, references: ImageDataset) -> None:
    (references.folder / "data" / "train-00001.parquet").unlink()
    with pytest.raises(DatasetError, match=r"lacks data/train-00001\.parquet: run the same command again"):
        ImageDataset(references.folder)


def test_shards_without_their_record_open_all_the_same(tmp_path: Path, three_rows: ImageDataset) -> None:
    shutil.copytree(three_rows.folder / "data", tmp_path / "copy" / "data")
    copy = ImageDataset(tmp_path / "copy")
    assert copy.scan().collect().equals(three_rows.scan().collect())
    with pytest.raises(DatasetError, match="was not made by a run of its own: transform a frame of it"):
        copy.transform_columns_to_image("prompt")


def test_dataset_tells_its_rows_failures_and_image_columns(three_rows: ImageDataset) -> None:
    assert len(three_rows) == 3
    assert three_rows.image_columns == ["image"]
    assert repr(three_rows) == f"ImageDataset({str(three_rows.folder)!r}, rows=3, image_columns=['image'])"
    failures = three_rows.failures()
    assert failures.select("prompt", "status", "error_kind").rows() == [(None, "failed", "invalid_input")]
    assert "image" not in failures.columns
    assert three_rows.scan().select("prompt").collect()["prompt"].to_list() == ["a red cat", None, "a blue boat"]


def test_scan_reads_no_image_where_none_is_selected(tmp_path: Path, three_rows: ImageDataset) -> None:
    shutil.copytree(three_rows.folder, tmp_path / "out")
    [file] = (tmp_path / "out" / "data").iterdir()
    groups = pq.read_metadata(file)
    spoiled = bytearray(file.read_bytes())
    for group in range(groups.num_row_groups):
        for number in range(groups.num_columns):
            column = groups.row_group(group).column(number)
            if column.path_in_schema.startswith("image."):
                start = column.data_page_offset
                spoiled[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(spoiled)
    dataset = ImageDataset(tmp_path / "out")
    rest = dataset.scan().drop("image").collect()
    assert rest.equals(three_rows.scan().drop("image").collect())
    assert dataset.failures().height == 1
    with pytest.raises(pl.exceptions.PolarsError):
        dataset.scan().select("image").collect()


def test_picture_of_a_row_is_given_from_either_end_and_none_where_it_failed(three_rows: ImageDataset) -> None:
    first, last = three_rows.image(0), three_rows.image(2)
    assert first is not None
    assert last is not None
    assert first.data == three_rows.scan().collect()["image"][0]["bytes"]
    assert first.data != last.data
    back = three_rows.image(-1)
    assert back is not None
    assert back.data == last.data
    assert three_rows.image(1) is None
    assert three_rows.to_pil(1) is None
    decoded = three_rows.to_pil(-3)
    assert decoded is not None
    assert decoded.size == (16, 16)


@pytest.mark.parametrize("row", [3, -4])
def test_row_that_is_not_there_is_an_error_that_tells_how_many_there_are(three_rows: ImageDataset, row: int) -> None:
    with pytest.raises(DatasetError, match=rf"there is no row {row} in .*: it has 3 rows"):
        three_rows.image(row)


def test_row_is_a_mapping_with_its_picture(three_rows: ImageDataset) -> None:
    row = three_rows[0]
    assert list(row) == three_rows.scan().collect_schema().names()
    assert (row["prompt"], row["status"], row.number) == ("a red cat", "done", 0)
    image = three_rows.image(0)
    assert image is not None
    assert row["image"].data == image.data
    assert three_rows[-1]["prompt"] == "a blue boat"
    assert three_rows[-1].number == 2
    assert three_rows[1]["image"] is None
    assert "image" in row
    assert "nothing" not in row


@pytest.mark.parametrize("row", [3, -4])
def test_row_number_that_is_not_there_is_an_index_error_too(three_rows: ImageDataset, row: int) -> None:
    with pytest.raises(IndexError, match=rf"there is no row {row} in .*: it has 3 rows"):
        three_rows[row]
    with pytest.raises(DatasetError):
        three_rows[row]


def test_rows_are_iterated_over_all_shards_in_order(references: ImageDataset) -> None:
    rows = list(references)
    assert len(list((references.folder / "data").iterdir())) == 3
    assert [row.number for row in rows] == list(range(5))
    assert [dict(row, image=None) for row in rows] == references.scan().with_columns(image=None).collect().to_dicts()
    assert [row["image"].data for row in rows] == [references[number]["image"].data for number in range(5)]


def test_dataset_and_rows_show_themselves_as_thumbnails(tmp_path: Path) -> None:
    rows = [{"prompt": f"<b>cat</b> & {n}" if n else None, "width": 640, "height": 480} for n in range(14)]
    dataset = make_dataset(tmp_path / "out", rows)
    shown = dataset._repr_html_()
    assert "14 rows, 13 images, 1 failed (invalid_input)" in shown
    assert shown.count("<img ") == 11
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; 11" in shown
    assert "&amp; 12" not in shown
    assert "invalid_input: the prompt is null" in shown
    assert "<b>cat" not in shown
    [picture] = pictures_in(dataset[1]._repr_html_())
    assert picture.size == (384, 288)
    assert all(max(picture.size) == 160 for picture in pictures_in(shown))
    assert len(shown) < 200_000


def test_failed_row_shows_why_it_has_no_picture(three_rows: ImageDataset) -> None:
    shown = three_rows[1]._repr_html_()
    assert "<img" not in shown
    assert "invalid_input: the prompt is null" in shown


def test_row_of_several_generations_shows_each(tmp_path: Path) -> None:
    grouped = make_dataset(tmp_path / "out", ROWS, task="tests.custom_tasks:Grouped", num_generations=2)
    assert len(pictures_in(grouped[0]._repr_html_())) == 2
    assert [image.format for image in grouped[2]["image"]] == ["JPEG", "JPEG"]
    assert grouped[1]["image"] == [None, None]


def test_dataset_scores_and_exports_itself_and_its_card_tells_of_the_scores(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "out", ROWS)
    scored = dataset.score().collect()
    assert scored.select(dataset.scan().collect_schema().names()).equals(dataset.scan().collect())
    assert scored["blank"].to_list() == [False, None, False]
    assert "config_name: quality" in (dataset.folder / "README.md").read_text()
    exported = dataset.export(tmp_path / "kept", keep="status = 'done' AND prompt LIKE '%cat'")
    assert (exported.rows, exported.left_out) == (1, 2)
    assert [row["prompt"] for row in ImageDataset(tmp_path / "kept")] == ["a red cat"]


def pictures_in(html: str) -> list[PILImage.Image]:
    found = re.findall('src="data:image/jpeg;base64,([^"]+)"', html)
    return [PILImage.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_column_without_pictures_is_an_error_that_names_those_with(three_rows: ImageDataset) -> None:
    with pytest.raises(DatasetError, match=r"'prompt' is no image column of .*; it has image"):
        three_rows.to_pil(0, "prompt")


def test_picture_of_a_list_is_taken_by_its_generation(tmp_path: Path) -> None:
    grouped = make_dataset(tmp_path / "out", ROWS, task="tests.custom_tasks:Grouped", num_generations=2)
    assert len(grouped) == 3
    cell = grouped.scan().select("image").collect()["image"].to_list()[0]
    for generation in (0, 1, -1):
        image = grouped.image(0, generation=generation)
        assert image is not None
        assert image.data == cell[generation]["bytes"]
    assert cell[0] != cell[1]
    assert grouped.to_pil(0, generation=2) is None
    assert grouped.to_pil(1, generation=0) is None
    assert "3 rows and 4 images" in (grouped.folder / "README.md").read_text()
    assert "| failed: `invalid_input` | 2 |" in (grouped.folder / "README.md").read_text()


def test_only_columns_of_pictures_are_image_columns_whatever_others_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "Image": "no picture", "meta": {"Image": "none", "n": 1}, "tags": ["Image"]}]
    dataset = make_dataset(tmp_path / "out", rows, task="tests.custom_tasks:Variants")
    assert set(dataset.image_columns) == {"image", "thumbnail", "grey", "copy", "halves"}
    half = dataset.to_pil(0, "halves", 1)
    assert half is not None
    assert half.size == (8, 16)
    assert {"Image", "meta", "tags"} <= set(dataset.failures().columns)


def test_datasets_opens_the_folder_with_pictures_byte_for_byte(
    three_rows: ImageDataset, load: Callable[[ImageDataset], Any]
) -> None:
    datasets = pytest.importorskip("datasets")
    rows = load(three_rows)
    assert [image and image.size for image in rows["image"]] == [(16, 16), None, (16, 16)]
    raw = rows.cast_column("image", datasets.Image(decode=False))["image"]
    ours = three_rows.scan().collect()["image"].to_list()
    assert [cell and cell["bytes"] for cell in raw] == [cell and cell["bytes"] for cell in ours]
    assert rows["status"][:] == ["done", "failed", "done"]


def frame_of_all_types() -> pl.DataFrame:
    moment = datetime.datetime(2026, 11, 23, 12, 30, 15, 250_000)
    day, clock, span = moment.date(), moment.time(), datetime.timedelta(days=2, milliseconds=5)
    small = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float16, pl.Float32)
    columns = [
        pl.Series("prompt", ["a cat", "a dog", "a cow"]),
        pl.Series("day", [day, None, day]),
        *(pl.Series(f"moment_{unit}", [moment, None, moment], pl.Datetime(unit)) for unit in ("ms", "us", "ns")),
        pl.Series("zoned", [moment, None, moment]).dt.replace_time_zone("Europe/Zurich"),
        *(pl.Series(f"span_{unit}", [span, None, span], pl.Duration(unit)) for unit in ("ms", "us", "ns")),
        pl.Series("clock", [clock, None, clock]),
        pl.Series("price", [Decimal("1.25"), None, Decimal("-3.50")], pl.Decimal(10, 2)),
        pl.Series("ok", [True, None, False]),
        *(pl.Series(str(dtype), [1, None, 3], dtype) for dtype in small),
        pl.Series("double", [0.5, None, 1.5]),
        pl.Series("style", ["oil", None, "ink"], pl.Categorical),
        pl.Series("medium", ["oil", None, "ink"], pl.Enum(["oil", "ink"])),
        pl.Series("raw", [b"\x00\xff", None, b""]),
        pl.Series("nothing", [None, None, None]),
        pl.Series("days", [[day, None], [], None]),
        pl.Series("lists", [[[1], []], None, [[2, 3]]]),
        pl.Series("boxes", [[{"w": 1, "at": day}], [], None]),
        pl.Series("embedding", [[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]], pl.Array(pl.Float32, 2)),
        pl.Series("matrix", [[[1, 2], [3, 4]]] * 3, pl.Array(pl.Array(pl.Int16, 2), 2)),
        pl.Series("place", [{"city": "Bern", "at": {"since": moment}, "pair": [1, 2]}] * 3).cast(
            pl.Struct(
                {
                    "city": pl.Categorical,
                    "at": pl.Struct({"since": pl.Datetime("us")}),
                    "pair": pl.Array(pl.Int8, 2),
                }
            )
        ),
    ]
    return pl.DataFrame(columns)


def test_datasets_opens_the_folder_whatever_types_the_source_had(
    tmp_path: Path, load: Callable[[ImageDataset], Any]
) -> None:
    frame = frame_of_all_types()
    dataset = make_dataset(tmp_path / "out", frame)
    rows = load(dataset)
    expected = frame.with_columns(pl.col("style", "medium").cast(pl.String))
    assert dataset.scan().select(frame.columns).collect().to_dicts() == expected.to_dicts()
    loaded = pl.DataFrame(pl.from_arrow(rows.select_columns(frame.columns).data.table))
    assert loaded.to_dicts() == expected.to_dicts()
    assert [image.size for image in rows["image"]] == [(16, 16)] * 3


def test_integers_of_128_bits_become_text() -> None:
    frame = pl.DataFrame({"n": pl.Series([2**100, None], dtype=pl.Int128)})
    assert frame_to_hub_table(frame, [])["n"].to_pylist() == [str(2**100), None]


def test_transformed_columns_are_pictures_for_datasets_in_the_same_rows(
    references: ImageDataset, load: Callable[[ImageDataset], Any]
) -> None:
    before = references.scan().drop("reference", "more").collect()
    groups = [pq.read_metadata(file).num_row_groups for file in sorted((references.folder / "data").iterdir())]
    done = references.transform_columns_to_image(["reference", "more", "reference", "image"])
    assert done.image_columns == ["reference", "more", "image"]
    assert done.scan().drop("reference", "more").collect().equals(before)
    cells = done.scan().collect()["reference"].to_list()
    colours = ["red", None, "green", "blue", "white"]
    assert [cell and cell["bytes"] for cell in cells] == [colour and picture(colour) for colour in colours]
    assert [pq.read_metadata(file).num_row_groups for file in sorted((done.folder / "data").iterdir())] == groups
    rows = load(done)
    assert [image and image.size for image in rows["reference"]] == [(24, 16), None, *[(24, 16)] * 3]
    assert [images and len(images) for images in rows["more"]] == [1, None, [], 2, 1]
    assert "5 rows and 5 images" in (done.folder / "README.md").read_text()


def test_transforming_again_changes_nothing(references: ImageDataset) -> None:
    references.transform_columns_to_image("reference")
    before = snapshot(references.folder)
    references.transform_columns_to_image(["reference", "image"])
    assert snapshot(references.folder) == before


def test_cell_that_is_no_image_is_named_by_its_row_in_the_dataset_and_nothing_changes(
    references: ImageDataset,
) -> None:
    rows = references.scan().collect().with_columns(note=pl.lit(None, pl.String))
    before = snapshot(references.folder)
    with pytest.raises(ImageError, match=r"column 'note', row 0 \(counted from 0\): 'no image'"):
        references.transform_columns_to_image(["reference", "note"])
    assert snapshot(references.folder) == before
    assert references.scan().collect().with_columns(note=pl.lit(None, pl.String)).equals(rows)


@pytest.mark.parametrize("column", ["reference", "more"])
def test_bad_cell_in_the_last_shard_leaves_the_first_ones_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    monkeypatch.setattr("imagetask.shards.SHARD_BYTES", 1)
    rows = reference_rows()
    rows[4] |= {"reference": "no image", "more": [text("red"), "no image"]}
    dataset = make_dataset(tmp_path / "out", rows, chunk_rows=2)
    before = snapshot(dataset.folder)
    with pytest.raises(ImageError, match=rf"column '{column}', row 4(, item 1)? \(counted from 0\)"):
        dataset.transform_columns_to_image(column)
    assert snapshot(dataset.folder) == before


def test_transforming_a_column_that_is_not_there_is_a_usage_error(references: ImageDataset) -> None:
    with pytest.raises(UsageError, match="has no column 'picture'; it has prompt, reference"):
        references.transform_columns_to_image(["reference", "picture"])


def test_next_run_keeps_transformed_columns_as_pictures(references: ImageDataset) -> None:
    folder = references.folder
    references.transform_columns_to_image(["reference", "more"])
    shards = {path: path.stat().st_ino for path in (folder / "data").iterdir()}
    rows = [*reference_rows(), {"prompt": "f", "reference": text("black"), "more": [], "note": None}]
    again = make_dataset(folder, rows, chunk_rows=2)
    assert again.image_columns == ["reference", "more", "image"]
    assert [cell and cell["bytes"] for cell in again.scan().collect()["reference"]] == [
        colour and picture(colour) for colour in ["red", None, "green", "blue", "white", "black"]
    ]
    kept = [path.name for path, inode in sorted(shards.items()) if path.stat().st_ino == inode]
    assert kept == ["train-00000.parquet", "train-00001.parquet"]
    assert json.loads((folder / "_imagetask" / "shards.json").read_text())["transformed"] == ["reference", "more"]


def test_next_run_with_a_bad_cell_names_it_and_leaves_the_dataset_as_it_was(references: ImageDataset) -> None:
    references.transform_columns_to_image("reference")
    rows = reference_rows()
    rows[0]["prompt"] = "another"
    rows[3]["reference"] = "no image"
    before = snapshot(references.folder)
    with pytest.raises(ImageError, match=r"column 'reference', row 3 \(counted from 0\): 'no image'"):
        make_dataset(references.folder, rows, chunk_rows=2)
    assert snapshot(references.folder) == before


def test_next_run_without_a_transformed_column_forgets_it(references: ImageDataset) -> None:
    references.transform_columns_to_image("reference")
    rows = [{key: value for key, value in row.items() if key != "reference"} for row in reference_rows()]
    assert make_dataset(references.folder, rows, chunk_rows=2).image_columns == ["image"]
    assert make_dataset(references.folder, reference_rows(), chunk_rows=2).image_columns == ["image"]
