"""What each column of a dataset means, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from imagetask.columns import hub_features
from imagetask.markdown import code, table

MEANINGS: Mapping[str, str] = {
    "row_id": "stays the same when rows are put in or their notes change",
    "image": "the picture, with the provider's own bytes",
    "model_name": "model that was asked",
    "status": "`done`, `failed`, or `pending`: not asked for, since a budget was reached",
    "error_kind": "why there is no picture",
    "error_message": "what the backend said to that",
    "attempts": "calls made for this picture",
    "seed": "seed of this picture, sent where the backend has seeds",
    "generation": "number of the picture among those of its row, from 0",
    "reused": "the picture was in the store already",
    "maybe_billed": "a call whose answer was lost may have been charged",
    "cost": "USD of the calls that brought the picture",
    "cost_source": "`reported` by the backend, by a `price table`, `local` (free), or `unknown`",
    "latency": "seconds of the call that gave the picture",
    "asked_size": "width and height that were asked for (px), where they were",
    "image_size": "width and height of the picture (px)",
    "asked_prompt": "the prompt as it was sent",
    "parameters": "what was sent beside prompt and seed, as JSON",
    "provider": "who served the model, where the backend tells",
    "image_format": "format of the picture: PNG, JPEG, …",
    "image_bytes": "length of the picture's file (bytes)",
    "image_sha256": "SHA-256 of the picture's file",
    "created_at": "when the picture came, or the call failed (UTC)",
    "raw_input": "what the model was given, as JSON",
    "raw_output": "what the backend said beside the picture, as JSON",
    "blank": "all of the picture has one colour",
    "blur": "variance of the Laplacian of the grey picture: the lower, the more blurred",
    "phash": "perceptual hash, 256 bits in hex; pictures that look alike differ in few bits",
    "signature": "what near-duplicates are confirmed by: a second hash, and mean colours, in hex",
    "aspect": "width over height",
    "colourfulness": "Hasler and Süsstrunk's: 0 is grey, above 100 extremely colourful",
    "near_duplicate_group": "number of the first row of pictures that look alike; null where none does",
    "same_bytes_group": "number of the first row of pictures with the same bytes; null where there is one alone",
    "duplicate": "another picture of one of its groups stands before it",
}
"""Column → what it tells; where a task groups the generations of a row, it is a list of that."""


def columns_table(
    schema: pa.Schema, told: Mapping[str, str] = MEANINGS, *, template: str | None = None, others: str = ""
) -> str:
    """A table of the columns of a file under its `hub_schema`: name, type, meaning. The source's stand before `row_id`.

    told: meanings, markdown; others: that of columns which are neither there nor of the source. template: that the
    column `prompt` was made by.
    """
    names, features = schema.names, hub_features(schema)
    source = names[: names.index("row_id")] if "row_id" in names else []
    meanings = {**dict.fromkeys(names, others), **told, **dict.fromkeys(source, "of the source")}
    if template is not None and "prompt" in source:
        meanings["prompt"] = f"{code(template)}, filled in"
    rows = ([code(f.name), code(type_name(features.get(f.name), f.type)), meanings[f.name]] for f in schema)
    return table(["column", "type", "meaning"], rows)


def type_name(feature: Any, kind: pa.DataType) -> str:
    """A word for the type of a column: `image`, `list of image`, or Arrow's own."""
    if isinstance(feature, Mapping) and feature.get("_type") == "Image":
        return "image"
    if isinstance(feature, Mapping) and feature.get("_type") == "List":
        return f"list of {type_name(feature['feature'], kind.value_type)}"
    return str(kind)
