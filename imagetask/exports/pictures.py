"""The image columns of rows encoded anew, and what other columns tell of the pictures brought up to date."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from imagetask.columns import image_struct
from imagetask.errors import ImageError
from imagetask.exports.encoding import Encoding
from imagetask.exports.rows import Rows
from imagetask.images import Image

_AT_ONCE = 4_000_000
"""Bytes of rows that are worked on at once: what is a JPEG may have ten times the bytes as PNG."""

_TOLD: Mapping[str, Callable[[Image], object]] = {
    "image_format": lambda image: image.format,
    "image_bytes": lambda image: image.num_bytes,
    "image_sha256": lambda image: image.sha256,
    "image_size": lambda image: f"{image.width}x{image.height}",
}
"""Columns that tell of the encoded picture."""

_Encode = Callable[[pa.StructArray], list[pa.Array]]
"""Pictures → the pictures encoded, and the columns `_TOLD` of them."""


def encode_pictures(rows: Iterator[Rows], images: Sequence[str], encoding: Encoding) -> Iterator[Rows]:
    """The same rows, in order, with the pictures of all image columns, or lists of them, encoded so.

    `image_format`, `image_bytes`, `image_sha256` and `image_size` then tell of the pictures in the column `image`, or
    in the only image column; where there is neither, they are null. In memory are a few MB of pictures beside the rows.
    Raises `ImageError`, naming column and row, for one that cannot be decoded.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:

        def encode(items: pa.StructArray) -> list[pa.Array]:
            return _encoded(items, encoding, threads)

        for group in rows:
            for few in group.pieces(_AT_ONCE):
                yield _with_pictures(few, images, encode)


def _with_pictures(rows: Rows, images: Sequence[str], encode: _Encode) -> Rows:
    main = "image" if "image" in images else images[0] if len(images) == 1 else None
    table, told = rows.table, [pa.nulls(rows.table.num_rows)] * len(_TOLD)
    for name in images:
        try:
            pictures, *of_them = _in_lists(table[name].combine_chunks(), encode)
        except ImageError as error:
            if table.num_rows == 1:
                place = f"column {name!r}, row {rows.numbers[0]} (counted from 0)"
                raise ImageError(f"{place}: {error}") from error
            for one in rows.pieces(0):
                _with_pictures(one, images, encode)  # finds the row, and raises
            raise
        table = _with_column(table, name, pictures)
        told = of_them if name == main else told
    for name, column in zip(_TOLD, told, strict=True):
        if name in table.column_names:
            table = _with_column(table, name, column)
    return Rows(table, rows.numbers)


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with another column in its place, of the type it had; nulls where lists are not as deep."""
    number = table.schema.get_field_index(name)
    field = table.schema.field(number)
    fits = _depth(column.type) == _depth(field.type)
    return table.set_column(number, field, (column if fits else pa.nulls(len(column))).cast(field.type))


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if pa.types.is_list(kind) else 0


def _in_lists(cells: pa.Array, encode: _Encode) -> list[pa.Array]:
    """What `encode` gives of all pictures at once, in lists as they were."""
    if not pa.types.is_list(cells.type):
        return encode(cells)
    lengths = pc.fill_null(pc.list_value_length(cells), 0)
    offsets = pa.concat_arrays([pl.Series([0], dtype=pl.Int32).to_arrow(), pc.cumulative_sum(lengths)])
    items = _in_lists(cells.flatten(), encode)
    return [pa.ListArray.from_arrays(offsets, each, mask=cells.is_null()) for each in items]


def _encoded(items: pa.StructArray, encoding: Encoding, threads: Executor) -> list[pa.Array]:
    def one(cell: pa.StructScalar) -> Image | None:
        data = cell["bytes"].as_py() if cell.is_valid else None
        return None if data is None else encoding.of(Image.from_bytes(data))

    done = list(threads.map(one, items))
    names = [
        None if image is None else f"{cell['path'].as_py().rpartition('.')[0]}.{image.suffix}"
        for cell, image in zip(items, done, strict=True)
    ]
    return [
        image_struct([None if image is None else image.data for image in done], names),
        *(pl.Series([None if image is None else of(image) for image in done]).to_arrow() for of in _TOLD.values()),
    ]
