"""What a page knows of all of its cards at once, to filter and sort them by: columns, with each text once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

_TEXTS = {
    "status": "_status",
    "error_kind": "error_kind",
    "error_message": "error_message",
    "model_name": "model_name",
    "provider": "provider",
    "prompt": "_prompt",
}
_NUMBERS = ("latency", "cost")
_FLAGS = ("blank", "duplicate")
_LABELS = {
    "blur": "Sharpness",
    "aspect": "Aspect",
    "colourfulness": "Colourfulness",
    "latency": "Latency (s)",
    "cost": "Cost (USD)",
}
_DIGITS = 5


def index_of(cards: pl.DataFrame, scores: Sequence[str]) -> dict[str, Any]:
    """JSON-able. `texts`: of each such column the different values, and for each card the place of its own, or null.

    `numbers`: columns of numbers with their labels; `sliders` names those of quality. `flags`: 1, 0 or null. `row`,
    `item`: where a card stands; `of`: a number that the cards of one `row_id` share. `created`: seconds since 1970.
    """
    sliders = [name for name in scores if cards[name].dtype.is_numeric() and _is_scale(name) and _varies(cards[name])]
    numbers = [*sliders, *(name for name in _NUMBERS if _varies(cards[name]))]
    created = cards["created_at"].dt.epoch("s")
    return {
        "texts": {name: _coded(cards[column]) for name, column in _TEXTS.items()},
        "numbers": {
            name: {
                "label": _LABELS.get(name, name),
                "of": _finite(cards[name]).round_sig_figs(_DIGITS).to_list(),
            }
            for name in numbers
        },
        "sliders": sliders,
        "flags": {name: cards[name].cast(pl.Int8).to_list() for name in _FLAGS if cards[name].any()},
        "created": created.to_list() if _varies(created) else None,
        "row": cards["_row"].to_list(),
        "item": cards["_item"].to_list(),
        "of": cards["row_id"].rank("dense").to_list(),
    }


def _finite(values: pl.Series) -> pl.Series:
    numbers = values.cast(pl.Float64)
    return numbers.zip_with(numbers.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64))


def _is_scale(name: str) -> bool:
    return name not in ("near_duplicate_group", "same_bytes_group")


def _varies(values: pl.Series) -> bool:
    return values.drop_nulls().n_unique() > 1


def _coded(values: pl.Series) -> dict[str, Any]:
    different = values.drop_nulls().unique(maintain_order=True)
    codes = pl.DataFrame({"value": different}).with_row_index("code")
    joined = values.alias("value").to_frame().join(codes, on="value", how="left", maintain_order="left")
    return {"values": different.to_list(), "of": joined["code"].to_list()}
