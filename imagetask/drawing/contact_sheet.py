"""Many pictures on one: thumbnails in rows, each with its caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image as PILImage
from PIL import ImageDraw

from imagetask.drawing.lettering import draw_line, ellipsize, fit, printable, wrap
from imagetask.images import Image

PAPER = (250, 249, 246)
INK = (34, 34, 42)
FAILED = (222, 222, 226)
FAILED_INK = (96, 84, 92)

Cell = tuple[PILImage.Image | Image | None, str]


def contact_sheet(
    cells: Sequence[Cell], columns: int | None = None, tile: int = 256, type_size: int | None = None
) -> PILImage.Image:
    """One RGB picture of all cells, in reading order: thumbnails with a caption of up to two lines below.

    cells: (picture, caption); a picture is scaled to fit its tile whole, and drawn no larger than twice its size.
        Where it is None, the caption is the reason, and stands on a grey tile.
    columns: thumbnails in a row; by default as many as make a sheet somewhat wider than high, with few empty places.
    tile: side of the square for one thumbnail, px, 32 or more. type_size: of captions, px; default: as fits the tile.
    Raises `ValueError` where there is no cell, or where columns or tile are too small.
    """
    if not cells:
        raise ValueError("a contact sheet needs at least one cell")
    if tile < 32 or (columns is not None and columns < 1):
        raise ValueError("a contact sheet needs at least 1 column, and tiles of at least 32 px")
    columns = min(columns or _columns_for(len(cells)), len(cells))
    rows = math.ceil(len(cells) / columns)
    gap, size = max(6, tile // 16), type_size or max(9, tile // 18)
    step_x, step_y = tile + gap, tile + gap + _caption_height(size)
    sheet = PILImage.new("RGB", (gap + columns * step_x, gap + rows * step_y), PAPER)
    for number, (picture, caption) in enumerate(cells):
        corner = (gap + number % columns * step_x, gap + number // columns * step_y)
        if picture is None:
            _draw_failure(sheet, corner, caption, tile, size)
        else:
            small = thumbnail(picture, tile) if isinstance(picture, Image) else picture
            _draw_thumbnail(sheet, corner, small, tile)
            _draw_caption(sheet, (corner[0], corner[1] + tile), caption, tile, size)
    return sheet


def thumbnail(image: Image, side: int) -> PILImage.Image:
    """The picture, no larger than a square of `side` px; a large JPEG is decoded at a reduced scale.

    Raises `ImageError`; `StorageError` where the bytes are no longer in the store.
    """
    picture = image.to_pil(at_least=2 * side)
    if max(picture.size) > side:
        if picture.mode not in ("RGB", "RGBA", "L"):
            picture = picture.convert("RGBA")
        picture.thumbnail((side, side), PILImage.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def _columns_for(cells: int) -> int:
    about = math.ceil(math.sqrt(cells * 1.6))
    return min(range(max(1, about - 1), about + 2), key=lambda columns: (-cells % columns, abs(columns - about)))


def _caption_height(size: int) -> int:
    return math.ceil(size * 2.9)


def _draw_thumbnail(sheet: PILImage.Image, corner: tuple[int, int], picture: PILImage.Image, tile: int) -> None:
    """The whole picture in the middle of its tile; what is transparent shows the paper."""
    scale = min(tile / picture.width, tile / picture.height, 2.0)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.convert("RGBA").resize(size, PILImage.Resampling.LANCZOS, reducing_gap=2.0)
    place = (corner[0] + (tile - size[0]) // 2, corner[1] + (tile - size[1]) // 2)
    sheet.paste(small.convert("RGB"), place, mask=small.getchannel("A"))


def _draw_caption(sheet: PILImage.Image, corner: tuple[int, int], caption: str, width: int, size: int) -> None:
    lines = wrap(printable(caption), size, width)
    if len(lines) > 2:
        lines = [lines[0], ellipsize(" ".join(lines[1:]), size, width)]
    draw = ImageDraw.Draw(sheet, "RGBA")
    for number, line in enumerate(lines):
        draw_line(draw, (corner[0], corner[1] + size * (1.2 + 1.2 * number)), line, size, INK)


def _draw_failure(sheet: PILImage.Image, corner: tuple[int, int], reason: str, tile: int, size: int) -> None:
    """A grey tile with a cross in its upper half, and the reason in its lower half."""
    draw = ImageDraw.Draw(sheet, "RGBA")
    x, y = corner
    draw.rectangle((x, y, x + tile - 1, y + tile - 1), fill=FAILED)
    middle, reach = (x + tile / 2, y + tile * 0.25), tile * 0.07
    for slant in (1, -1):
        ends = (middle[0] - reach, middle[1] - reach * slant, middle[0] + reach, middle[1] + reach * slant)
        draw.line(ends, fill=FAILED_INK, width=max(2, tile // 64))
    pad = tile * 0.08
    block = fit(printable(reason) or "failed", tile - 2 * pad, tile * 0.5, min(size, 9), round(size * 1.15))
    for number, line in enumerate(block.lines):
        draw_line(draw, (x + pad, y + tile * 0.45 + block.size * (1 + 1.22 * number)), line, block.size, FAILED_INK)
