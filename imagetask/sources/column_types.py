"""Whether a value from JSON or from Python comes through a Polars column unaltered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, cast

import polars as pl

Fit: TypeAlias = Callable[[Any], str | None]
"""Takes a value that is not null; gives why it would be altered, in words that follow "the column holds", or None."""

_ONE_TYPE = "give a column one type"
_LARGEST, _SMALLEST = 2**64 - 1, -(2**63)


def fitting(dtype: pl.DataType) -> Fit:
    """The check for a column of this type. Numbers, true and false that stand beside text become text, which is taken.

    A type that neither JSON nor a plain Python value has takes everything.
    """
    if isinstance(dtype, pl.Struct):
        return partial(_object, {field.name: fitting(cast("pl.DataType", field.dtype)) for field in dtype.fields})
    if isinstance(dtype, pl.List | pl.Array):
        return partial(_list, fitting(cast("pl.DataType", dtype.inner)))
    if dtype.is_integer():
        return _whole
    if dtype.is_float():
        return _real
    if dtype == pl.String:
        return _text
    return _boolean if dtype == pl.Boolean else _anything


def _object(fields: Mapping[str, Fit], value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return _among(value, "objects") if isinstance(value, bool | int | float | str | list) else None
    for name, item in value.items():
        if item is not None and (reason := fields[name](item) if name in fields else "a name that is left out"):
            return f"under {name!r} {reason}"
    return None


def _list(fits: Fit, value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return _among(value, "lists") if isinstance(value, bool | int | float | str | dict) else None
    return next((reason for item in value if item is not None and (reason := fits(item))), None)


def _whole(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return _among(value, "whole numbers")
    return None if _SMALLEST <= value <= _LARGEST else _too_long(value)


def _real(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _among(value, "numbers")
    if isinstance(value, int) and not (abs(value) <= 2**53 or int(float(value)) == value):
        return f"the number {str(value)[:40]}, of which fractions beside it would cost digits; {_ONE_TYPE}"
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, dict | list):
        return _among(value, "text")
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        return _too_long(value)
    if isinstance(value, str) and not is_whole_text(value):
        return "half of a surrogate pair, which no text may hold; write the whole character"
    return None


def is_whole_text(text: str) -> bool:
    """Whether it can be written as UTF-8: no half of a surrogate pair is in it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else _among(value, "true and false")


def _anything(_: Any) -> str | None:
    return None


_WORDS = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}


def _among(value: Any, others: str) -> str | None:
    return f"{_WORDS.get(type(value), type(value).__name__)} among {others}; {_ONE_TYPE}"


def _too_long(number: int) -> str:
    return f"the number {str(number)[:40]}, which has more than 64 bits; write such numbers as text"
