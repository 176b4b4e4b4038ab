"""Base64 text, bytes and store paths become pictures that `datasets` opens, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from imagetask.columns import (
    IMAGE,
    column_to_images,
    frame_to_hub_table,
    hub_schema,
    image_columns,
    image_struct,
    transform_columns_to_image,
)
from imagetask.errors import ImageError, StorageError, UsageError
from imagetask.images import FORMATS, Image
from imagetask.store import GenerationStore


def picture(image_format: str = "PNG", colour: str = "teal") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (24, 16), colour).save(buffer, image_format)
    return buffer.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def struct(data: bytes, suffix: str) -> dict[str, Any]:
    return {"bytes": data, "path": f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"}


PNG, JPEG = picture(), picture("JPEG", "red")


@pytest.mark.parametrize(("image_format", "suffix"), FORMATS.items())
def test_bytes_and_text_of_every_format_are_kept_and_named_by_their_hash(image_format: str, suffix: str) -> None:
    data = picture(image_format)
    frame = transform_columns_to_image(pl.DataFrame({"b": [data], "t": [text(data)]}), ["b", "t"])
    assert frame.schema == {"b": IMAGE, "t": IMAGE}
    assert frame.row(0) == (struct(data, suffix), struct(data, suffix))


def test_base64_in_all_its_spellings_gives_the_same_bytes() -> None:
    data = PNG + bytes(-len(PNG) % 3) + b"\xfb\xef\xbe\xff\xff"
    plain = text(data)
    assert "+" in plain
    assert "/" in plain
    assert plain.endswith("=")
    spellings = [
        plain,
        f"data:image/png;base64,{plain}",
        plain.rstrip("="),
        plain.replace("+", "-").replace("/", "_"),
        plain[:60] + "\n" + plain[60:] + "\n",
    ]
    frame = transform_columns_to_image(pl.DataFrame({"id": range(5), "image": spellings}), "image")
    assert frame["image"].to_list() == [struct(data, "png")] * 5
    assert frame["id"].to_list() == [0, 1, 2, 3, 4]


def test_null_becomes_a_null_struct_and_not_a_struct_of_nulls() -> None:
    frame = transform_columns_to_image(
        pl.DataFrame({"image": [None, text(PNG)], "none": [None, None]}), ["image", "none"]
    )
    assert frame["image"].is_null().to_list() == [True, False]
    assert frame["none"].dtype == IMAGE
    assert frame["none"].null_count() == 2


def test_lists_keep_their_lengths_with_nulls_and_empty_lists_in_place() -> None:
    lists = [[text(PNG), None, text(JPEG)], [], None, [text(JPEG)]]
    frame = transform_columns_to_image(pl.DataFrame({"images": lists}), "images")
    png, jpeg = struct(PNG, "png"), struct(JPEG, "jpg")
    assert frame.schema == {"images": pl.List(IMAGE)}
    assert frame["images"].to_list() == [[png, None, jpeg], [], None, [jpeg]]


def test_fixed_size_lists_of_bytes_become_lists_of_pictures() -> None:
    column = pl.Series("images", [[PNG, JPEG]], dtype=pl.Array(pl.Binary, 2))
    assert transform_columns_to_image(column.to_frame(), "images")["images"].to_list() == [
        [struct(PNG, "png"), struct(JPEG, "jpg")]
    ]


def test_image_structs_stay_as_they_are_and_transforming_twice_changes_nothing() -> None:
    once = transform_columns_to_image(
        pl.DataFrame({"image": [text(PNG), None], "more": [[PNG], []]}), ["image", "more"]
    )
    assert transform_columns_to_image(once, ["image", "more"]).equals(once)


@pytest.mark.parametrize("rows", [0, 10_000])
def test_frames_of_no_rows_and_of_many_pieces_keep_every_row_in_order(rows: int) -> None:
    cells = [text(PNG) if row % 3 else None for row in range(rows)]
    frame = transform_columns_to_image(pl.DataFrame({"image": cells}, schema={"image": pl.String}), "image")
    assert frame.schema == {"image": IMAGE}
    assert frame["image"].is_null().to_list() == [cell is None for cell in cells]


def test_store_paths_become_the_stored_bytes_under_their_file_name(tmp_path: Path) -> None:
    store = GenerationStore(tmp_path)
    path = store.put_image(Image.from_bytes(PNG)).path
    assert path is not None
    frame = pl.DataFrame({"image": [path, None, text(JPEG)], "images": [[path], [], None]})
    done = transform_columns_to_image(frame, ["image", "images"], store=store)
    stored = {"bytes": PNG, "path": path.rpartition("/")[2]}
    assert done["image"].to_list() == [stored, None, struct(JPEG, "jpg")]
    assert done["images"].to_list() == [[stored], [], None]


def test_path_that_the_store_lacks_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"column 'image', row 1 \(counted from 0\): .*own/aa/gone\.png"):
        transform_columns_to_image(
            pl.DataFrame({"image": [None, "own/aa/gone.png"]}), "image", store=GenerationStore(tmp_path)
        )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            [text(PNG), None, "a cat"],
            r"column 'image', row 2 \(counted from 0\): 'a cat' \(5 characters\) is not an image",
        ),
        ([text(b"<html>no</html>")], r"column 'image', row 0 .*an HTML page of 15 bytes"),
        ([b"", PNG], r"column 'image', row 0 .*0 bytes"),
        ([PNG, b'{"error": 1}'], r"column 'image', row 1 .*JSON of 12 bytes"),
        ([[PNG], [], [PNG, b"x"]], r"column 'image', row 2, item 1 .*1 bytes of something else"),
        ([None, 5], r"column 'image', row 1 .*Int64 is neither text nor bytes"),
        (["ab/cd.png"], r"column 'image', row 0 .*to read paths, give the store"),
    ],
)
def test_cell_that_is_no_image_is_an_error_that_names_column_and_row(cells: list[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        transform_columns_to_image(pl.DataFrame({"image": cells}), "image")


def test_bad_cell_far_down_is_named_by_its_row_in_the_whole_frame() -> None:
    cells = [PNG] * 9_000
    cells[8_500] = b"nothing"
    with pytest.raises(ImageError, match="row 8500 "):
        transform_columns_to_image(pl.DataFrame({"image": cells}), "image")


@pytest.mark.parametrize(
    ("cells", "place"), [([PNG, b"nothing"], "row 701 "), ([[PNG], [], [PNG, b"x"]], "row 702, item 1 ")]
)
def test_bad_cell_of_a_column_from_the_middle_of_a_dataset_is_named_by_its_row_there(
    cells: list[Any], place: str
) -> None:
    with pytest.raises(ImageError, match=place):
        column_to_images(pl.Series("image", cells), first_row=700)


def test_missing_column_and_lazy_frame_are_usage_errors() -> None:
    frame = pl.DataFrame({"image": [PNG]})
    with pytest.raises(UsageError, match="no column 'picture'; it has image"):
        transform_columns_to_image(frame, "picture")
    with pytest.raises(UsageError, match="not a LazyFrame: collect it first"):
        transform_columns_to_image(frame.lazy(), "image")


def test_dataset_transforms_its_own_columns() -> None:
    class Dataset:
        asked: Sequence[str] = ()

        def transform_columns_to_image(self, columns: str | Sequence[str]) -> Dataset:
            self.asked = columns
            return self

    dataset = Dataset()
    assert transform_columns_to_image(dataset, ["a"]) is dataset
    assert dataset.asked == ["a"]


def mixed_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": ["a", "b", None],
            "n": [1, 2, 3],
            "ok": [True, None, False],
            "score": [0.5, None, 1.0],
            "small": pl.Series([0.5, None, 1.0], dtype=pl.Float32),
            "tags": [["x"], [], None],
            "style": pl.Series(["oil", "ink", "oil"], dtype=pl.Categorical),
            "size": [{"w": 1, "unit": "px"}, None, {"w": 2, "unit": "px"}],
            "raw": [b"1", None, b"3"],
            "day": pl.Series(["2026-11-23"] * 3).str.to_date(),
            "when": pl.Series([0, 1, 2]).cast(pl.Datetime("us", "UTC")),
            "cost": pl.Series(["1.25", None, "2.50"]).cast(pl.Decimal(10, 2)),
            "pair": pl.Series([[1, 2]] * 3, dtype=pl.Array(pl.Int16, 2)),
            "none": [None, None, None],
            "image": [text(PNG), None, text(JPEG)],
            "images": [[JPEG, None], [], None],
        }
    )


def test_hub_schema_gives_datasets_the_right_feature_for_every_column() -> None:
    features = pytest.importorskip("datasets").features
    frame = transform_columns_to_image(mixed_frame(), ["image", "images"])
    schema = frame_to_hub_table(frame, ["image", "images"]).schema
    read = features.Features.from_arrow_schema(schema)
    assert read["image"] == features.Image()
    assert read["images"] == features.List(features.Image())
    assert read["prompt"] == read["style"] == features.Value("string")
    others = schema.remove_metadata().remove(schema.get_field_index("images"))
    others = others.remove(others.get_field_index("image"))
    assert features.Features.from_arrow_schema(others) == {k: v for k, v in read.items() if k in others.names}
    assert features.Features.from_dict(read.to_dict()).arrow_schema.equals(schema)


def test_image_columns_are_those_with_pictures_or_lists_of_them_alone() -> None:
    frame = pl.DataFrame(
        {
            "Image": ["text"],
            "size": [{"Image": 1, "_type": "Image"}],
            "sizes": [[{"Image": 1}]],
            "image": [PNG],
            "images": [[PNG]],
        }
    )
    names = ["image", "images"]
    schema = frame_to_hub_table(transform_columns_to_image(frame, names), names).schema
    assert image_columns(schema) == names
    assert image_columns(schema.remove_metadata()) == []


def test_hub_schema_refuses_an_image_column_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no image columns picture; there are prompt"):
        hub_schema(pa.schema([("prompt", pa.string())]), ["picture"])


def test_image_struct_is_null_where_there_are_no_bytes() -> None:
    array = image_struct([PNG, None], ["a.png", None])
    assert array.type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert array.to_pylist() == [{"bytes": PNG, "path": "a.png"}, None]


def test_frame_without_rows_becomes_a_table_with_the_hub_schema() -> None:
    table = frame_to_hub_table(pl.DataFrame(schema={"image": IMAGE, "prompt": pl.String}), ["image"])
    assert table.num_rows == 0
    assert b"huggingface" in table.schema.metadata


def test_datasets_opens_the_columns_as_pictures_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    frame = transform_columns_to_image(mixed_frame(), ["image", "images"])
    pq.write_table(frame_to_hub_table(frame, ["image", "images"]), tmp_path / "x.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert [row["image"] and row["image"].format for row in loaded] == ["PNG", None, "JPEG"]
    assert [images and [i and i.size for i in images] for images in loaded["images"]] == [[(24, 16), None], [], None]
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    assert [row["image"] and row["image"]["bytes"] for row in raw] == [PNG, None, JPEG]
    assert loaded["prompt"][:] == ["a", "b", None]
    assert loaded["style"][:] == ["oil", "ink", "oil"]
