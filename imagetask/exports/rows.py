"""The rows of a finished dataset for an export: which of them, and a row group of them in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import intern

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from imagetask.columns import hub_schema, image_columns
from imagetask.errors import StorageError, UsageError
from imagetask.layout import Layout
from imagetask.quality import keep_expression, scan_scored
from imagetask.shards import shard_files

Mask = npt.NDArray[np.bool_]

_NUMBER = "_imagetask_row_number"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows under the schema of the export; numbers: of each in the dataset, from 0."""

    table: pa.Table
    numbers: npt.NDArray[np.int64]

    def where(self, mask: Mask) -> Rows:
        """These rows alone."""
        return self if mask.all() else Rows(self.table.filter(pl.Series(mask).to_arrow()), self.numbers[mask])

    def pieces(self, most_bytes: int, most_rows: int | None = None) -> Iterator[Rows]:
        """All rows, in order, in pieces of at most so many bytes and rows, or of one row."""
        rows = self.table.num_rows
        if rows < 2 or (self.table.nbytes <= most_bytes and rows <= (most_rows or rows)):
            yield self
            return
        for start, length in ((0, rows // 2), (rows // 2, rows - rows // 2)):
            piece = Rows(self.table.slice(start, length), self.numbers[start : start + length])
            yield from piece.pieces(most_bytes, most_rows)


class ScoredRows:
    """All rows of a finished dataset, with the quality columns beside its own.

    schema: of every table, as the Hub's (`hub_schema`). images: its columns of pictures.
    Raises `DatasetError` where there is no finished dataset.
    """

    def __init__(self, layout: Layout) -> None:
        self._files = shard_files(layout)
        self._scan = scan_scored(layout)
        shards = pq.read_schema(self._files[0])
        self.num_rows: int = sum(pq.read_metadata(file).num_rows for file in self._files)
        self.images = image_columns(shards)
        self._beside = [name for name in self._scan.collect_schema().names() if name not in shards.names]
        beside = self._scan.select(self._beside).head(0).collect().to_arrow().schema
        self.schema: pa.Schema = hub_schema(pa.schema([*shards, *beside]), self.images)

    def kept(self, keep: str | None) -> Mask:
        """For each row whether the SQL expression `keep` is true of it. Raises `UsageError`."""
        mask = np.full(self.num_rows, keep is None)
        if keep is not None:
            expression = keep_expression(keep, self._scan.collect_schema())
            numbers = self._scan.with_row_index(_NUMBER).filter(expression).select(_NUMBER)
            try:
                mask[numbers.collect(engine="streaming").to_series().to_numpy()] = True
            except pl.exceptions.PolarsError as error:
                raise UsageError(f"keep {keep!r} cannot be evaluated: {error}") from error
        return mask

    def suffixes(self, images: Sequence[str]) -> dict[str, npt.NDArray[np.str_]]:
        """For each of these columns the file suffix of the picture in each row, "" where there is none.

        No picture is read. The columns hold pictures, not lists of them.
        """
        found: dict[str, list[str]] = {name: [] for name in images}
        for file, group, _ in self._groups():
            paths = file.read_row_group(group, columns=[f"{name}.path" for name in images])
            for name in images:
                cells = (cell and cell["path"] for cell in paths[name].to_pylist())
                found[name] += [intern((path or "").rpartition(".")[2]) for path in cells]
        return {name: np.array(cells) for name, cells in found.items()}

    def groups(self, chosen: Mask) -> Iterator[Rows]:
        """The chosen rows of each row group; a group without any is not read. Raises `StorageError`."""
        for file, group, first in self._groups():
            rows = file.metadata.row_group(group).num_rows
            mask = chosen[first : first + rows]
            if not mask.any():
                continue
            table = file.read_row_group(group)
            beside = self._scan.select(self._beside).slice(first, rows).collect().to_arrow()
            columns = [*table.columns, *beside.columns]
            named = pa.table(columns, names=[*table.column_names, *self._beside]).select(self.schema.names)
            yield Rows(named.cast(self.schema), np.arange(first, first + rows)).where(mask)
            del table, named, columns
            pa.default_memory_pool().release_unused()

    def _groups(self) -> Iterator[tuple[pq.ParquetFile, int, int]]:
        """Each row group: its file, its number there, and the number of its first row in the dataset."""
        first = 0
        for path in self._files:
            try:
                with pq.ParquetFile(path) as file:
                    for group in range(file.num_row_groups):
                        yield file, group, first
                        first += file.metadata.row_group(group).num_rows
            except (OSError, pa.ArrowException) as error:
                raise StorageError(f"could not read {path}: {error}") from error
