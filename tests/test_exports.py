"""Exports open in the tools they are for, row for row; what is left out is told; a killed one leaves nothing half."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from imagetask import DatasetError, ImageError, StorageError, UsageError
from imagetask.columns import frame_to_hub_table
from imagetask.exports import Exported, export, read_split
from imagetask.exports.encoding import Encoding
from imagetask.images import Image
from imagetask.layout import Layout
from imagetask.quality import scan_scored
from tests.command_line import DONE, WRONG_USAGE, imagetask
from tests.small_datasets import make_dataset

ROOT = Path(__file__).parents[1]
SPLIT = {"train": 0.8, "test": 0.2}
FORMATS: Any = ("parquet", "imagefolder", "webdataset")

OPENED = """
import hashlib, json, sys
from pathlib import Path

import datasets
import webdataset

def of_picture(cell):
    if cell is None:
        return None
    data = cell["bytes"] if isinstance(cell, dict) else cell
    return hashlib.sha256(Path(cell["path"]).read_bytes() if data is None else data).hexdigest()

def told(row, picture):
    row = {**row.pop("json", {}), **row}
    picture = of_picture(row.pop(picture))
    return {**{name: cell for name, cell in row.items() if not name.startswith("__")}, "image": picture}

def rows(dataset):
    names = {"jpg", "image"} & dataset.features.keys()
    assert all(isinstance(dataset.features[name], datasets.Image) for name in names), dataset.features
    [picture] = names
    decoded = next(iter(row[picture] for row in dataset if row[picture] is not None))
    assert decoded.size == (16, 16)
    return [told(dict(row), picture) for row in dataset.cast_column(picture, datasets.Image(decode=False))]

root = Path(sys.argv[1])
found = {}
for name in ("parquet", "imagefolder", "webdataset"):
    for streaming in (False, True):
        opened = datasets.load_dataset(str(root / name), streaming=streaming)
        found[f"{name}, {'streaming' if streaming else 'plain'}"] = {split: rows(opened[split]) for split in opened}
        features = opened["train"].features
more = {
    "imagefolder": {"data_dir": str(root / "imagefolder")},
    "webdataset": {"data_files": {s: f"{root}/webdataset/{s}-*.tar" for s in ("train", "test")}, "features": features},
}
for name, options in more.items():
    opened = datasets.load_dataset(name, **options)
    found[f"{name}, by its name"] = {split: rows(opened[split]) for split in opened}
of_tars = {}
for split in ("train", "test"):
    files = sorted(str(path) for path in (root / "webdataset").glob(f"{split}-*.tar"))
    samples = list(webdataset.WebDataset(files, shardshuffle=False))
    of_tars[split] = [told({"jpg": each["jpg"], **json.loads(each["json"])}, "jpg") for each in samples]
    first = next(iter(webdataset.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("jpg", "json")))
    assert first[0].size == (16, 16) and isinstance(first[1], dict)
found["webdataset, its own tool"] = of_tars
print(json.dumps(found, default=lambda value: value.isoformat()))
"""


def prompts(count: int) -> list[dict[str, Any]]:
    """Rows of which every seventh fails, with a column that begins with nulls."""
    return [{"prompt": f"cat {n}" if n % 7 else None, "note": f"{n} 猫" if n >= 20 else None} for n in range(count)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """90 rows of 45 prompts, of which 14 have no picture, in several shards and row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagetask.shards.SHARD_BYTES", 20_000)
        patch.setattr("imagetask.parts.ROW_GROUP_ROWS", 8)
        folder = make_dataset(tmp_path_factory.mktemp("finished") / "out", prompts(45), num_generations=2).folder
    assert len(list((folder / "data").iterdir())) > 1
    return Layout(folder)


@pytest.fixture(scope="module")
def exported(finished: Layout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The dataset in every format, in two splits, in several files each."""
    root = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagetask.exports.parquet.SHARD_BYTES", 30_000)
        patch.setattr("imagetask.exports.webdataset.SHARD_BYTES", 60_000)
        patch.setattr("imagetask.exports.imagefolder.FOLDER_FILES", 10)
        return {name: export(finished, root / name, format=name, split=SPLIT) for name in FORMATS}


def rows_of(layout: Layout, *, pictures: bool = False) -> list[dict[str, Any]]:
    """The rows of a dataset with its quality columns, as they are in JSON; a picture as its SHA-256."""
    rows = scan_scored(layout).collect().to_dicts()
    kept = [row for row in rows if row["image"] is not None or not pictures]
    for row in kept:
        row["image"] = row["image"] and hashlib.sha256(row["image"]["bytes"]).hexdigest()
    told: list[dict[str, Any]] = json.loads(json.dumps(kept, default=lambda value: value.isoformat()))
    return told


def in_order(splits: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return sorted((row for rows in splits.values() for row in rows), key=lambda row: (row["row_id"], row["generation"]))


def test_every_export_opens_in_its_own_tool_row_for_row(
    finished: Layout, exported: dict[str, Exported], tmp_path: Path
) -> None:
    root = exported["parquet"].folder.parent
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", OPENED, str(root)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert len(found) == 9
    for how, splits in found.items():
        expected = rows_of(finished, pictures=not how.startswith("parquet"))
        assert in_order(splits) == in_order({"all": expected}), how
        assert {split: len(rows) for split, rows in splits.items()} == exported[how.partition(",")[0]].splits
        for rows in splits.values():
            order = [expected.index(row) for row in rows]
            assert order == sorted(order), f"{how}: rows are in the order of the dataset"


def test_polars_and_duckdb_read_the_same_rows(finished: Layout, exported: dict[str, Exported]) -> None:
    files = str(exported["parquet"].folder / "data" / "*.parquet")
    expected = scan_scored(finished).collect().sort("row_id", "generation")
    assert pl.read_parquet(files).sort("row_id", "generation").equals(expected)
    told_rows = duckdb.execute(
        f"SELECT row_id, generation, note, image.bytes, sha256(image.bytes) FROM '{files}' ORDER BY 1, 2"
    ).fetchall()
    images = [cell and cell["bytes"] for cell in expected["image"]]
    assert [row[:3] for row in told_rows] == expected.select("row_id", "generation", "note").rows()
    assert [row[3] for row in told_rows] == images
    assert [row[4] for row in told_rows] == [data and hashlib.sha256(data).hexdigest() for data in images]
    metadata = exported["imagefolder"].folder / "*" / "metadata.parquet"
    assert duckdb.execute(f"SELECT count(*) FROM '{metadata}' WHERE file_name LIKE '%.jpg'").fetchall() == [(76,)]


def test_counts_tell_what_is_in_each_export_and_what_is_not(exported: dict[str, Exported]) -> None:
    for name, done in exported.items():
        assert (done.rows, done.left_out, done.without_picture) == ((90, 0, 0) if name == "parquet" else (76, 0, 14))
        assert sum(done.splits.values()) == done.rows
        files = [path for path in done.folder.rglob("*") if path.is_file() and path.name != "README.md"]
        assert len(files) == done.files
        assert not list(done.folder.rglob(".*"))
    folders = [path for path in exported["imagefolder"].folder.glob("*/*") if path.is_dir()]
    assert max(len(list(folder.iterdir())) for folder in folders) <= 10
    assert len(list(exported["webdataset"].folder.glob("train-*.tar"))) > 1
    assert len(list((exported["parquet"].folder / "data").glob("train-*"))) > 1


def test_writing_again_gives_the_same_bytes(finished: Layout, exported: dict[str, Exported], tmp_path: Path) -> None:
    export(finished, tmp_path / "tars", format="webdataset")
    export(finished, tmp_path / "again", format="webdataset")
    [first], [second] = ([*(tmp_path / name).glob("*.tar")] for name in ("tars", "again"))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert {(entry.mtime, entry.uid, entry.mode) for entry in tar} == {(0, 0, 0o644)}
        assert tar.getnames()[:2] == ["000000002.jpg", "000000002.json"]


def test_generations_of_a_row_share_a_split_and_rows_keep_theirs_when_the_dataset_grows(tmp_path: Path) -> None:
    def splits(count: int) -> dict[str, str]:
        make_dataset(tmp_path / "out", prompts(count), num_generations=2)
        done = export(Layout(tmp_path / "out"), tmp_path / f"of {count}", split={"a": 0.5, "b": 0.3, "c": 0.2})
        files = {name: pl.read_parquet(done.folder / "data" / f"{name}-*.parquet") for name in "abc"}
        assert {name: frame.height for name, frame in files.items()} == done.splits
        assert all(count * 2 * share * 0.5 < done.splits[name] for name, share in (("a", 0.5), ("b", 0.3)))
        return {row_id: name for name, frame in files.items() for row_id in frame["row_id"]}

    few = splits(60)
    more = splits(100)
    assert len(few) == 60
    assert len(more) == 100
    assert few.items() <= more.items()


def test_keep_leaves_out_the_rows_of_which_it_is_not_true(finished: Layout, tmp_path: Path) -> None:
    done = export(finished, tmp_path / "few", keep="status = 'done' AND note IS NOT NULL AND NOT blank")
    rows = pl.read_parquet(done.folder / "data" / "*.parquet")
    expected = scan_scored(finished).filter(pl.col("status") == "done", pl.col("note").is_not_null()).collect()
    assert rows.equals(expected)
    assert (done.rows, done.left_out) == (expected.height, 90 - expected.height)
    null = export(finished, tmp_path / "null", keep="note > ''", format="imagefolder")
    assert (null.left_out, null.rows, null.without_picture) == (40, expected.height, 50 - expected.height)


def test_pictures_are_encoded_anew_and_made_smaller_where_they_are_asked_to_be(
    finished: Layout, tmp_path: Path
) -> None:
    done = export(finished, tmp_path / "webp", image_format="webp", image_quality=50, max_side=8, split=SPLIT)
    rows = pl.read_parquet(done.folder / "data" / "*.parquet").sort("row_id", "generation")
    before = scan_scored(finished).collect().sort("row_id", "generation")
    for new, old in zip(rows.iter_rows(named=True), before.iter_rows(named=True), strict=True):
        if old["image"] is None:
            assert new == old
            continue
        image = Image.from_bytes(new["image"]["bytes"])
        assert (image.format, image.width, image.height) == ("WEBP", 8, 8)
        assert new["image"]["path"] == old["image"]["path"].replace(".jpg", ".webp")
        assert new["image_size"] == "8x8"
        assert (new["image_format"], new["image_bytes"], new["image_sha256"]) == (
            "WEBP",
            image.num_bytes,
            image.sha256,
        )
    told = ["image", "image_size", "image_format", "image_bytes", "image_sha256"]
    assert rows.drop(told).equals(before.drop(told))


def test_pictures_that_are_so_already_keep_their_bytes(finished: Layout, tmp_path: Path) -> None:
    done = export(finished, tmp_path / "same", image_format="jpeg", max_side=16)
    assert pl.read_parquet(done.folder / "data" / "*.parquet").equals(scan_scored(finished).collect())


def test_lists_of_generations_stay_lists_in_parquet_and_have_no_other_format(tmp_path: Path) -> None:
    rows = pl.DataFrame({"prompt": ["a", None, "b"]})
    layout = Layout(make_dataset(tmp_path / "out", rows, task="tests.custom_tasks:Grouped", num_generations=2).folder)
    same = pl.read_parquet(export(layout, tmp_path / "same").folder / "data" / "*.parquet")
    assert same.equals(scan_scored(layout).collect())
    png = pl.read_parquet(export(layout, tmp_path / "png", image_format="png").folder / "data" / "*.parquet")
    assert png.schema == same.schema
    for images, formats, sizes in png.select("image", "image_format", "image_bytes").iter_rows():
        assert formats == [image and "PNG" for image in images]
        assert sizes == [image and len(image["bytes"]) for image in images]
        assert all(image is None or image["bytes"].startswith(b"\x89PNG") for image in images)
    assert png["image"].list.len().to_list() == [2, 2, 2]
    for name in ("imagefolder", "webdataset"):
        with pytest.raises(UsageError, match=f"{name} holds one picture a row, and 'image' holds lists .*use parquet"):
            export(layout, tmp_path / "lists", format=name)
    assert not (tmp_path / "lists").exists()


def test_further_image_columns_have_files_of_their_own(tmp_path: Path) -> None:
    texts = [text_of("red"), None, text_of("blue")]
    rows = pl.DataFrame({"prompt": ["cat 0", "cat 1", "cat 2"], "Sketch v1": texts})
    dataset = make_dataset(tmp_path / "out", rows)
    dataset.transform_columns_to_image("Sketch v1")
    folder = export(Layout(dataset.folder), tmp_path / "folder", format="imagefolder").folder
    names = pl.read_parquet(folder / "train" / "metadata.parquet").select(pl.nth(0, 1))
    assert sorted(names.columns) == ["Sketch v1_file_name", "file_name"]
    assert names["Sketch v1_file_name"].to_list() == [
        "00000/000000000-sketch_v1.png",
        None,
        "00000/000000002-sketch_v1.png",
    ]
    assert (folder / "train" / names["Sketch v1_file_name"][2]).read_bytes() == base64.b64decode(texts[2] or "")
    done = export(Layout(dataset.folder), tmp_path / "tars", format="webdataset")
    assert (done.rows, done.without_picture) == (2, 1)
    with tarfile.open(done.folder / "train-000000.tar") as tar:
        assert sorted(tar.getnames()[:3]) == ["000000000.jpg", "000000000.json", "000000000.sketch_v1.png"]


def text_of(colour: str) -> str:
    return base64.b64encode(encoded(PILImage.new("RGB", (24, 16), colour), "PNG")).decode()


def encoded(picture: PILImage.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def encode(picture: PILImage.Image, image_format: str, encoding: Encoding, **options: Any) -> PILImage.Image:
    return encoding.of(Image.from_bytes(encoded(picture, image_format, **options))).to_pil()


def test_transparency_becomes_white_in_jpeg_and_stays_in_webp() -> None:
    clear = PILImage.new("RGBA", (20, 10), (255, 0, 0, 0))
    assert encode(clear, "PNG", Encoding("jpeg")).getpixel((5, 5)) == (255, 255, 255)
    assert encode(clear, "PNG", Encoding("webp")).getpixel((5, 5))[3] == 0  # type: ignore[index]
    palette = PILImage.new("P", (20, 10), 0)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    assert encode(palette, "PNG", Encoding("jpeg"), transparency=0).getpixel((5, 5)) == (255, 255, 255)
    assert encode(palette, "GIF", Encoding(max_side=10)).size == (10, 5)


def test_pixels_stand_as_a_viewer_shows_them() -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    turned = encode(PILImage.new("RGB", (40, 20), "red"), "JPEG", Encoding("png", max_side=20), exif=exif)
    assert turned.size == (10, 20)
    grey = encode(PILImage.new("I;16", (10, 10), 32_768), "PNG", Encoding("jpeg"))
    assert grey.getpixel((5, 5)) == 128


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "csv"}, "format 'csv': expected parquet, imagefolder, webdataset"),
        ({"image_format": "gif"}, "image format 'gif': expected webp, jpeg or png"),
        ({"image_quality": 80}, "image quality 80 is for a lossy format"),
        ({"image_quality": 80, "image_format": "png"}, "image quality 80 is for a lossy format"),
        ({"image_quality": 0, "image_format": "webp"}, "image quality 0: expected 1 to 100"),
        ({"max_side": 0}, "longest side 0: expected at least 1 px"),
        ({"split": {"train": 0.9, "test": 0.2}}, "splits train=0.9,test=0.2: they sum to 1.1, expected 1"),
        ({"split": {"train": 1.0, "test": 0.0}}, "split test=0: expected a share above 0"),
        ({"split": {"train": float("nan")}}, "split train=nan: expected a share above 0"),
        ({"split": {"all": 1.0}}, "split 'all': expected a name of letters, digits and _"),
        ({"split": {"../train": 1.0}}, r"split '\.\./train': expected a name of letters, digits and _"),
        ({"keep": "status = 'lost'"}, "no rows would remain: keep .* is true of none of 90 rows"),
        ({"keep": "nothing > 1"}, "nothing"),
        ({"keep": "status = 'failed'", "format": "imagefolder"}, "no rows would remain: none has a picture"),
    ],
)
def test_wrong_options_are_told_and_nothing_is_written(
    finished: Layout, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        export(finished, tmp_path / "no", **options)
    assert list(tmp_path.iterdir()) == []


def test_split_is_read_as_it_is_typed() -> None:
    assert read_split("train=0.9, test=.1") == {"train": 0.9, "test": 0.1}
    for text, told in (("train", "expected NAME=SHARE"), ("a=0.5,a=0.5", "'a' is there twice"), ("", "NAME=SHARE")):
        with pytest.raises(UsageError, match=told):
            read_split(text)


def test_place_that_is_not_free_is_refused_and_stays_as_it_is(finished: Layout, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    inside = finished.root / "export"
    for place, told in (
        (tmp_path / "full", "already holds something: remove it, or give another folder"),
        (tmp_path / "file", "is a file: give a folder"),
        (inside, "is in the dataset's own folder"),
        (finished.root, "is in the dataset's own folder"),
        (finished.root.parent, "or holds it"),
    ):
        with pytest.raises(DatasetError, match=told):
            export(finished, place)
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert not inside.exists()
    (tmp_path / "empty").mkdir()
    assert export(finished, tmp_path / "empty").rows == 90


def test_folder_without_a_dataset_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no finished dataset"):
        export(Layout(tmp_path / "nowhere"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_formats_of_pictures_only_refuse_what_their_tools_would_not_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "file_name": "a.png", "sketch": text_of("red")},
        {"prompt": "b", "file_name": "", "sketch": JPEG},
    ]
    dataset = make_dataset(tmp_path / "out", rows)
    dataset.transform_columns_to_image("sketch")
    with pytest.raises(UsageError, match="would read the column 'file_name' as pictures: use parquet or webdataset"):
        export(Layout(dataset.folder), tmp_path / "no", format="imagefolder")
    with pytest.raises(UsageError, match="pictures of one format, and 'sketch' has jpg and png: give an image format"):
        export(Layout(dataset.folder), tmp_path / "no", format="webdataset")
    assert export(Layout(dataset.folder), tmp_path / "yes", format="webdataset", image_format="webp").rows == 2


JPEG = base64.b64encode(encoded(PILImage.new("RGB", (24, 16), "green"), "JPEG")).decode()

KILLED = """
import os, signal, sys
from pathlib import Path
from imagetask.exports import export
from imagetask.layout import Layout

def told(rows, total):
    if 0 < rows < total:
        os.kill(os.getpid(), signal.SIGKILL)

export(Layout(Path(sys.argv[1])), Path(sys.argv[2]), format="imagefolder", told=told)
"""


def test_export_that_was_killed_leaves_nothing_half_and_the_next_one_sweeps(finished: Layout, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(finished.root), str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    assert list((tmp_path / ".out.partial").rglob("*.jpg"))
    assert export(finished, out).rows == 90
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list(out.rglob("*.jpg"))


def test_two_exports_do_not_write_into_one_place(finished: Layout, tmp_path: Path) -> None:
    def told(rows: int, total: int) -> None:
        with pytest.raises(DatasetError, match=r"another export is writing .*out: wait for it to end, or stop it"):
            export(finished, tmp_path / "out")

    assert export(finished, tmp_path / "out", told=told).rows == 90


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may have more than 20 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
@pytest.mark.usefixtures("small_disk")
def test_disk_that_takes_no_more_is_told_and_nothing_is_left(finished: Layout, tmp_path: Path, name: Any) -> None:
    with pytest.raises(StorageError, match=f"could not write {tmp_path / 'out'}: .*File too large"):
        export(finished, tmp_path / "out", format=name)
    assert list(tmp_path.iterdir()) == []


def test_run_that_wrote_meanwhile_is_told(tmp_path: Path) -> None:
    layout = Layout(make_dataset(tmp_path / "out", prompts(3)).folder)

    def told(rows: int, total: int) -> None:
        make_dataset(tmp_path / "out", prompts(5))

    with pytest.raises(DatasetError, match=r"a run wrote into .* meanwhile: run the same command again"):
        export(layout, tmp_path / "export", told=told)
    assert not (tmp_path / "export").exists()


def other_dataset(folder: Path, pictures: list[bytes], suffix: str) -> Layout:
    """A dataset that is one row group."""
    layout = Layout(folder)
    layout.make()
    rows = {
        "row_id": [str(number) for number in range(len(pictures))],
        "image": [{"bytes": data, "path": f"{number}.{suffix}"} for number, data in enumerate(pictures)],
        "image_sha256": [hashlib.sha256(data).hexdigest() for data in pictures],
    }
    frame = pl.DataFrame(rows).with_columns(model_name=pl.lit("m"), generation=pl.lit(0), status=pl.lit("done"))
    pq.write_table(frame_to_hub_table(frame, ["image"]), layout.data / "a.parquet")
    return layout


def test_row_groups_of_large_pictures_stay_under_100_mb(tmp_path: Path) -> None:
    data = encoded(PILImage.frombytes("RGB", (3300, 3100), os.urandom(3300 * 3100 * 3)), "BMP")
    assert len(data) > 30_000_000
    layout = other_dataset(tmp_path / "large", [data] * 4, "bmp")
    [file] = (export(layout, tmp_path / "out").folder / "data").iterdir()
    meta = pq.read_metadata(file)
    groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
    assert [group.num_rows for group in groups] == [1] * 4
    assert max(group.total_byte_size for group in groups) < 100_000_000


def test_damaged_picture_is_told_by_its_row_where_it_is_to_be_decoded(tmp_path: Path) -> None:
    whole = encoded(PILImage.effect_noise((64, 64), 60), "PNG")
    layout = other_dataset(tmp_path / "damaged", [whole, whole, whole[:900], whole], "png")
    with pytest.raises(ImageError, match=r"column 'image', row 2 \(counted from 0\): damaged or cut short"):
        export(layout, tmp_path / "out", image_format="webp")
    assert not (tmp_path / "out").exists()
    rows = pl.read_parquet(export(layout, tmp_path / "as it is").folder / "data" / "*.parquet")
    assert [cell["bytes"] for cell in rows["image"]] == [whole, whole, whole[:900], whole]


def test_readme_tells_the_columns_and_the_licence_of_the_dataset(finished: Layout, tmp_path: Path) -> None:
    card = finished.card.read_text()
    finished.card.write_text(card.replace("---\n", "---\nlicense: cc0-1.0\n", 1))
    try:
        done = export(
            finished, tmp_path / "out", image_format="webp", max_side=8, split={"train": 1 - 1e-9, "rare": 1e-9}
        )
    finally:
        finished.card.write_text(card)
    told = (done.folder / "README.md").read_text()
    assert "license: cc0-1.0\n" in told
    assert "Pictures are encoded as WEBP, at most 8 px a side; the columns that score them tell of those" in told
    assert "| `blur` | `double` |" in told
    assert "train 90 rows, rare 0 rows" in told
    assert "path: data/rare-*" not in told, "a pattern without files would keep the others from loading"


def test_command_names_the_formats_that_there_are(finished: Layout, tmp_path: Path) -> None:
    ended = imagetask("export", finished.root, "--to", "out", "--format", "tfrecord", cwd=tmp_path)
    assert ended.code == WRONG_USAGE
    assert "--format: expected parquet, imagefolder or webdataset, not tfrecord" in ended.text
    ended = imagetask("export", finished.root, "--to", "out", "--image-format", "avif", cwd=tmp_path)
    assert "--image-format: expected webp, jpeg or png, not avif" in ended.text


def test_command_writes_an_export_and_tells_what_is_left_out(finished: Layout, tmp_path: Path) -> None:
    words: list[str | Path] = [
        "export",
        finished.root,
        "--to",
        "out",
        "--format",
        "imagefolder",
        "--split",
        "train=0.9,test=0.1",
    ]
    ended = imagetask(*words, "--keep", "note IS NOT NULL", cwd=tmp_path)
    assert ended.code == DONE, ended.text
    told = " ".join(ended.text.split())
    rows = {name: pl.read_parquet(tmp_path / "out" / name / "metadata.parquet").height for name in ("train", "test")}
    assert f"out: 42 rows in 44 files: train {rows['train']}, test {rows['test']}" in told
    assert "left out by --keep: 40 rows" in told
    assert "left out without a picture: 8 rows (--format parquet holds them)" in told
    assert "open it: datasets.load_dataset(\"imagefolder\", data_dir='out')" in told
    again = imagetask(*words, cwd=tmp_path)
    assert again.code == WRONG_USAGE
    assert "Error: out already holds something: remove it, or give another folder for the export" in again.text
