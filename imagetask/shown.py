"""How a dataset and its rows look in a notebook: HTML with thumbnails, of bounded size, in which no text is markup."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from html import escape
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pybase64

from imagetask.card.counts import DatasetCounts
from imagetask.drawing.contact_sheet import thumbnail
from imagetask.errors import ImageError
from imagetask.images import Image, encode_picture
from imagetask.redact import short_line

if TYPE_CHECKING:
    from imagetask.dataset_rows import Row

GRID_ROWS = 12
"""Rows that a dataset shows of itself."""

_TILE, _PICTURE = 160, 384
"""Sides of a thumbnail in a grid, and of the picture of a row (px)."""

_MOST_PICTURES, _LONGEST = 12, 300
"""Pictures of one row, and characters of one value, that are shown."""

_FACTS = (
    "model_name",
    "provider",
    "status",
    "error_kind",
    "error_message",
    "seed",
    "generation",
    "asked_size",
    "image_size",
    "image_format",
    "image_bytes",
    "attempts",
    "latency",
    "cost",
    "cost_source",
    "created_at",
)


def dataset_html(name: str, counts: DatasetCounts, rows: Sequence[Row]) -> str:
    """A line of counts, and the first rows as tiles. rows: those that are shown."""
    told = [f"{counts.rows:,} rows", f"{counts.images:,} images"]
    told += [f"{count:,} failed ({escape(kind)})" for kind, count in sorted(counts.failed.items())]
    told += [f"{counts.pending:,} pending"] if counts.pending else []
    more = f"<div>The first {len(rows)} rows:</div>" if len(rows) < counts.rows else ""
    tiles = "".join(_tile(row) for row in rows)
    grid = f'<div style="display:flex;flex-wrap:wrap;gap:10px;margin-top:6px">{tiles}</div>'
    return f"<div><b>{escape(name)}</b>: {', '.join(told)}{more}{grid}</div>"


def row_html(row: Row) -> str:
    """The pictures of a row, its prompt, and what there is to know of it."""
    shown = [image for name in row.image_columns for image in _images(row[name])][:_MOST_PICTURES]
    side = _PICTURE if len(shown) == 1 else _TILE
    pictures = "".join(_picture(image, side) for image in shown) or _missing(row, _TILE)
    facts = "".join(
        f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{_value(row[name])}</td></tr>'
        for name in _FACTS
        if _first(row.get(name)) is not None
    )
    return (
        f'<div><div style="display:flex;flex-wrap:wrap;gap:10px">{pictures}</div>'
        f"<p><b>Row {row.number}</b>: {_text(prompt_of(row))}</p><table>{facts}</table></div>"
    )


def prompt_of(row: Row) -> str:
    """What tells a row to a person: the prompt that was sent, else its `prompt`, else the first text of its source."""
    names = ["asked_prompt", "prompt", *takewhile(lambda name: name != "row_id", row)]
    found = (_first(row[name]) for name in names if name in row and name not in row.image_columns)
    return next((value for value in found if isinstance(value, str)), "")


def _tile(row: Row) -> str:
    image = next((image for name in row.image_columns for image in _images(row[name])), None)
    picture = _missing(row, _TILE) if image is None else _picture(image, _TILE)
    status = "" if row.get("status") in (None, "done") else f"<b>{_text(row['status'])}</b> "
    caption = f'<div style="font-size:85%;overflow-wrap:anywhere">{status}{_text(prompt_of(row), 90)}</div>'
    return f'<div style="width:{_TILE}px">{picture}{caption}</div>'


def _picture(image: Image, side: int) -> str:
    try:
        data = encode_picture(thumbnail(image, side), "JPEG")
    except ImageError as error:
        return _grey(f"cannot be decoded: {error}", side)
    source = f"data:image/jpeg;base64,{pybase64.b64encode_as_string(data)}"
    return f'<img src="{source}" style="max-width:{side}px;max-height:{side}px" alt="">'


def _missing(row: Row, side: int) -> str:
    """In place of a picture: why there is none."""
    kind, message = _first(row.get("error_kind")), _first(row.get("error_message"))
    return _grey(": ".join(str(part) for part in (kind, message) if part) or str(row.get("status") or "no image"), side)


def _grey(reason: str, side: int) -> str:
    style = f"width:{side}px;height:{side}px;background:#ddd;color:#555;overflow:hidden;padding:8px"
    return f'<div style="{style};box-sizing:border-box;font-size:85%">{_text(reason, 160)}</div>'


def _images(cell: Any) -> Iterator[Image]:
    if isinstance(cell, Image):
        yield cell
    elif isinstance(cell, list):
        for item in cell:
            yield from _images(item)


def _first(cell: Any) -> Any:
    """Of lists, also in lists, the first that is there; another cell as it is."""
    if not isinstance(cell, list):
        return cell
    return next((found for item in cell if (found := _first(item)) is not None), None)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value[:_MOST_PICTURES])
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _text(value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime.datetime) else value)


def _text(value: object, longest: int = _LONGEST) -> str:
    return escape(short_line(str(value), longest))
