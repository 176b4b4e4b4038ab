"""Which rows to keep, as a Polars SQL expression over the columns of a dataset and its scores."""

from __future__ import annotations

import difflib

import polars as pl

from imagetask.errors import UsageError

_EXAMPLE = "\"status = 'done' AND blur > 100 AND NOT duplicate\""


def keep_expression(text: str, schema: pl.Schema) -> pl.Expr:
    """The expression, checked: its columns are there, and it is true or false of a row. Raises `UsageError`."""
    try:
        expression = pl.sql_expr(text)
        missing = [name for name in expression.meta.root_names() if name not in schema]
        if not missing:
            kind = pl.LazyFrame(schema=schema).select(kept=expression).collect_schema()["kept"]
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"keep {text!r} is no SQL expression ({_first(error)}): expected one as in {_EXAMPLE}"
        ) from error
    if missing:
        near = difflib.get_close_matches(missing[0], schema.names(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(schema.names())}"
        raise UsageError(f"keep {text!r} names {missing[0]!r}, which is no column; {hint}")
    if kind != pl.Boolean:
        raise UsageError(f"keep {text!r} gives {kind}: expected what is true or false of a row, as in {_EXAMPLE}")
    return expression


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
