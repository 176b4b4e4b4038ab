"""Shards that may have been published: what others have seen keeps its name and its rows while the dataset grows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from imagetask.layout import Layout, read_json


def published_shards(layout: Layout) -> list[list[Mapping[str, Any]]]:
    """The entries of shards that were pushed, or were about to be, in order; those that share one large chunk together.

    Each tells under "chunks" of which chunks it was made: model, start, stop.
    """
    pushed = (read_json(layout.pushed) or {}).get("files") or {}
    shards = (read_json(layout.shards) or {}).get("shards") or []
    known = [entry for entry in shards if entry["file"] in pushed and entry.get("chunks")]
    return [list(entries) for _, entries in groupby(known, key=lambda entry: entry["chunks"])]


def published_ranges(layout: Layout) -> dict[int, int]:
    """The chunks of these shards, as rows of the plan: start → stop."""
    return {start: stop for entries in published_shards(layout) for _, start, stop in entries[0]["chunks"]}
