"""Rows in: CSV, TSV, JSON lines and Parquet files wherever they are, globs of these, and frames, as one lazy frame.

Whatever is wrong with a source is a `SourceError` of one sentence: the file, what is wrong, and what to do.
"""

from __future__ import annotations

import difflib
import errno
import glob
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from imagetask.errors import SourceError, StorageError
from imagetask.source_faults import FAULTS, RECORDS, encoding_fault, json_fault, quote_fault, return_fault
from imagetask.source_files import SourceFile, format_suffix, is_data, unpacked
from imagetask.source_rows import first_line, from_frame, quoted, table
from imagetask.source_urls import HUB, check_source_url

Places: TypeAlias = str | Path | Sequence[str | Path]
"""A file, a glob, a URL, or a list of these, of one format."""
Source: TypeAlias = Places | Sequence[SourceFile] | Sequence[Mapping[str, Any]] | pl.DataFrame | pl.LazyFrame
"""Places, the files that `source_files` found there, rows from Python, or a frame."""

_SMALL_PIECES = {"POLARS_CSV_CHUNK_SIZE": "1000000", "POLARS_CSV_CHUNK_PREFETCH_LIMIT": "2"}
"""Of a CSV or TSV file Polars holds so few bytes at once: by its own measure it reads ahead, and takes 340 MB for a
file of 230 MB, against 127 MB so, in no more time (polars 2.1)."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def scan_source(
    source: Source,
    *,
    text_columns: Collection[str] = (),
    rename: Mapping[str, str] | None = None,
    token: str | None = None,
) -> pl.LazyFrame:
    """The rows of a source, in order; files in the order of the list, or sorted where they came from a glob.

    token: for the Hub; None for HF_TOKEN.
    text_columns: columns of CSV and TSV files that stay text whatever they hold, by their old or new name.
    rename: {"old": "new"}, for columns of the source.

    In CSV and TSV files an empty unquoted cell is null, and a row without any cell filled is left out (but for
    one-column files). A column is Int64 or Float64 only where nothing is lost by it, else String: "007" and "1.10"
    stay text.
    TSV has no quoting. JSON lines and Parquet keep their types. CSV and TSV files are read through once here, in
    a stream, to find the types. Raises `SourceError`; a lazy frame is not read here, so it may still have no rows.
    """
    name = source_name(source)
    text = {*text_columns, *(old for old, new in (rename or {}).items() if new in text_columns)}
    with read_errors(name):
        if isinstance(source, pl.LazyFrame):
            frame = source
        elif isinstance(source, pl.DataFrame):
            frame = from_frame(source, name)
        elif _is_rows(source):
            frame = from_frame(table(source, name), name)
        else:
            frame = _from_files(source_files(source, token), text, name)
        return _renamed(frame, rename, name) if rename else frame


def source_name(source: Source) -> str:
    """What messages call the source: "prompts.csv", "a.csv and 3 more files", "a frame of 12 rows"."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, pl.LazyFrame):
        return "a lazy frame"
    if isinstance(source, pl.DataFrame):
        return f"a frame of {source.height} rows"
    if not isinstance(source, list | tuple):
        return f"a source of type {type(source).__name__}"
    if _is_rows(source) or not source:
        return f"a list of {len(source)} rows"
    first, more = source[0], len(source) - 1
    name = first.name if isinstance(first, SourceFile) else str(first)
    return f"{name} and {more} more file{'s' if more > 1 else ''}" if more else name


@contextmanager
def read_errors(name: str) -> Iterator[None]:
    """Turns what Polars and the system raise while rows are read into a `SourceError` that names the source.

    A full or read-only disk, met while rows are read and written in one go, is a `StorageError`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise StorageError(f"the disk refused while {name} was read: {error.strerror}") from error
        raise SourceError(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        raise SourceError(f"{name} cannot be read: {first_line(error)}") from error


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


def check_columns(frame: pl.LazyFrame | pl.DataFrame | pl.Schema, needed: Sequence[str], name: str) -> None:
    """Raises `SourceError` where a needed column is missing: with the columns there are, and the nearest one."""
    if isinstance(frame, pl.LazyFrame | pl.DataFrame):
        with read_errors(name):
            frame = frame.collect_schema()
    columns = frame.names()
    missing = [column for column in needed if column not in columns]
    if not missing:
        return
    message = f"{name} has no column {quoted(missing)}; it has {quoted(columns)}"
    near = _nearest(missing[0], columns)
    if near is not None:
        option = f" --prompt-column {shlex.quote(near)}" if len(needed) == 1 else ""
        message += f"; did you mean {near!r}?{option}"
    raise SourceError(message)


def _is_rows(source: object) -> bool:
    return isinstance(source, list | tuple) and any(isinstance(row, Mapping) for row in source)


def _renamed(frame: pl.LazyFrame, rename: Mapping[str, str], name: str) -> pl.LazyFrame:
    schema = frame.collect_schema()
    check_columns(schema, list(rename), name)
    new = [rename.get(column, column) for column in schema.names()]
    twice = sorted({column for column in new if new.count(column) > 1})
    if twice:
        raise SourceError(f"{name} would have two columns {quoted(twice)} after renaming; choose another name")
    return frame.rename(dict(rename))


def source_files(source: Any, token: str | None = None) -> list[SourceFile]:
    """The files of a source, in order, fetched and unpacked where they have to be.

    Raises `SourceError`, `UsageError`, `HubError`, `StorageError`.
    """
    items = [source] if isinstance(source, str | Path) else source
    if not isinstance(items, list | tuple) or not all(isinstance(item, str | Path | SourceFile) for item in items):
        raise SourceError(
            f"a source is a file, a glob, a URL, a list of files or dicts, or a frame, not {type(source).__name__}"
        )
    if not items:
        raise SourceError("the source is an empty list; give files, or rows as dicts")
    if all(isinstance(item, SourceFile) for item in items):
        return list(items)
    found = [file for item in items for file in _found(str(item), token)]
    for file in found:
        format_suffix(file.name)
    files = [unpacked(file) for file in found]
    for file in files:
        if file.path.stat().st_size == 0:
            raise SourceError(f"{file.name} is empty (0 bytes); give a file with at least one row")
    return files


def _found(item: str, token: str | None) -> list[SourceFile]:
    """The files behind a path, a glob or a URL, as they are."""
    scheme = item.partition("://")[0]
    if "://" not in item:
        return [SourceFile(path, str(path), path.name) for path in _expand(item)]
    try:
        check_source_url(item)
    except ValueError as error:
        raise SourceError(str(error)) from error
    if scheme == HUB:
        from imagetask.source_hub import hub_files  # the Hub's client takes 0.3 s to import

        return hub_files(item, token)
    from imagetask.source_objects import object_files

    return object_files(item)


def _expand(item: str) -> list[Path]:
    path = Path(item).expanduser()
    if path.is_dir():
        suffix = next(("".join(p.suffixes) for p in sorted(path.iterdir()) if is_data(p.name)), ".csv")
        raise SourceError(f"{item} is a folder; name its files by a glob, for example {str(path / '*') + suffix!r}")
    if path.exists():
        return [path]
    if not glob.has_magic(item):
        near = _nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        hint = f"did you mean {str(path.with_name(near))!r}?" if near else "check the path"
        raise SourceError(f"there is no file {item}; {hint}")
    found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]
    if not found:
        raise SourceError(f"no file matches the glob {item!r}; check the path and the suffix")
    return found


def _from_files(files: list[SourceFile], text: Collection[str], name: str) -> pl.LazyFrame:
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


def _nearest(name: str, among: Sequence[str]) -> str | None:
    lower = {other.lower(): other for other in among}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1)
    return lower[near[0]] if near else None
