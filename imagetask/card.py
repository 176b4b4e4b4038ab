"""The dataset card: README.md with the front matter that makes plain files load as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

_TYPES = {
    "string": "string",
    "large_string": "string",
    "bool": "bool",
    "double": "float64",
    "float": "float32",
    "binary": "binary",
    "large_binary": "binary",
}

_MEANINGS = {
    "row_id": "stays the same when rows are put in or their notes change",
    "image": "the picture, with the provider's own bytes",
    "model_name": "model that was asked",
    "status": "`done`, or `failed`",
    "error_kind": "why a row has no picture",
    "error_message": "what the backend said to that",
    "attempts": "calls made for this picture",
    "seed": "seed of this picture, sent where the backend has seeds",
    "generation": "number of the picture among those of its row, from 0",
    "reused": "the picture was in the store already",
    "maybe_billed": "a call whose answer was lost may have been charged",
    "latency": "seconds of the call that gave the picture",
}


def card_text(
    title: str, schema: pa.Schema, images: Sequence[str], counts: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    """The card of a dataset. counts: rows, images, failed (by kind), bytes. settings: what was asked, no secret."""
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
        "dataset_info": {
            "features": [_feature(field, field.name in images) for field in schema],
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


def _feature(field: pa.Field, is_image: bool) -> dict[str, Any]:
    if is_image and _is_list(field.type):
        return {"name": field.name, "list": "image"}
    return {"name": field.name, **({"dtype": "image"} if is_image else _dtype(field.type))}


def _dtype(kind: pa.DataType) -> dict[str, Any]:
    """The type as a dataset card writes it: `dtype`, `list` or `struct`."""
    if _is_list(kind):
        inner = _dtype(kind.value_type)
        return {"list": inner.get("dtype", inner.get("struct", inner))}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": kind.field(i).name, **_dtype(kind.field(i).type)} for i in range(kind.num_fields)]}
    return {"dtype": _TYPES.get(str(kind), str(kind))}


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _yaml(value: Mapping[str, Any]) -> str:
    """JSON is YAML: one key a line at the top, so that it reads well enough."""
    return "\n".join(f"{key}: {json.dumps(item, ensure_ascii=False)}" for key, item in value.items())
