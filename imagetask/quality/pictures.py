"""The pictures of a finished dataset, row group by row group: which they are, and their bytes when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import pyarrow.parquet as pq

from imagetask.columns import flat, image_columns
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
        """`KEYS` of each row; lists where a row holds several pictures. The hashes are those of the pictures here.

        No picture is read, but where `image_sha256` tells of another picture, as of one that a task changed afterwards.
        """
        frame = self._read(list(KEYS))
        told = frame["image_sha256"]
        return frame if self._is_of_pictures(told) else frame.with_columns(image_sha256=self._hashed())

    @property
    def listed(self) -> bool:
        return isinstance(self.keys.schema["image_sha256"], pl.List)

    @property
    def rows(self) -> pl.Series:
        """The number of each picture's row in the group."""
        return _numbered(self.keys["image_sha256"])["row"]

    @property
    def hashes(self) -> pl.Series:
        """The SHA-256 of each picture, one after the other; null where there is none."""
        return flat(self.keys["image_sha256"])

    def data(self) -> list[bytes | None]:
        """The bytes of each picture, in the order of `hashes`."""
        cells: list[bytes | None] = flat(self._read([self.column])[self.column]).struct.field("bytes").to_list()
        return cells

    def _is_of_pictures(self, told: pl.Series) -> bool:
        """Whether these are the hashes of the pictures: the name of a picture ends with the beginning of its hash."""
        leaves = (self.file.schema.column(number).path for number in range(len(self.file.schema)))
        [leaf] = [path for path in leaves if path.startswith(f"{self.column}.") and path.endswith(".path")]
        cells, hashes = _numbered(self._read([leaf])[self.column]), _numbered(told)
        if not cells["row"].equals(hashes["row"]):
            return False
        name = cells["cell"].struct.field("path").str.extract(r"([0-9a-f]{8,})\.\w+$")
        frame = pl.DataFrame({"there": cells["cell"].is_not_null(), "name": name, "told": hashes["cell"]})
        same = pl.col("told").str.starts_with(pl.col("name")).fill_null(False)
        return bool(frame.select((same | ~(pl.col("there") | pl.col("told").is_not_null())).all()).item())

    def _hashed(self) -> pl.Series:
        cells = self._read([self.column])[self.column]
        data = flat(cells).struct.field("bytes")
        hashes = [None if item is None else hashlib.sha256(item).hexdigest() for item in data]
        numbered = _numbered(cells).with_columns(cell=pl.Series(hashes, dtype=pl.String))
        return nested(numbered, len(cells))["cell"] if isinstance(cells.dtype, pl.List) else numbered["cell"]

    def _read(self, columns: list[str]) -> pl.DataFrame:
        return pl.DataFrame(pl.from_arrow(self.file.read_row_group(self.number, columns=columns)))


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


def nested(pictures: pl.DataFrame, height: int) -> pl.DataFrame:
    """Values of pictures as lists, one for each of so many rows; `pictures` has the number of its `row` beside each."""
    rows = pl.DataFrame({"row": pl.int_range(height, eager=True)})
    lists = pictures.group_by("row", maintain_order=True).agg(pl.all())
    return rows.join(lists, on="row", how="left", maintain_order="left").drop("row")


def _numbered(cells: pl.Series) -> pl.DataFrame:
    """`cell`, the items of lists one after the other, or plain cells, and the number of its `row` beside each."""
    frame = pl.DataFrame({"row": pl.int_range(len(cells), eager=True), "cell": cells})
    while isinstance(frame.schema["cell"], pl.List):
        frame = frame.explode("cell", keep_nulls=False, empty_as_null=False)
    return frame
