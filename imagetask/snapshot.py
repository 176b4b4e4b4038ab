"""The snapshot of a source: its rows as Parquet in the dataset folder, and beside them what tells each apart."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from imagetask.crash_points import reach
from imagetask.errors import SourceError, StorageError
from imagetask.layout import Layout, write_whole

BATCH_ROWS = 20_000


def rows_digest(rows: pl.DataFrame, ordinals: pl.Series) -> str:
    """Digest of rows as `read_rows` gives them: every column with its type, and the ordinals."""
    digest = hashlib.blake2b(f"{rows.schema}\n".encode("utf-8", "surrogatepass"), digest_size=16)
    for column in rows.select(pl.selectors.float()):
        odd = column.cast(pl.Float64).is_finite().not_().fill_null(False)  # JSON has no word for these
        digest.update(f"{odd.arg_true().to_list()} {column.filter(odd).to_list()}\n".encode())
    for text in _row_texts(rows):
        digest.update(text + b"\n")
    digest.update(",".join(map(str, ordinals.to_list())).encode())
    return digest.hexdigest()


def read_rows(layout: Layout, start: int, stop: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows `start` to `stop` of the plan: the source's columns; and beside them their `row_id` and `ordinal`."""
    rows = pl.scan_parquet(layout.rows).slice(start, stop - start).collect()
    marks = pl.scan_parquet(layout.ordinals).slice(start, stop - start).collect()
    return rows, marks


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turns what Polars and the system raise while a file is written (a full disk) into a `StorageError`."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise StorageError(f"could not write {path}: {reason}") from error


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Writes a small frame as Parquet, whole or not at all. Raises `StorageError`."""
    file = io.BytesIO()
    frame.write_parquet(file)
    write_whole(path, file.getvalue())


def write_snapshot(frame: pl.LazyFrame, inputs: Sequence[str], layout: Layout, name: str) -> int:
    """Writes the rows of a source, batch by batch, and their marks beside them; gives how many they are.

    inputs: the columns that a task reads, by which rows are equal. Raises `SourceError`, `StorageError`.
    """
    temporary = layout.rows.with_name(".rows.parquet")
    reach("plan: to be written")
    hashes = array("Q")
    writer: pq.ParquetWriter | None = None
    try:
        for batch in frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, lazy=True):
            with write_errors(layout.rows), _fits_parquet(name):
                table = batch.to_arrow()
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
            hashes.extend(_hashes(batch, inputs))
        if writer is not None:
            with write_errors(layout.rows):
                writer.close()
    except BaseException:
        _abandon(writer, temporary)
        raise
    if not hashes:
        raise SourceError(f"{name} has no rows: nothing to generate")
    with write_errors(layout.rows):
        reach("plan: rows written")
        _marks(hashes).write_parquet(layout.ordinals)
        reach("plan: ordinals in place")
        temporary.replace(layout.rows)
        reach("plan: snapshot in place")
    return len(hashes)


def _abandon(writer: pq.ParquetWriter | None, temporary: Path) -> None:
    """Gives back the room that an unfinished file takes: the disk may be full."""
    with suppress(OSError):
        if writer is not None:
            writer.close()
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def first_marks(rows: pl.DataFrame, inputs: Sequence[str]) -> pl.DataFrame:
    """The `ordinal` and the `row_id` that the first rows of a source have in its snapshot."""
    return _marks(array("Q", _hashes(rows, inputs)))


@contextmanager
def _fits_parquet(name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"{name} has a column of a type that Parquet does not hold ({error}); cast it, for example to text"
        ) from error


def _hashes(rows: pl.DataFrame, inputs: Sequence[str]) -> Iterator[int]:
    """Of each row's inputs, 64 bits; without any inputs all rows are equal."""
    for text in _row_texts(rows.select(inputs)) if inputs else [b"{}"] * rows.height:
        yield int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _marks(hashes: array[int]) -> pl.DataFrame:
    """The ordinal of each row, and its id, which stays when rows are put in or notes change.

    The id is a hash of the task's inputs, with the ordinal after it where that is not 0.
    """
    marks = pl.DataFrame({"hash": pl.Series(hashes, dtype=pl.UInt64)}).select(
        "hash", ordinal=pl.int_range(pl.len(), dtype=pl.UInt32).over("hash")
    )
    hashed = pl.col("hash").map_elements(lambda value: f"{value:016x}", return_dtype=pl.String)
    again = pl.format("{}-{}", hashed, pl.col("ordinal"))
    return marks.select("ordinal", row_id=pl.when(pl.col("ordinal") == 0).then(hashed).otherwise(again))


def _row_texts(frame: pl.DataFrame) -> list[bytes]:
    """Canonical text of each row: equal rows, equal text."""
    flat = [name for name, dtype in frame.schema.items() if dtype == pl.Binary]
    nested = [name for name, dtype in frame.schema.items() if name not in flat and _holds_binary(dtype)]
    frame = frame.with_columns(
        pl.col(flat).bin.encode("base64"),
        *(pl.Series(name, map(_nested_text, frame[name].to_list()), pl.String) for name in nested),
    )
    return frame.write_ndjson().encode("utf-8", "surrogatepass").split(b"\n")[: frame.height]


def _holds_binary(dtype: pl.DataType) -> bool:
    """Whether bytes are in it, at any depth: Polars cannot write those as JSON."""
    if isinstance(dtype, pl.Struct):
        return any(_holds_binary(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
    return dtype == pl.Binary or (isinstance(dtype, pl.List | pl.Array) and _holds_binary(dtype.inner))  # type: ignore[arg-type]


def _nested_text(value: Any) -> str:
    def plain(item: Any) -> str:
        return base64.b64encode(item).decode() if isinstance(item, bytes) else str(item)

    return json.dumps(value, default=plain)
