"""The parts of finished chunks, as far as they are shown to people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from imagetask.chunks import read_manifest
from imagetask.plan import Chunk, read_plan
from imagetask.runs import Counts
from imagetask.settings import RunSettings


def finished_chunks(settings: RunSettings) -> Iterator[tuple[Chunk, dict[str, Any]]]:
    """Chunk and manifest of each part that is there, in the order of the plan."""
    plan = read_plan(settings.layout)
    for chunk in plan.chunks if plan else ():
        manifest = read_manifest(settings.layout, chunk)
        if manifest is not None:
            yield chunk, manifest


def counts_of_parts(settings: RunSettings) -> Counts:
    """What became of the generations of finished chunks, by their manifests."""
    return Counts.of(manifest for _, manifest in finished_chunks(settings))


def caption(settings: RunSettings, schema: pl.Schema) -> pl.Expr:
    """What tells a row of a part to a person: its prompt; else, for other tasks, the source's first column of text."""
    source = list(schema)[: schema.names().index("row_id")]
    names = [settings.prompt_column or "prompt", *source]
    text = next((name for name in names if name in source and schema[name] == pl.String), None)
    return (pl.lit("") if text is None else pl.col(text).fill_null("")).alias("caption")
