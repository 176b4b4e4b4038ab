"""The pictures of a finished dataset, row group by row group: which they are, and their bytes when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import pyarrow.parquet as pq

from imagetask.columns import image_columns
from imagetask.errors import DatasetError
from imagetask.layout import Layout
from imagetask.quality.table import KEYS
from imagetask.shards import shard_files


@dataclass
class PictureGroup:
    """The rows of a row group. column: the one with the pictures."""

    file: pq.ParquetFile
    number: int
    column: str

    @cached_property
    def keys(self) -> pl.DataFrame:
        """`KEYS` of each row; lists where a row holds several pictures. The hashes are those of the pictures here."""
        frame = _frame(self.file, self.number, list(KEYS))
        return frame if self.column == "image" else frame.with_columns(image_sha256=self._hashes())

    @property
    def hashes(self) -> pl.Series:
        """The SHA-256 of each picture, one after the other; null where there is none."""
        return flat(self.keys["image_sha256"])

    def data(self) -> list[bytes | None]:
        """The bytes of each picture, in the order of `hashes`."""
        cells = flat(_frame(self.file, self.number, [self.column])[self.column])
        return cells.struct.field("bytes").to_list()

    def _hashes(self) -> pl.Series:
        cells = _frame(self.file, self.number, [self.column])[self.column]

        def hashed(cell: object) -> str | None:
            return hashlib.sha256(cell["bytes"]).hexdigest() if isinstance(cell, dict) and cell["bytes"] else None

        if isinstance(cells.dtype, pl.List):
            values = [None if row is None else [hashed(cell) for cell in row] for row in cells.to_list()]
            return pl.Series(values, dtype=pl.List(pl.String))
        return pl.Series([hashed(cell) for cell in cells.to_list()], dtype=pl.String)


def picture_groups(layout: Layout) -> Iterator[PictureGroup]:
    """Every row group of the dataset, in order. Raises `DatasetError` where it has no pictures, or is an older one."""
    for path in shard_files(layout):
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            images = image_columns(schema)
            if not images:
                raise DatasetError(f"{layout.root} has no column of pictures: there is nothing to score")
            if missing := [name for name in KEYS if name not in schema.names]:
                raise DatasetError(f"{layout.root} has no column {missing[0]!r}: run the command that made it again")
            for number in range(file.num_row_groups):
                yield PictureGroup(file, number, "image" if "image" in images else images[0])


def flat(cells: pl.Series) -> pl.Series:
    """The cells of lists one after the other; of plain cells they themselves."""
    return cells.explode(empty_as_null=False, keep_nulls=True) if isinstance(cells.dtype, pl.List) else cells


def _frame(file: pq.ParquetFile, number: int, columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(file.read_row_group(number, columns=columns)))
