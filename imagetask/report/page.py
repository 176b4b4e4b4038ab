"""The page itself: one HTML file that asks for nothing, written as a stream of blocks.

The markup comes first, then what is known of all cards, the first block of pictures and the script that shows them; the
other blocks follow. A block is JSON in a `<script>` that no browser runs, and is parsed when one of its cards is shown.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import islice
from string import Template
from typing import Any

from imagetask.report.cards import Cards
from imagetask.report.details import Details
from imagetask.report.figures import Figure
from imagetask.report.index import index_of

BLOCK = 60
"""Cards in a block of the file, and on a page of the gallery."""

_SCRIPTS = ("data.js", "filters.js", "gallery.js", "detail.js", "report.js")


@dataclass(frozen=True, slots=True)
class Page:
    """What is on a page. lede: a sentence; facts: name, value, more; side: of small pictures, px."""

    name: str
    lede: str
    facts: Sequence[tuple[str, str, str]]
    figures: Sequence[Figure]
    cards: Cards
    details: Details
    scores: Sequence[str]
    side: int


def page_pieces(page: Page, pictures: Iterable[bytes | None]) -> Iterator[bytes]:
    """The file, piece by piece. pictures: of each card, in order."""
    blocks = _blocks(page, iter(pictures))
    yield _markup(page).encode("utf-8", "replace")
    yield _data("index", _index(page))
    yield next(blocks, b"")
    yield f"<script>{_script()}</script>\n".encode()
    yield from blocks
    yield b"</html>\n"


def _markup(page: Page) -> str:
    style = _file("report.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(_script())}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_file("report.html")).substitute(
        policy=policy,
        style=style,
        name=escape(page.name),
        lede=escape(page.lede),
        facts="".join(_fact(*fact) for fact in page.facts),
        chosen=_chosen(page.cards),
        figures="".join(map(_figure, page.figures)) or '<p class="empty">There is nothing to draw yet.</p>',
        num_cards=f"{page.cards.frame.height:,}",
        num_figures=len(page.figures),
    )


def _fact(name: str, value: str, more: str) -> str:
    more = f"<dd class=more>{escape(more)}</dd>" if more else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd>{more}</div>"


def _figure(figure: Figure) -> str:
    return (
        f"<figure><figcaption><h2>{escape(figure.title)}</h2><p>{escape(figure.told)}</p></figcaption>"
        f"{figure.svg}</figure>"
    )


def _chosen(cards: Cards) -> str:
    if cards.frame.height == cards.in_all:
        return ""
    shown = f"{cards.frame.height:,} of {cards.in_all:,}"
    told = f"This page shows {shown}, chosen at even distances. The numbers above and the figures are of all."
    return f'<p class="notice">{told}</p>'


def _index(page: Page) -> dict[str, Any]:
    fields = [{"group": group, "name": name, "meaning": meaning} for group, name, meaning in page.details.fields]
    told = {"block": BLOCK, "side": page.side, "fields": fields}
    return {**told, **index_of(page.cards.frame, page.scores)}


def _blocks(page: Page, pictures: Iterator[bytes | None]) -> Iterator[bytes]:
    """For each card of a block its picture, as base64 text or null, and the words of its fields."""
    for number, start in enumerate(range(0, page.cards.frame.height, BLOCK)):
        cards = page.cards.frame.slice(start, BLOCK)
        texts = page.details.texts(cards)
        small = islice(pictures, cards.height)
        block = [[data and base64.b64encode(data).decode(), words] for data, words in zip(small, texts, strict=True)]
        yield _data(f"block-{number}", block)


def _data(name: str, value: Any) -> bytes:
    """JSON in an element that is not run; nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'.encode("utf-8", "replace")


def _script() -> str:
    return "'use strict';\n(() => {\n" + "\n".join(map(_file, _SCRIPTS)) + "})();\n"


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
