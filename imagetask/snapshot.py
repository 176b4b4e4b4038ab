"""The snapshot of a source: its rows as Parquet in the dataset folder, and beside them what tells each apart."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from imagetask.crash_points import reach
from imagetask.errors import SourceError, StorageError
from imagetask.layout import Layout, read_json, write_json, write_whole

BATCH_ROWS = 5_000
"""Rows that are held at once while a snapshot is made, and in a row group of its files, of which a chunk reads few."""

_RANGE_ROWS, _MOST_RANGES = 65_536, 64
"""Ordinals are counted range by range of the hashes: about so many rows at once, in so many ranges at most."""


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


def write_snapshot(
    frame: pl.LazyFrame, inputs: Sequence[str], layout: Layout, name: str, ids: str | None = None
) -> int:
    """Writes the rows of a source, batch by batch, and their marks beside them; gives how many they are.

    inputs: the columns that a task reads, by which rows are equal. ids: the column of the rows' own ids, if any.
    Raises `SourceError`, `StorageError`.
    """
    rows, ordinals = (path.with_name(f".{path.name}") for path in (layout.rows, layout.ordinals))
    reach("plan: to be written")
    hashes = array("Q")
    try:
        batches = frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True, lazy=True)
        _write_batches(rows, layout.rows, _noted(batches, inputs, hashes), name)
        if not hashes:
            raise SourceError(f"{name} has no rows: nothing to generate")
        reach("plan: rows written")
        marks = _marks(hashes) if ids is None else _with_own_ids(_marks(hashes), rows, ids, name)
        _write_batches(ordinals, layout.ordinals, marks, name)
        _forget_plan(layout)
        with write_errors(layout.rows):
            ordinals.replace(layout.ordinals)
            reach("plan: ordinals in place")
            rows.replace(layout.rows)
            reach("plan: snapshot in place")
    except BaseException:
        for path in (rows, ordinals):  # the disk may be full: what is not whole gives back its room
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    return len(hashes)


def _forget_plan(layout: Layout) -> None:
    """Of the plan that goes with the snapshot before this one nothing stays but the size of its chunks: killed between
    the files of a new one, there is no plan that anyone could go by."""
    known = read_json(layout.plan)
    if known is not None:
        write_json(layout.plan, {"chunk_rows": known.get("chunk_rows")})


def _noted(batches: Iterator[pl.DataFrame], inputs: Sequence[str], hashes: array[int]) -> Iterator[pl.DataFrame]:
    for batch in batches:
        yield batch
        hashes.extend(_hashes(batch, inputs))


def _write_batches(path: Path, told: Path, batches: Iterable[pl.DataFrame], name: str) -> None:
    """A Parquet file at `path`, a row group for each batch; no file without any. told: the path in messages.

    name: what messages call the source. Raises `SourceError` where a column does not fit into Parquet, `StorageError`.
    """
    writer: pq.ParquetWriter | None = None
    try:
        for batch in batches:
            with write_errors(told), _fits_parquet(name):
                table = batch.to_arrow()
                writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
                writer.write_table(table)
    except BaseException:
        with suppress(OSError):
            if writer is not None:
                writer.close()
        raise
    if writer is not None:
        with write_errors(told):
            writer.close()


def first_marks(rows: pl.DataFrame, inputs: Sequence[str], ids: str | None = None) -> pl.DataFrame:
    """The `ordinal` and the `row_id` that the first rows of a source have in its snapshot."""
    marks = pl.concat(_marks(array("Q", _hashes(rows, inputs))))
    return marks if ids is None else marks.with_columns(row_id=rows[ids].cast(pl.String))


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


def _marks(hashes: array[int]) -> Iterator[pl.DataFrame]:
    """The ordinal of each row, and its id, which stays when rows are put in or notes change; batch by batch.

    The id is a hash of the task's inputs, with the ordinal after it where that is not 0.
    """
    ordinals = _ordinals(hashes)
    for start in range(0, len(hashes), BATCH_ROWS):
        hashed = [f"{value:016x}" for value in hashes[start : start + BATCH_ROWS]]
        marks = pl.DataFrame({"ordinal": ordinals.slice(start, BATCH_ROWS), "row_id": hashed})
        again = pl.format("{}-{}", "row_id", "ordinal")
        yield marks.with_columns(row_id=pl.when(pl.col("ordinal") == 0).then("row_id").otherwise(again))


def _with_own_ids(marks: Iterator[pl.DataFrame], rows: Path, column: str, name: str) -> Iterator[pl.DataFrame]:
    """The marks, with the cells of a column of the snapshot as ids. Raises `SourceError` for a null, and for one that
    is there twice."""
    hashes = array("Q")
    first = 0
    for batch in marks:
        ids = pl.scan_parquet(rows).select(column).slice(first, batch.height).collect()[column].cast(pl.String)
        if ids.null_count():
            raise SourceError(
                f"{name}, row {first + ids.is_null().arg_true()[0]} (counted from 0): {column!r} is empty"
            )
        hashes.extend(_hashes(ids.to_frame(), [column]))
        first += batch.height
        yield batch.with_columns(row_id=ids)
    again = (_ordinals(hashes) > 0).arg_true()
    if len(again):
        twice = pl.scan_parquet(rows).select(column).slice(again[0], 1).collect().item()
        raise SourceError(
            f"{name}, row {again[0]} (counted from 0): {column!r} holds {str(twice)[:40]!r} a second time; an id is of "
            "one row"
        )


def _ordinals(hashes: array[int]) -> pl.Series:
    """The how-many-eth each row is among those of its hash (UInt32).

    In 12 bytes a row, and what the work on one range of hashes takes: rows that are all equal are all in one.
    """
    known = pl.Series(hashes, dtype=pl.UInt64)
    ordinals = pl.repeat(0, len(known), dtype=pl.UInt32, eager=True)
    ranges = min(_MOST_RANGES, -(-len(known) // _RANGE_ROWS))
    edges = [number * 2**64 // ranges for number in range(ranges)] + [2**64]
    for low, high in pairwise(edges):
        own = _of_range(known, low, high - 1).filter(pl.col("hash").is_duplicated())
        own = own.select("row", ordinal=pl.int_range(pl.len(), dtype=pl.UInt32).over("hash"))
        ordinals = ordinals.scatter(own["row"], own["ordinal"])
    return ordinals


def _of_range(hashes: pl.Series, low: int, high: int) -> pl.DataFrame:
    """The rows of `hashes` from `low` to `high`: `row` (UInt32) and `hash`, in order."""
    found = []
    for start in range(0, len(hashes), _RANGE_ROWS):
        piece = pl.DataFrame({"hash": hashes.slice(start, _RANGE_ROWS)}).with_row_index("row", start)
        within = pl.col("hash").is_between(pl.lit(low, pl.UInt64), pl.lit(high, pl.UInt64))
        found.append(piece.filter(within))
    return pl.concat(found)


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
