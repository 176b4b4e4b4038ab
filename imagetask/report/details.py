"""What a card says when it is opened: every column of its row, in words, in groups."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl

from imagetask.card.columns import MEANINGS
from imagetask.report.cards import Rows

_ASKED = ("model_name", "provider", "seed", "generation", "asked_size", "parameters")
_CAME = (
    *("image_size", "image_format", "image_bytes", "latency", "created_at", "attempts", "reused", "maybe_billed"),
    *("cost", "cost_source", "image_sha256", "raw_input", "raw_output"),
)
_SHOWN_ABOVE = ("asked_prompt", "error_kind", "error_message")
_SIZES = ("asked_size", "image_size")
_JSON = ("parameters", "raw_input", "raw_output")
_LONGEST_JSON = 10_000


class Details:
    """The texts of cards. fields: group, name and meaning of each, in order."""

    def __init__(self, rows: Rows) -> None:
        groups = {"Asked": _ASKED, "Answered": _CAME, "Quality": rows.scores}
        known = {name for names in groups.values() for name in names} | set(_SHOWN_ABOVE)
        groups["Row"] = ["row_id", *(name for name in rows.schema if name not in known and name != "row_id")]
        source = set(rows.source)
        self.fields: Sequence[tuple[str, str, str]] = [
            (group, name, "of the source" if name in source else MEANINGS.get(name, "").replace("`", ""))
            for group, names in groups.items()
            for name in names
            if name in rows.schema
        ]

    def texts(self, cards: pl.DataFrame) -> Iterator[list[str | None]]:
        """For each card the words of each field; None where there is nothing to say, or its prompt says it."""
        names = [name for _, name, _ in self.fields]
        for *row, prompt in cards.select(*names, "_prompt").iter_rows():
            pairs = zip(names, row, strict=True)
            yield [None if value is None or value == prompt else _words(name, value) for name, value in pairs]


def _words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(name, value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}{' UTC' if value.tzinfo else ''}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, str):
        if name in _SIZES:
            return f"{value.replace('x', ' × ')} px"
        return _json_lines(value) if name in _JSON else value
    return json.dumps(value, ensure_ascii=False, default=str)[:_LONGEST_JSON]


def _number(name: str, value: float) -> str:
    if name == "cost":
        return f"${value:.4g}"
    if name == "latency":
        return f"{value:.3g} s"
    if isinstance(value, int):
        return f"{value:,} bytes" if name == "image_bytes" else str(value)
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _json_lines(text: str) -> str:
    """A JSON object as a line for each of its names; other text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(value, Mapping):
        return text
    told = ((name, one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)) for name, one in value.items())
    return "\n".join(f"{name}: {one}" for name, one in told) or "none"
