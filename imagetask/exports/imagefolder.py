"""Export as an image folder: `SPLIT/00000/NUMBER.png`, …, and all other columns in `SPLIT/metadata.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from imagetask.columns import hub_features, hub_schema
from imagetask.errors import UsageError
from imagetask.exports.parquet import ParquetFile
from imagetask.exports.rows import Rows
from imagetask.exports.writing import SplitWriter, check_pictures, name_parts, stem, suffix

FOLDER_FILES = 10_000
"""Pictures in one folder, at most."""


class ImageFolderSplit(SplitWriter):
    """Rows with a picture, as `datasets` reads an `imagefolder`.

    The metadata has a column of file names first for each image column: `file_name` for `image`, else
    `COLUMN_file_name`; it is Parquet, so that types and nulls stay as they are.
    """

    pictures = "any"
    _metadata: ParquetFile | None = None
    _made: Path | None = None

    @classmethod
    def check(cls, schema: pa.Schema, images: Sequence[str], suffixes: Mapping[str, Set[str]]) -> None:
        check_pictures("imagefolder", schema, images, suffixes)
        for name in _read_as_files(hub_features(schema)):
            raise UsageError(f"imagefolder would read the column {name!r} as pictures: use parquet or webdataset")

    def write(self, rows: Rows) -> None:
        names = [pl.Series(_column(name), self._write_pictures(rows, name)).to_arrow() for name in self.images]
        rest = rows.table.drop_columns(list(self.images))
        fields = [pa.field(_column(name), pa.string()) for name in self.images]
        schema = hub_schema(pa.schema([*fields, *rest.schema]), ())
        table = pa.table([*names, *rest.columns], names=schema.names).cast(schema)
        if self._metadata is None:
            self._metadata = ParquetFile(self.folder / self.split / "metadata.parquet", schema)
            self.files += 1
        self._metadata.write(Rows(table, rows.numbers))

    def _write_pictures(self, rows: Rows, name: str) -> list[str | None]:
        """Gives the file names, below the folder of the split."""
        part = name_parts(self.images)[name]
        names: list[str | None] = []
        for number, cell in zip(rows.numbers, rows.table[name], strict=True):
            if not cell.is_valid:
                names.append(None)
                continue
            folder = f"{number // (FOLDER_FILES // len(self.images)):05d}"
            file_name = f"{folder}/{stem(number)}{'-' if part else ''}{part}.{suffix(cell)}"
            path = self.folder / self.split / file_name
            if path.parent != self._made:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._made = path.parent
            path.write_bytes(cell["bytes"].as_buffer())
            self.files += 1
            names.append(file_name)
        return names

    def close(self) -> None:
        if self._metadata is not None:
            self._metadata.close()

    def abandon(self) -> None:
        if self._metadata is not None:
            self._metadata.abandon()

    @classmethod
    def data_files(cls, split: str) -> str:
        return f"{split}/**"

    @classmethod
    def opened(cls, place: str) -> str:
        return f'datasets.load_dataset("imagefolder", data_dir={place!r})'


def _column(image: str) -> str:
    """The column of file names that `datasets` makes the image column of."""
    return "file_name" if image == "image" else f"{image}_file_name"


def _read_as_files(features: Mapping[str, Any]) -> Iterator[str]:
    """Columns and fields whose names `datasets` takes for those of file names, at any depth."""
    for name, feature in features.items():
        if re.fullmatch(r"(.*_)?file_names?", name):
            yield name
        elif isinstance(feature, Mapping) and "_type" not in feature:
            yield from _read_as_files(feature)
