"""Export as Parquet: `data/SPLIT-00000.parquet`, … with the pictures in them, as the dataset's own shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from imagetask.cutting import SHARD_ROWS
from imagetask.exports.rows import Rows
from imagetask.exports.writing import SplitWriter
from imagetask.parts import ROW_GROUP_BYTES, ROW_GROUP_ROWS
from imagetask.shards import SHARD_BYTES, shard_writer


class ParquetFile:
    """A file whose row groups have at most `ROW_GROUP_ROWS` rows and `ROW_GROUP_BYTES`, or are one row."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = shard_writer(path, schema)
        self._pending: list[pa.Table] = []
        self.rows = self.num_bytes = 0

    def write(self, rows: Rows) -> None:
        for piece in rows.pieces(ROW_GROUP_BYTES, ROW_GROUP_ROWS):
            waiting = [*self._pending, piece.table]
            if sum(t.nbytes for t in waiting) > ROW_GROUP_BYTES or sum(t.num_rows for t in waiting) > ROW_GROUP_ROWS:
                self._flush()
            self._pending.append(piece.table)
            self.rows += piece.table.num_rows
            self.num_bytes += piece.table.nbytes

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        with suppress(OSError):  # what is still to be written may not fit on the disk
            self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            table = pa.concat_tables(self._pending)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._pending = []


class ParquetSplit(SplitWriter):
    """All rows, in shards of about 500 MB."""

    pictures = "none"
    _file: ParquetFile | None = None

    @classmethod
    def check(cls, schema: pa.Schema, images: Sequence[str], suffixes: Mapping[str, Set[str]]) -> None:
        """Parquet holds every row."""

    def write(self, rows: Rows) -> None:
        for piece in rows.pieces(ROW_GROUP_BYTES):
            file = self._file
            if file and (file.num_bytes + piece.table.nbytes > SHARD_BYTES or file.rows >= SHARD_ROWS):
                self.close()
            if self._file is None:
                self._file = ParquetFile(self.folder / f"data/{self.split}-{self.files:05d}.parquet", self.schema)
                self.files += 1
            self._file.write(piece)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()

    @classmethod
    def data_files(cls, split: str) -> str:
        return f"data/{split}-*.parquet"

    @classmethod
    def features(
        cls, columns: list[dict[str, Any]], schema: pa.Schema, suffixes: Mapping[str, Set[str]]
    ) -> list[dict[str, Any]]:
        return columns

    @classmethod
    def opened(cls, place: str) -> str:
        return f"datasets.load_dataset({place!r})"
