"""The dataset card: README.md with the front matter that makes plain files load as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from imagetask.columns import hub_features, image_columns

_MEANINGS = {
    "row_id": "stays the same when rows are put in or their notes change",
    "image": "the picture, with the provider's own bytes",
    "model_name": "model that was asked",
    "status": "`done`, `failed`, or `pending`: not asked for, since a budget was reached",
    "error_kind": "why a row has no picture",
    "error_message": "what the backend said to that",
    "attempts": "calls made for this picture",
    "seed": "seed of this picture, sent where the backend has seeds",
    "generation": "number of the picture among those of its row, from 0",
    "reused": "the picture was in the store already",
    "maybe_billed": "a call whose answer was lost may have been charged",
    "cost": "USD of the calls that brought a picture for this row",
    "cost_source": "`reported` by the backend, by a `price table`, `local` (free), or `unknown`",
    "asked_size": "width and height that were asked for (px), where they were",
    "image_size": "width and height of the picture (px)",
    "latency": "seconds of the call that gave the picture",
}


def card_text(title: str, schema: pa.Schema, counts: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The card of a dataset whose shards have the `hub_schema` given.

    counts: rows, images, failed (by kind), pending, bytes. settings: what was asked, no secret.
    """
    images = image_columns(schema)
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        "dataset_info": {
            "features": _fields(hub_features(schema)),
            "splits": [{"name": "train", "num_bytes": counts["bytes"], "num_examples": counts["rows"]}],
        },
        "tags": ["imagetask", "synthetic"],
        "task_categories": ["text-to-image"],
    }
    failed = counts["failed"]
    lines = [
        "---",
        _yaml(front),
        "---",
        "",
        f"# {title}",
        "",
        f"{counts['rows']:,} rows and {counts['images']:,} images, generated with imagetask by "
        f"{' and '.join(f'`{model}`' for model in settings['model'])}.",
        "",
        f"Failed: {sum(failed.values()):,}" + (f" ({_by_kind(failed)})." if failed else "."),
        *([f"Pending: {counts['pending']:,}, since a budget was reached."] if counts["pending"] else []),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset({title!r}, split="train")  # or the path of this folder',
        f"rows[0][{images[0] if images else 'image'!r}]",
        "```",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
        *(f"| `{f.name}` | {'image' if f.name in images else f.type} | {_MEANINGS.get(f.name, '')} |" for f in schema),
        "",
        "How it was made:",
        "",
        "```json",
        json.dumps(settings, indent=1, ensure_ascii=False, default=str),
        "```",
        "",
    ]
    return "\n".join(lines)


def _by_kind(failed: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(failed.items()))


def _fields(features: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **_described(feature)} for name, feature in features.items()]


def _described(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as a dataset card writes it: `dtype`, `list` or `struct`."""
    match feature.get("_type"):
        case "List":
            inner = _described(feature["feature"])
            short = next(iter(inner.values())) if inner.keys() in ({"dtype"}, {"struct"}) else inner
            length = {"length": feature["length"]} if "length" in feature else {}
            return {"list": short, **length}
        case "Value":
            return {"dtype": feature["dtype"]}
        case "Image":
            return {"dtype": "image"}
    return {"struct": _fields(feature)}


def _yaml(value: Mapping[str, Any]) -> str:
    """JSON is YAML: one key a line at the top, so that it reads well enough."""
    return "\n".join(f"{key}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items())
