"""Markdown that shows a text as it is, whatever stands in it: for artifacts and reports."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence

from imagetask.redact import short_line

_SPECIAL = re.compile(r"[\\`*_\[\]|~$#>]")
_LIST = re.compile(r"^(\d*)([-+.)])(?= |$)")


def text(value: object, longest: int = 200) -> str:
    """A value as one line of text in which nothing is markup or HTML; also for a cell of a table."""
    line = short_line(str(value), longest).replace("&", "&amp;").replace("<", "&lt;")
    return _LIST.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", line))


def code(value: object, longest: int = 500) -> str:
    """A value as code within a line; also for a cell of a table."""
    line = short_line(str(value), longest).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line or line != line.strip() or not line else f"{fence}{line}{fence}"


def block(lines: str, language: str = "") -> str:
    """Lines of code, as they are."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
    return f"{fence}{language}\n{lines}\n{fence}"


def pairs(rows: Mapping[str, str]) -> str:
    """A table of names and values, which are markdown already; without the empty ones."""
    first, *others = [[f"**{name}**", value] for name, value in rows.items() if value]
    return table(first, others)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def picture(jpeg: bytes, meaning: str) -> str:
    """A picture as part of the text; meaning: what it shows, for those who do not see it."""
    return f"![{text(meaning)}](data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})"
