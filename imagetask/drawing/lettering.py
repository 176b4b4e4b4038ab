"""Text in pictures: fitted, wrapped and drawn with the one font that ships inside Pillow.

The font knows ASCII and a few signs. Accents are put together from its own glyphs, some letters are spelled out
(æ → ae), and a letter that it cannot draw at all becomes a small block. All layout is done here, from glyph
widths, because Pillow lays text out differently where a system library for bidirectional text is installed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageDraw, ImageFont

Box = tuple[float, float, float, float]

LEADING = 1.22
"""Distance of two baselines, in ems."""
CAP_HEIGHT = 0.70
"""Height of a capital letter, in ems."""

_REFERENCE = 100
_BLOCK = "\ufffd"
_SIGNS = frozenset("©«°±´·»‘’“”…‹›⁄™") | {chr(code) for code in range(0x20, 0x7F)}
_SPELLED = dict(zip(map(ord, "øØłŁđĐðı×÷–‑−‚„•¿¡"), 'oOlLdDdix/---,"·?!', strict=True)) | dict(
    zip(
        map(ord, "ßæÆœŒþÞ€£¥®—"),
        ("ss", "ae", "AE", "oe", "OE", "th", "Th", "EUR", "GBP", "JPY", "(R)", " - "),
        strict=True,
    )
)
_MARKS: dict[str, tuple[str, float]] = {
    "\u0300": ("`", 0.9),
    "\u0301": ("´", 0.9),
    "\u0302": ("^", 0.6),
    "\u0303": ("~", 0.7),
    "\u0304": ("-", 0.8),
    "\u0306": ("~", 0.6),
    "\u0307": ("·", 0.8),
    "\u0308": ("··", 0.75),
    "\u030a": ("°", 0.75),
    "\u030b": ("´´", 0.8),
    "\u030c": ("v", 0.5),
    "\u0326": (",", 0.8),
    "\u0327": (",", 0.8),
    "\u0328": (",", 0.8),
}
"""Combining accent → the glyphs that stand for it, and their size in ems."""
_BELOW = "\u0326\u0327\u0328"


@lru_cache(maxsize=256)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font at `size` px, laid out the same way on every machine."""
    loaded = ImageFont.load_default(size)
    if not isinstance(loaded, ImageFont.FreeTypeFont):
        raise OSError("this Pillow was built without FreeType and cannot draw text")
    return loaded.font_variant(layout_engine=ImageFont.Layout.BASIC)


def printable(text: str) -> str:
    """One line of characters that `draw_line` draws: white space collapsed, unknown letters made blocks."""
    composed = unicodedata.normalize("NFC", text).translate(_SPELLED)
    kept = (_drawable(char) for char in composed)
    return " ".join("".join(kept).split())


def _drawable(char: str) -> str:
    if char in _SIGNS or _accented(char):
        return char
    if char.isspace():
        return " "
    if unicodedata.category(char)[0] in "MC":
        return ""
    plain = unicodedata.normalize("NFKD", char)
    return plain if all(part in _SIGNS for part in plain) else _BLOCK


@lru_cache(maxsize=4096)
def _accented(char: str) -> tuple[str, str] | None:
    """An accented letter as (letter, accents), where the font has the letter."""
    letter, accents = (plain := unicodedata.normalize("NFD", char))[:1], plain[1:]
    known = accents and letter in _SIGNS and all(accent in _MARKS for accent in accents)
    return (letter, accents) if known else None


@lru_cache(maxsize=65536)
def _advance(char: str, size: int) -> float:
    """Width of one character, px; hinting rounds it, so that it does not grow evenly with the size."""
    if char == _BLOCK:
        return 0.62 * size
    accented = _accented(char)
    return font(size).getlength(accented[0] if accented else char)


@lru_cache(maxsize=512)
def _ink(glyph: str) -> Box:
    """Where the ink of a glyph is, in ems from the start of its baseline: left, top, right, bottom."""
    mask, (x, y) = font(_REFERENCE).getmask2(glyph, mode="L", anchor="ls")
    left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
    return (x + left) / _REFERENCE, (y + top) / _REFERENCE, (x + right) / _REFERENCE, (y + bottom) / _REFERENCE


def text_width(text: str, size: int) -> float:
    """Width (px) of a printable line at `size` px."""
    return sum(_advance(char, size) for char in text)


def ellipsize(text: str, size: int, width: float) -> str:
    """The printable line, or as much of it as fits `width` px with an ellipsis at its end."""
    if text_width(text, size) <= width:
        return text
    room, kept = width - text_width("…", size), 0
    while (room := room - _advance(text[kept], size)) >= 0:
        kept += 1
    return text[:kept].rstrip(" ,;:.-") + "…"


def wrap(text: str, size: int, width: float) -> list[str]:
    """Lines of at most `width` px; a word that is longer alone is broken."""
    lines: list[str] = []
    line, used, space = "", 0.0, _advance(" ", size)
    for word in text.split(" "):
        length = text_width(word, size)
        if line and used + space + length <= width:
            line, used = f"{line} {word}", used + space + length
            continue
        if line:
            lines.append(line)
        *full, line = _broken(word, size, width) if length > width else [word]
        lines += full
        used = text_width(line, size)
    return [*lines, line] if line else lines


def _broken(word: str, size: int, width: float) -> list[str]:
    pieces, piece, used = [], "", 0.0
    for char in word:
        step = _advance(char, size)
        if piece and used + step > width:
            pieces.append(piece)
            piece, used = "", 0.0
        piece, used = piece + char, used + step
    return [*pieces, piece]


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Lines that fit a box. size, width, height: px."""

    lines: tuple[str, ...]
    size: int
    width: float

    @property
    def height(self) -> float:
        return block_height(len(self.lines), self.size)


def block_height(lines: int, size: float) -> float:
    """Height (px) from the top of the first line's capitals to under the last line's descenders."""
    return ((lines - 1) * LEADING + 1.0) * size


def fit(text: str, width: float, height: float, smallest: int, largest: int) -> TextBlock:
    """The printable text in the largest size (px) that fits the box, its lines about equally long.

    Words stay whole where any size allows it. What does not fit at `smallest` is cut, with an ellipsis.
    """
    longest = max(text.split(" "), key=lambda word: text_width(word, _REFERENCE))
    whole = int(width * _REFERENCE / (text_width(longest, _REFERENCE) or 1.0) * 0.97)
    low, high = smallest, max(smallest, min(largest, whole) if whole >= smallest else largest)
    while low < high:
        middle = (low + high + 1) // 2
        if block_height(len(wrap(text, middle, width)), middle) <= height:
            low = middle
        else:
            high = middle - 1
    room = max(1, int((height / low - 1.0) / LEADING) + 1)
    lines = wrap(text, low, width)
    lines = _cut(lines, room, low, width) if len(lines) > room else _balanced(lines, text, low, width)
    return TextBlock(tuple(lines), low, max((text_width(line, low) for line in lines), default=0.0))


def _cut(lines: Sequence[str], room: int, size: int, width: float) -> list[str]:
    return [*lines[: room - 1], ellipsize(" ".join(lines[room - 1 :]), size, width)]


def _balanced(lines: list[str], text: str, size: int, width: float) -> list[str]:
    """The same number of lines, in the narrowest of a few widths that allows it without breaking a word."""
    longest = max((text_width(word, size) for word in text.split(" ")), default=0.0)
    for twelfths in range(4, 12):
        narrower = width * twelfths / 12
        if narrower >= longest and len(tried := wrap(text, size, narrower)) == len(lines):
            return tried
    return lines


def draw_line(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, int, int],
    bold: float = 0,
) -> None:
    """Draws a printable line. xy: start of the baseline, px. bold: px added around each stroke."""
    x, y = xy
    for word in text.split(" "):
        plain = "".join((_accented(char) or (" " if char == _BLOCK else char))[0] for char in word)
        if plain.strip():
            _draw_glyphs(draw, x, y, plain, size, fill, bold)
        if plain != word:
            _draw_marks(draw, x, y, word, size, fill, bold)
        x += text_width(word + " ", size)


def _draw_glyphs(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, fill: tuple[int, int, int], bold: float
) -> None:
    draw.text((x, y), text, font=font(size), fill=fill, anchor="ls", stroke_width=bold, stroke_fill=fill)


def _draw_marks(
    draw: ImageDraw.ImageDraw, x: float, y: float, word: str, size: int, fill: tuple[int, int, int], bold: float
) -> None:
    for char in word:
        accented = _accented(char)
        if char == _BLOCK:
            side = 0.5 * size
            box = (x + 0.06 * size, y - 0.6 * size, x + 0.06 * size + side, y - 0.6 * size + side)
            draw.rectangle(box, fill=(*fill, 110))
        elif accented:
            _draw_accents(draw, x, y, accented, size, fill, bold)
        x += _advance(char, size)


def _draw_accents(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    accented: tuple[str, str],
    size: int,
    fill: tuple[int, int, int],
    bold: float,
) -> None:
    """Sets each accent over (or under) the middle of its letter; the second stands on the first."""
    letter, accents = accented
    left, top, right, _ = _ink(letter)
    for accent in accents:
        glyphs, ems = _MARKS[accent]
        a_left, a_top, a_right, a_bottom = (edge * ems for edge in _ink(glyphs))
        start = x + ((left + right) - (a_left + a_right)) / 2 * size
        if accent in _BELOW:
            baseline = y + (0.03 - a_top) * size
        else:
            baseline = y + (top - 0.07 - a_bottom) * size
            top -= 0.05 + (a_bottom - a_top)
        _draw_glyphs(draw, start, baseline, glyphs, max(1, round(ems * size)), fill, bold)
