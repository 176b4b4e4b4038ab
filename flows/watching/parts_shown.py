"""What tells a row of a part to a person."""

from __future__ import annotations

import polars as pl

from imagetask.settings import RunSettings


def caption(settings: RunSettings, schema: pl.Schema) -> pl.Expr:
    """What tells a row of a part to a person: its prompt; else, for other tasks, the source's first column of text."""
    source = list(schema)[: schema.names().index("row_id")]
    names = [settings.prompt_column or "prompt", *source]
    text = next((name for name in names if name in source and schema[name] == pl.String), None)
    return (pl.lit("") if text is None else pl.col(text).fill_null("")).alias("caption")
