"""Rows that are in memory already, as a checked frame; and how sources tell names and errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from imagetask.errors import SourceError
from imagetask.sources.column_types import fitting


def table(rows: Any, name: str) -> pl.DataFrame:
    """Dicts from Python as a frame, no value altered. Raises `SourceError`."""
    if not all(isinstance(row, Mapping) for row in rows):
        raise SourceError(f"{name} holds more than dicts; give each row as a dict from column name to value")
    try:
        frame = pl.DataFrame([dict(row) for row in rows], infer_schema_length=None)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, OverflowError) as error:
        reason = first_line(error)
        raise SourceError(
            f"{name} makes no table ({reason}); give a column one type, and names that are text"
        ) from error
    for column, dtype in frame.schema.items():
        fits = fitting(dtype)
        for number, row in enumerate(rows):
            value = row.get(column)
            if value is not None and (fault := fits(value)):
                raise SourceError(f"{name}, row {number} (counted from 0): column {column!r} holds {fault}")
    return frame


def from_frame(frame: pl.DataFrame, name: str) -> pl.LazyFrame:
    """A frame that has rows, and no Python objects in it. Raises `SourceError`."""
    if frame.height == 0 or frame.width == 0:
        raise SourceError(f"{name} has no {'columns' if frame.height else 'rows'}; give at least one row")
    objects = [column for column, dtype in frame.schema.items() if dtype == pl.Object]
    if objects:
        raise SourceError(f"{name} holds Python objects in {quoted(objects)}; give text, numbers or lists of these")
    return frame.lazy()


def quoted(names: Collection[str]) -> str:
    """The first twenty names, for messages."""
    shown = [repr(name) for name in list(names)[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def first_line(error: BaseException) -> str:
    """What an error of another library says, in at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
