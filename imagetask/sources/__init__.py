"""Rows in: CSV, TSV, JSON lines and Parquet files wherever they are, globs of these, and frames, as one lazy frame.

Whatever is wrong with a source is a `SourceError` of one sentence: the file, what is wrong, and what to do.
"""

from __future__ import annotations

import difflib
import errno
import glob
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from imagetask.errors import SourceError, StorageError
from imagetask.source_urls import HUB, check_source_url
from imagetask.sources.files import SourceFile, format_suffix, is_data, unpacked
from imagetask.sources.rows import first_line, from_frame, quoted, table
from imagetask.sources.tables import scan_files

Places: TypeAlias = str | Path | Sequence[str | Path]
"""A file, a glob, a URL, or a list of these, of one format."""
Source: TypeAlias = Places | Sequence[SourceFile] | Sequence[Mapping[str, Any]] | pl.DataFrame | pl.LazyFrame
"""Places, the files that `source_files` found there, rows from Python, or a frame."""

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
            frame = scan_files(source_files(source, token), text, name)
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


def check_columns(
    frame: pl.LazyFrame | pl.DataFrame | pl.Schema, needed: Sequence[str], name: str, option: str | None = None
) -> None:
    """Raises `SourceError` where a needed column is missing: with the columns there are, and the nearest one.

    option: by which another column is named.
    """
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
        message += f"; did you mean {near!r}?" + (f" {option} {shlex.quote(near)}" if option else "")
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
        from imagetask.sources.hub import hub_files  # the Hub's client takes 0.3 s to import

        return hub_files(item, token)
    from imagetask.sources.objects import object_files

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


def _nearest(name: str, among: Sequence[str]) -> str | None:
    lower = {other.lower(): other for other in among}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1)
    return lower[near[0]] if near else None
