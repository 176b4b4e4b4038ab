"""The column of prompts that a template makes of others."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from imagetask.errors import SourceError
from imagetask.sources import check_columns
from imagetask.sources.rows import quoted
from imagetask.templates import template_pieces

PROMPT = "prompt"


def with_prompt(frame: pl.LazyFrame, template: str, name: str, others: Collection[str] = ()) -> pl.LazyFrame:
    """The frame with a column `prompt` (text) by the template; null where a cell that it names is null.

    name: what messages call the source. others: columns that tell rows of one prompt apart, as `seed`. Raises
    `SourceError` where a column is missing, or is no plain value, where the template names none and there are no
    others, or where there is a column `prompt` already.
    """
    pieces = template_pieces(template)
    columns = list(dict.fromkeys(column for _, column in pieces if column is not None))
    check_columns(frame, columns, name)
    if not columns and not others:
        raise SourceError(
            f"--prompt {template!r} names no column of {name}: every row would ask for the same; write, for example, "
            f"{{{frame.collect_schema().names()[0]}}}"
        )
    schema = frame.collect_schema()
    if PROMPT in schema:
        raise SourceError(
            f"{name} has a column 'prompt', and --prompt would make another: give it another name, for example with "
            "--rename prompt=subject, and write {subject} in the template"
        )
    if nested := [column for column in columns if schema[column].is_nested() or schema[column] == pl.Binary]:
        raise SourceError(f"{name} holds no text or numbers in {quoted(nested)}: --prompt takes nothing else")
    parts: list[pl.Expr] = []
    for text, column in pieces:
        parts.append(pl.lit(text))
        if column is not None:
            parts.append(pl.col(column).cast(pl.String))
    return frame.with_columns(pl.concat_str(parts).alias(PROMPT))
