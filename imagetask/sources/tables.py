"""The files of a source → one lazy frame; where one cannot be read, the line that is to blame."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from imagetask.errors import SourceError
from imagetask.sources.faults import FAULTS, RECORDS, encoding_fault, json_fault, quote_fault, return_fault
from imagetask.sources.files import SourceFile
from imagetask.sources.rows import quoted

_SMALL_PIECES = {"POLARS_CSV_CHUNK_SIZE": "1000000", "POLARS_CSV_CHUNK_PREFETCH_LIMIT": "2"}
"""Of a CSV or TSV file Polars holds so few bytes at once: by its own measure it reads ahead, and takes 340 MB for a
file of 230 MB, against 127 MB so, in no more time (polars 2.1)."""


@contextmanager
def in_small_pieces() -> Iterator[None]:
    """Has Polars read the text files of a source in small pieces, where the environment does not say how."""
    ours = {name: value for name, value in _SMALL_PIECES.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def scan_files(files: list[SourceFile], text: Collection[str], name: str) -> pl.LazyFrame:
    """The rows of all files, in order. text: columns that stay text; name: of the source. Raises `SourceError`."""
    formats = {file.format: file for file in files}
    if len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        raise SourceError(f"{name} mixes {one} ({first.name}) and {other} ({second.name}); give files of one format")
    [kind] = formats
    with _diagnosed(files, kind):
        frame = _joined([_READERS[kind](file) for file in files], files)
        if kind in ("CSV", "TSV"):
            return _typed(frame, files, kind, text, name)
        if kind == "Parquet" and frame.select(pl.len()).collect().item() == 0:
            raise SourceError(f"{name} has no rows; give a file with at least one row")
        if kind == "JSON lines":
            _refuse_faults(files, lambda path: json_fault(path, frame.collect_schema()))
        return frame


def _scan_text(file: SourceFile, kind: str) -> pl.LazyFrame:
    """The file with every column as text, and the header's names as they are written."""
    separator, quote = ("\t", None) if kind == "TSV" else (",", '"')
    _refuse_faults([file], lambda path: return_fault(path, kind) or (quote_fault(path) if kind == "CSV" else None))
    names = next((cells for _, cells, _ in RECORDS[kind](file.path) if cells), [])
    twice = sorted({name for name in names if names.count(name) > 1})
    if any("\0" in name for name in names):
        raise SourceError(f"{file.name}, line 1: a column's name holds a NUL; save the file as UTF-8, without NULs")
    if not names or twice:
        what = f"has more than one column {quoted(twice)}; give each its own name" if twice else "has no header"
        raise SourceError(f"{file.name} {what}")
    frame = pl.scan_csv(file.path, separator=separator, quote_char=quote, infer_schema=False, glob=False)
    read = frame.collect_schema().names()
    if len(read) != len(names):
        raise SourceError(f"{file.name} has a header that cannot be read; end each line with a line feed")
    return frame if read == names else frame.rename(dict(zip(read, names, strict=True)))


def _scan_json(file: SourceFile) -> pl.LazyFrame:
    frame = pl.scan_ndjson(glob.escape(str(file.path)), infer_schema_length=None)
    if not frame.collect_schema():
        raise SourceError(f"{file.name} has objects without a single key; give at least one column")
    return frame


def _scan_parquet(file: SourceFile) -> pl.LazyFrame:
    with file.path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(max(file.path.stat().st_size - 4, 0))
        tail = raw.read(4)
    if head != b"PAR1" or tail != b"PAR1":
        what = "cut short: its last bytes are missing" if head == b"PAR1" else "not Parquet: its first bytes are others"
        raise SourceError(f"{file.name} is {what}; write or download it again")
    frame = pl.scan_parquet(file.path, glob=False)
    frame.collect_schema()
    return frame


_READERS: Mapping[str, Callable[[SourceFile], pl.LazyFrame]] = {
    "CSV": lambda file: _scan_text(file, "CSV"),
    "TSV": lambda file: _scan_text(file, "TSV"),
    "JSON lines": _scan_json,
    "Parquet": _scan_parquet,
}


def _joined(frames: list[pl.LazyFrame], files: list[SourceFile]) -> pl.LazyFrame:
    """The rows of all files in order, with the columns in the first one's order."""
    first = frames[0].collect_schema()
    for frame, file in zip(frames[1:], files[1:], strict=True):
        schema = frame.collect_schema()
        if set(schema) != set(first):
            differs = quoted(sorted(set(schema) ^ set(first)))
            raise SourceError(
                f"{file.name} has the columns {quoted(schema.names())}, {files[0].name} has {quoted(first.names())}; "
                f"give files that agree on {differs}"
            )
        for column, dtype in schema.items():
            kinds = {dtype.is_nested(), first[column].is_nested()}
            if len(kinds) > 1 and pl.Null not in (dtype, first[column]):
                raise SourceError(
                    f"column {column!r} is {dtype} in {file.name}, {first[column]} in {files[0].name}; give it one type"
                )
    if len(frames) == 1:
        return frames[0]
    return pl.concat([frame.select(first.names()) for frame in frames], how="vertical_relaxed")


def _typed(frame: pl.LazyFrame, files: list[SourceFile], kind: str, text: Collection[str], name: str) -> pl.LazyFrame:
    """Casts the columns of text whose cells are all numbers, found in one streaming pass over the files."""
    names = frame.collect_schema().names()
    blank = pl.all_horizontal(pl.all().is_null()) if len(names) > 1 else pl.lit(False)
    found = frame.select(
        rows=pl.len(),
        blank=blank.sum() if len(names) > 1 else pl.lit(0),
        open=(pl.col(names[-1]).is_null() & ~blank).sum(),
        types=pl.concat_list([_number_type(column) for column in names]),
    )
    with in_small_pieces():
        rows, blanks, open_ends, types = found.collect(engine="streaming").row(0)
    if rows == blanks:
        raise SourceError(f"{name} has a header and no rows; give a file with at least one row")
    if open_ends:
        _raise_fault(files, kind)
    casts = {column: (pl.Int64, pl.Float64)[t - 1] for column, t in zip(names, types, strict=True) if t}
    frame = frame.filter(~blank) if blanks else frame
    return frame.with_columns(pl.col(c).cast(dtype) for c, dtype in casts.items() if c not in text)


def _number_type(column: str) -> pl.Expr:
    """1 where all cells of a column of text come back from Int64 as they were written, 2 from Float64, else 0."""
    cells = pl.col(column)
    whole = cells.cast(pl.Int64, strict=False).cast(pl.String).eq_missing(cells).all()
    number = cells.cast(pl.Float64, strict=False)
    real = (number.is_finite() & number.cast(pl.String).eq_missing(cells)).all()
    return pl.when(cells.count() == 0).then(0).when(whole).then(1).when(real).then(2).otherwise(0)


@contextmanager
def _diagnosed(files: list[SourceFile], kind: str) -> Iterator[None]:
    """Looks, where reading failed, for the line that is to blame."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, UnicodeDecodeError) as error:
        _raise_fault(files, kind, error)
        raise


def _raise_fault(files: list[SourceFile], kind: str, cause: BaseException | None = None) -> None:
    if kind != "Parquet":
        _refuse_faults(files, lambda path: encoding_fault(path) or FAULTS[kind](path), cause)


def _refuse_faults(
    files: list[SourceFile], fault_of: Callable[[Path], str | None], cause: BaseException | None = None
) -> None:
    for file in files:
        if fault := fault_of(file.path):
            if str(file.path) != file.name:  # no command helps with a file of the cache
                fault = re.sub(r": iconv .*", " to UTF-8", fault)
            raise SourceError(f"{file.name}, {fault}") from cause
