"""Export as WebDataset: `SPLIT-000000.tar`, … with `NUMBER.png` and `NUMBER.json` for each row."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from imagetask.errors import UsageError
from imagetask.exports.rows import Rows
from imagetask.exports.writing import SplitWriter, check_pictures, name_parts, stem, suffix
from imagetask.shards import SHARD_BYTES


class WebDatasetSplit(SplitWriter):
    """Rows with all their pictures, in tar files of about 500 MB that are the same however often they are written.

    The first image column is `NUMBER.png`, further ones are `NUMBER.COLUMN.png`. All other columns are in
    `NUMBER.json`: times as ISO text, bytes as base64 text, decimals as text, spans in seconds, NaN as null.
    """

    pictures = "all"
    _tar: tarfile.TarFile | None = None

    @classmethod
    def check(cls, schema: pa.Schema, images: Sequence[str], suffixes: Mapping[str, Set[str]]) -> None:
        check_pictures("webdataset", schema, images, suffixes)
        for name in images:
            if len(suffixes[name]) > 1:
                kinds = " and ".join(sorted(suffixes[name]))
                raise UsageError(
                    f"webdataset holds pictures of one format, and {name!r} has {kinds}: give an image format too"
                )

    def write(self, rows: Rows) -> None:
        parts = name_parts(self.images).values()
        told = _json_lines(rows.table.drop_columns(list(self.images)))
        pictures = zip(*(rows.table[name] for name in self.images), strict=True)
        for number, line, cells in zip(rows.numbers, told, pictures, strict=True):
            files = {
                f"{stem(number)}{'.' if part else ''}{part}.{suffix(cell)}": cell["bytes"].as_buffer()
                for part, cell in zip(parts, cells, strict=True)
            }
            self._add({**files, f"{stem(number)}.json": line})

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None

    def abandon(self) -> None:
        if self._tar is not None and self._tar.fileobj is not None:
            with suppress(OSError):  # what is still to be written may not fit on the disk
                self._tar.fileobj.close()

    def _add(self, files: Mapping[str, bytes | pa.Buffer]) -> None:
        """Adds the files of one row; they stand in one tar."""
        if self._tar is not None and self._tar.offset + sum(map(len, files.values())) > SHARD_BYTES:
            self.close()
        if self._tar is None:
            path = self.folder / f"{self.split}-{self.files:06d}.tar"
            self._tar = tarfile.TarFile(path, "w", format=tarfile.USTAR_FORMAT)
            self.files += 1
        for name, data in files.items():
            entry = tarfile.TarInfo(name)  # of mode 644, of user 0, of 1970
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))

    @classmethod
    def data_files(cls, split: str) -> str:
        return f"{split}-*.tar"

    @classmethod
    def opened(cls, place: str) -> str:
        return f"datasets.load_dataset({place!r})"

    @classmethod
    def features(
        cls, columns: list[dict[str, Any]], schema: pa.Schema, suffixes: Mapping[str, Set[str]]
    ) -> list[dict[str, Any]]:
        """`datasets` would take them from the first rows, and fail where a column begins with nulls."""
        parts = name_parts(list(suffixes))
        files = [f"{parts[name]}{'.' if parts[name] else ''}{kind}" for name in suffixes for kind in suffixes[name]]
        frame = pl.DataFrame(pl.from_arrow(schema.empty_table())).drop(suffixes)
        fields = [{"name": name, **_feature(dtype)} for name, dtype in frame.schema.items()]
        return [
            *({"name": name, "dtype": "image"} for name in files),
            {"name": "json", "struct": fields},
            *({"name": name, "dtype": "string"} for name in ("__key__", "__url__")),
        ]


def _json_lines(table: pa.Table) -> list[bytes]:
    frame = pl.DataFrame(pl.from_arrow(table))
    frame = frame.with_columns(pl.when(cs.float().is_finite()).then(cs.float()))
    return [json.dumps(row, ensure_ascii=False, default=_json_value).encode() for row in frame.iter_rows(named=True)]


def _json_value(value: object) -> str | float:
    match value:
        case date() | time():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _feature(dtype: pl.DataType | pl.datatypes.DataTypeClass) -> dict[str, Any]:
    """A type, as JSON has its values, in the words of a dataset card."""
    if isinstance(dtype, pl.List | pl.Array):
        inner = _feature(dtype.inner)
        return {"list": next(iter(inner.values())) if inner.keys() <= {"dtype", "struct"} else inner}
    if isinstance(dtype, pl.Struct):
        return {"struct": [{"name": field.name, **_feature(field.dtype)} for field in dtype.fields]}
    if dtype.is_integer() or dtype == pl.Boolean:
        return {"dtype": "bool" if dtype == pl.Boolean else str(dtype).lower()}
    return {"dtype": "float64" if dtype.is_float() or dtype == pl.Duration else "string"}
