"""A record of the store as it is read back: whole and of the right types, or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from imagetask.errors import ErrorKind
from imagetask.images import FORMATS

RECORD_VERSION = 1
_KINDS = get_args(ErrorKind)
_NUMBER = (int, float)
_LAST_YEAR = 253_370_764_800
"""When the year 9999 begins (seconds since 1970): no date is later."""
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "model_name": str,
    "prompt": str,
    "seed": int,
    "generation": int,
    "error_kind": str,
    "error_message": str,
    "attempts": int,
    "latency": _NUMBER,
    "created_at": _NUMBER,
    "parameters": dict,
    "info": dict,
    "maybe_billed": bool,
    "image": dict,
}
"""Of what a record may hold; any of it may be missing or null. The store takes fields beside these as they are."""


def parse_record(text: bytes, key: str) -> dict[str, Any] | None:
    """The record of a key, or None where it is cut short, is not ours, or holds what no generation could."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION or record.get("key") != key:
        return None
    if not all(record.get(name) is None or isinstance(record[name], kind) for name, kind in _TYPES.items()):
        return None
    if not 0 <= (record.get("created_at") or 0) < _LAST_YEAR:
        return None
    image, error_kind = record.get("image"), record.get("error_kind")
    if error_kind is not None and error_kind not in _KINDS:
        return None
    if image is None:
        return record if error_kind is not None else None
    return record if _is_image(image, key) else None


def _is_image(entry: Mapping[str, Any], key: str) -> bool:
    path, sha256 = entry.get("path"), entry.get("sha256")
    if not isinstance(path, str) or not isinstance(sha256, str) or entry.get("format") not in FORMATS:
        return False
    if not path.startswith(f"{key[:2]}/{key}-{sha256[:8]}."):
        return False
    return all(type(entry.get(name)) is int and entry[name] > 0 for name in ("bytes", "width", "height"))
