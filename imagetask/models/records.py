"""A generation as the record that the store keeps of it, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imagetask.models.base import Generation
from imagetask.redact import one_line
from imagetask.store import GenerationStore

_RECORDED = (
    "model_name",
    "prompt",
    "seed",
    "generation",
    "error_kind",
    "error_message",
    "attempts",
    "latency",
    "cost",
    "cost_source",
    "created_at",
)


def to_record(generation: Generation) -> dict[str, Any]:
    """JSON-able; the store adds key and image, and the time where none is known."""
    record = {name: getattr(generation, name) for name in _RECORDED}
    return record | {
        "parameters": dict(generation.parameters),
        "maybe_billed": generation.maybe_billed,
        "info": dict(generation.info),
    }


def plain_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a backend said beside the picture, as JSON: text in place of what JSON has no word for."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(info), default=str, skipkeys=True))
    except (TypeError, ValueError) as error:
        return {"unreadable": one_line(str(error))}
    return plain


def from_record(record: Mapping[str, Any], store: GenerationStore) -> Generation:
    """The generation, reused, with its image as a place in the store."""
    image = record.get("image")
    return Generation(
        **{name: record.get(name) for name in _RECORDED},  # type: ignore[arg-type]
        parameters=record.get("parameters", {}),
        key=record["key"],
        image=store.image(image) if image else None,
        reused=True,
        maybe_billed=bool(record.get("maybe_billed")),
        info=record.get("info", {}),
    )
