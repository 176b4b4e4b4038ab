"""Columns of base64 text, bytes or store paths → the Hub's image columns, struct<bytes, path>.

The bytes are the provider's own: they are checked by their header, and never decoded and encoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, NoReturn, Protocol, TypeVar, cast, runtime_checkable

import polars as pl
import pyarrow as pa

from imagetask.errors import ImageError, StorageError, UsageError
from imagetask.images import Image, decode_base64
from imagetask.store import GenerationStore

IMAGE = pl.Struct({"bytes": pl.Binary, "path": pl.String})
"""The type of an image column in a frame."""

HUB_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""The type of an image column in a file: the only one that `datasets` takes for pictures."""

_PIECE_BYTES = 16 * 1024 * 1024
_TABLE_BYTES = 1024 * 1024 * 1024
"""An Arrow column of plain `binary` holds less than 2 GiB in one piece."""

_DATA_URI = r"^data:image/[\w.+-]+(?:;[\w=-]+)*;base64,"

T = TypeVar("T")


@runtime_checkable
class HasImageColumns(Protocol):
    """A dataset that transforms its own columns, as `ImageDataset` does."""

    def transform_columns_to_image(self, columns: str | Sequence[str]) -> Any: ...


def transform_columns_to_image(
    frame_or_dataset: T, columns: str | Sequence[str], *, store: GenerationStore | None = None
) -> T:
    """The same frame with `columns` as pictures: struct<bytes: Binary, path: String>, or lists of it; rows stay.

    A cell is base64 text, a `data:` URI, bytes, with `store` also a path into it, or a list of these. Columns that are
    image structs stay as they are, a null stays null. `path` is the first 16 hex digits of the bytes' SHA-256 with
    the format's suffix, or the file name of a store path. A dataset transforms its own files.

    Raises `ImageError` for a cell that is no image, naming column and row; `UsageError` for a missing column or a
    lazy frame; `StorageError` for a path that the store does not have.
    """
    if isinstance(frame_or_dataset, HasImageColumns):
        transformed: T = frame_or_dataset.transform_columns_to_image(columns)
        return transformed
    if not isinstance(frame_or_dataset, pl.DataFrame):
        kind = type(frame_or_dataset).__name__
        raise UsageError(f"image columns are made in a Polars DataFrame or a dataset, not a {kind}: collect it first")
    names = [columns] if isinstance(columns, str) else list(columns)
    _check_names(frame_or_dataset, names)
    frame = frame_or_dataset.with_columns(column_to_images(frame_or_dataset[name], store=store) for name in names)
    return cast(T, frame)


def column_to_images(column: pl.Series, *, store: GenerationStore | None = None, first_row: int = 0) -> pl.Series:
    """One column as pictures, as `transform_columns_to_image` does it; first_row: number of its first, for messages."""
    if column.dtype in (IMAGE, pl.List(IMAGE)):
        return column
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        return _lists_to_images(column, store, first_row)
    return _cells_to_images(column, store, lambda cell: f"row {first_row + cell}")


def image_struct(data: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.StructArray:
    """An array of the Hub's image type; where `data` is None, the struct itself is null."""
    # Polars makes the arrays: pyarrow.array() would import pandas where that is installed, 50 MB for nothing
    return pa.StructArray.from_arrays(
        [_binary(data), pl.Series(paths, dtype=pl.String).to_arrow().cast(pa.string())],
        fields=list(HUB_IMAGE),
        mask=pl.Series([item is None for item in data], dtype=pl.Boolean).to_arrow(),
    )


def _binary(data: Sequence[bytes | None]) -> pa.Array:
    """An array of bytes, each copied once: Arrow's own builder takes up to three times the memory."""
    ends = array("i", accumulate((len(item or b"") for item in data), initial=0))
    whole = pa.allocate_buffer(ends[-1])
    view = memoryview(whole).cast("B")
    for start, item in zip(ends, data, strict=False):
        if item is not None:
            view[start : start + len(item)] = item
    return pa.Array.from_buffers(pa.binary(), len(data), [None, pa.py_buffer(ends), whole])


def hub_schema(schema: pa.Schema, image_columns: Collection[str]) -> pa.Schema:
    """The schema under which `datasets` and the Hub read a file, with pictures in `image_columns`.

    Image columns become struct<bytes: binary, path: string> or a list of it; large, view and dictionary types plain
    ones. The metadata key `huggingface` names the feature of every column.
    """
    missing = [name for name in image_columns if name not in schema.names]
    if missing:
        raise UsageError(f"there are no image columns {', '.join(missing)}; there are {', '.join(schema.names)}")
    fields = [pa.field(f.name, _hub_type(f.type, f.name in image_columns), f.nullable) for f in schema]
    features = {field.name: _feature(field.type, field.name in image_columns) for field in fields}
    metadata = {**(schema.metadata or {}), b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.schema(fields, metadata)


def hub_features(schema: pa.Schema) -> dict[str, Any]:
    """Column → its feature of `datasets`, as JSON, of a file under its `hub_schema`; empty for another file."""
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = told.get("info", {}).get("features", {})
    return features


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns of a file that hold pictures, or lists of them."""
    return [name for name, feature in hub_features(schema).items() if _holds_images(feature)]


def _holds_images(feature: Mapping[str, Any]) -> bool:
    if feature.get("_type") == "List":
        return _holds_images(feature["feature"])
    return bool(feature.get("_type") == "Image")


def frame_to_hub_table(frame: pl.DataFrame, image_columns: Collection[str]) -> pa.Table:
    """The frame as an Arrow table under its `hub_schema`; `image_columns` hold image structs, or lists of them."""
    wide = [name for name, dtype in frame.schema.items() if dtype in (pl.Int128, pl.UInt128)]
    frame = frame.with_columns(pl.col(wide).cast(pl.String))  # Arrow has no integers of 128 bits
    schema = hub_schema(frame.head(0).to_arrow().schema, image_columns)
    return pa.concat_tables([piece.to_arrow().cast(schema) for piece in _slices(frame)])


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if frame.height < 2 or frame.estimated_size() <= _TABLE_BYTES:
        yield frame
        return
    half = frame.height // 2
    yield from _slices(frame[:half])
    yield from _slices(frame[half:])


def _check_names(frame: pl.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise UsageError(f"the frame has no column {', '.join(map(repr, missing))}; it has {', '.join(frame.columns)}")


def flat(cells: pl.Series) -> pl.Series:
    """The items of lists, at any depth, without nulls of lists; another column as it is."""
    while isinstance(cells.dtype, pl.List):
        cells = cells.explode(keep_nulls=False, empty_as_null=False)
    return cells


def _lists_to_images(column: pl.Series, store: GenerationStore | None, first_row: int) -> pl.Series:
    """Transforms the items of all lists at once, and puts them into lists of the same lengths again."""
    lengths = column.list.len()
    rows = pl.int_range(column.len(), eager=True).repeat_by(lengths.fill_null(0))
    rows = rows.explode(empty_as_null=False, keep_nulls=False)

    def place(cell: int) -> str:
        row = rows[cell]
        return f"row {first_row + row}, item {cell - rows.search_sorted(row, 'left')}"

    items = column.explode(empty_as_null=False, keep_nulls=False)
    images = items if items.dtype == IMAGE else _cells_to_images(items, store, place)
    filled = pl.DataFrame({"row": rows, "images": images}).group_by("row", maintain_order=True).agg("images")
    every = pl.DataFrame({"row": pl.int_range(column.len(), eager=True), "length": lengths})
    joined = every.join(filled, on="row", how="left", maintain_order="left")
    empty = pl.when(pl.col("length") == 0).then(pl.lit([], dtype=pl.List(IMAGE)))
    return joined.select(empty.otherwise("images").alias(column.name)).to_series()


def _cells_to_images(column: pl.Series, store: GenerationStore | None, place: Callable[[int], str]) -> pl.Series:
    """Text or bytes → image structs. place: words for the number of a cell, for messages."""
    if column.dtype not in (pl.String, pl.Binary):
        filled = column.is_not_null().arg_true()
        if filled.len():
            _refuse(column.name, place(filled[0]), f"{column.dtype} is neither text nor bytes nor an image struct")
        return pl.Series(column.name, [None] * column.len(), dtype=IMAGE)
    starts, pieces = zip(*_pieces(column), strict=True) if column.len() else ((), ())

    def convert(start: int, piece: pl.Series) -> pl.Series:
        return _piece_to_images(piece, store, lambda cell: place(start + cell))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        done = list(threads.map(convert, starts, pieces))
    return pl.concat(done).alias(column.name) if done else pl.Series(column.name, [], dtype=IMAGE)


def _pieces(column: pl.Series) -> Iterator[tuple[int, pl.Series]]:
    """Slices of about 16 MiB, each with its first row: they are worked on in threads, and stay in the cache."""
    rows = max(1, min(4096, _PIECE_BYTES * column.len() // max(1, int(column.estimated_size()))))
    for start in range(0, column.len(), rows):
        yield start, column.slice(start, rows)


def _piece_to_images(piece: pl.Series, store: GenerationStore | None, place: Callable[[int], str]) -> pl.Series:
    names: dict[int, str] = {}
    data = piece
    if piece.dtype == pl.String:
        data, names = _decoded(piece, store, place)
    paths = _paths(data, names, piece, place)
    frame = pl.DataFrame({"bytes": data, "path": paths})
    return frame.select(pl.when(pl.col("bytes").is_not_null()).then(pl.struct("bytes", "path"))).to_series()


def _decoded(
    text: pl.Series, store: GenerationStore | None, place: Callable[[int], str]
) -> tuple[pl.Series, dict[int, str]]:
    """The bytes behind text, and the file names of the cells that are store paths."""
    plain = text.str.replace(_DATA_URI, "") if text.str.starts_with("data:").any() else text
    data = plain.str.decode("base64", strict=False)
    slow = (data.is_null() & text.is_not_null()).arg_true().to_list()
    if not slow:
        return data, {}
    cells: list[bytes | None] = data.to_list()
    names: dict[int, str] = {}
    for cell in slow:
        value: str = text[cell]
        is_path = len(value) < 1024 and "." in value and not value.startswith("data:")
        if store is not None and is_path:
            cells[cell] = _read(store, value, text.name, place(cell))
            names[cell] = value.rpartition("/")[2]
            continue
        try:
            cells[cell] = decode_base64(value)
        except ImageError as error:
            hint = "; to read paths, give the store" if store is None and is_path else ""
            _refuse(text.name, place(cell), f"{_shown(value)}{error}{hint}", error)
    return pl.Series(text.name, cells, dtype=pl.Binary), names


def _read(store: GenerationStore, path: str, column: str, place: str) -> bytes:
    try:
        return store.read(path)
    except StorageError as error:
        raise StorageError(f"column {column!r}, {place} (counted from 0): {error}") from error


def _paths(data: pl.Series, names: dict[int, str], given: pl.Series, place: Callable[[int], str]) -> pl.Series:
    """The file name of each cell; every cell is checked to start as an image does. given: the cells, for messages."""
    suffixes = _suffixes(data)
    # without a copy of the bytes: the buffers of a view array are hashed where they lie
    views = data.to_arrow(compat_level=pl.CompatLevel.newest())
    paths: list[str | None] = []
    for cell, (view, suffix) in enumerate(zip(views, suffixes, strict=True)):
        if not view.is_valid:
            paths.append(None)
            continue
        buffer = view.as_buffer()
        if suffix is None:
            try:
                suffix = Image.from_bytes(buffer.to_pybytes()).suffix
            except ImageError as error:
                _refuse(given.name, place(cell), f"{_shown(given[cell])}{error}", error)
        paths.append(names.get(cell) or f"{hashlib.sha256(buffer).hexdigest()[:16]}.{suffix}")
    return pl.Series(paths, dtype=pl.String)


def _suffixes(data: pl.Series) -> pl.Series:
    """The suffix by the first bytes; null where only a look at the whole header can tell."""
    cells = pl.col("bytes").bin
    brand = cells.slice(4, 8)
    suffix = (
        pl.when(cells.starts_with(b"\x89PNG\r\n\x1a\n"))
        .then(pl.lit("png"))
        .when(cells.starts_with(b"\xff\xd8\xff"))
        .then(pl.lit("jpg"))
        .when(cells.starts_with(b"RIFF") & (cells.slice(8, 4) == b"WEBP"))
        .then(pl.lit("webp"))
        .when(cells.starts_with(b"GIF87a") | cells.starts_with(b"GIF89a"))
        .then(pl.lit("gif"))
        .when((brand == b"ftypavif") | (brand == b"ftypavis"))
        .then(pl.lit("avif"))
    )
    return pl.DataFrame({"bytes": data}).select(suffix.alias("suffix")).to_series()


def _shown(cell: str | bytes) -> str:
    if isinstance(cell, bytes):
        return ""
    return f"{cell if len(cell) <= 40 else cell[:40] + '…'!r} ({len(cell)} characters) is "


def _refuse(column: str, place: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise ImageError(f"column {column!r}, {place} (counted from 0): {reason}") from cause


def _hub_type(kind: pa.DataType, image: bool) -> pa.DataType:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or (image and types.is_fixed_size_list(kind)):
        return pa.list_(_hub_type(kind.value_type, image))
    if image:
        return HUB_IMAGE
    if types.is_fixed_size_list(kind):
        return pa.list_(_hub_type(kind.value_type, image), kind.list_size)
    if types.is_struct(kind):
        return pa.struct([pa.field(f.name, _hub_type(f.type, False), f.nullable) for f in kind])
    if types.is_dictionary(kind):
        return _hub_type(kind.value_type, False)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    return pa.binary() if types.is_large_binary(kind) or types.is_binary_view(kind) else kind


_DTYPES = {"halffloat": "float16", "float": "float32", "double": "float64", "date32[day]": "date32"}
"""Where Arrow's word for a type is not the one that `datasets` has."""


def _feature(kind: pa.DataType, image: bool) -> dict[str, Any]:
    """The feature of `datasets` for a type that `_hub_type` gave, as its JSON."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type, image), "_type": "List"}
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _feature(kind.value_type, image), "length": kind.list_size, "_type": "List"}
    if image:
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type, False) for field in kind}
    return {"dtype": _DTYPES.get(str(kind), str(kind)), "_type": "Value"}
