"""Placeholder pictures: what a pipeline is dry-run with, offline and without a key, before money is spent."""

from __future__ import annotations

import hashlib
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image as PILImage
from PIL import ImageDraw
from pydantic import Field

from imagetask.drawing.lettering import CAP_HEIGHT, LEADING, TextBlock, draw_line, ellipsize, fit, printable, text_width
from imagetask.drawing.scenery import (
    INK,
    SCENES,
    WHITE,
    Colour,
    Palette,
    Scene,
    contrast,
    luminance,
    mix,
    palette_for,
    sky,
)
from imagetask.errors import GenerationError
from imagetask.images import Image
from imagetask.models.base import ImageGenerationModel, ImageRequest

MIN_SIDE, MAX_SIDE, DEFAULT_SIDE = 16, 4096, 512
"""Sides of a placeholder, px."""

_LONGEST = 6000
"""Characters of a prompt that are looked at; far more than fit a picture."""
_CANVAS = 2048
"""Longest side (px) of the canvas that shapes are drawn on: twice the picture's where that is smaller."""
_SMALLEST_TYPE = 9


class PlaceholderImageGeneration(ImageGenerationModel):
    """Draws the words of the prompt on a small landscape in the colours that it names.

    The same prompt, seed and size give the same bytes, with the same Pillow; another seed gives another
    picture. The size is 512 × 512 px unless the request says otherwise, 16 to 4096 px a side; the picture says at
    its foot that it is a placeholder. A JPEG at quality 88 with full colour resolution, because its encoding takes
    a tenth of a PNG's time: at 512 × 512 px some 20 to 50 KB, made in 10 to 20 ms on one core.
    """

    backend: ClassVar[str] = "placeholder"

    model_id: str = Field(default="placeholder", description="The name that goes into `model_name`; any will do.")
    batch_size: int = Field(default=8, ge=1, description="Requests that one call of `generate` takes.")

    @property
    def model_name(self) -> str:
        return self.model_id

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        """One picture for each request, in order; kind "invalid_input" where the size or the prompt is none."""
        return [_generate(request) for request in requests]


def _generate(request: ImageRequest) -> Image | GenerationError:
    width = DEFAULT_SIDE if request.width is None else request.width
    height = DEFAULT_SIDE if request.height is None else request.height
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height)):
        said = f"{width} × {height} px is no size for a placeholder: a side has {MIN_SIDE} to {MAX_SIDE} px"
        return GenerationError("invalid_input", said)
    if not request.prompt.strip():
        return GenerationError("invalid_input", "the prompt is empty")
    return Image.from_bytes(_draw(request, width, height))


def _draw(request: ImageRequest, width: int, height: int) -> bytes:
    digest = _digest(request, width, height)
    dice = random.Random(int(digest[:16], 16))
    prompt = request.prompt[:_LONGEST]
    palette = palette_for(prompt, dice)
    card = _card(prompt, request.negative_prompt, palette, (width, height), dice)
    picture = _background(palette, card, (width, height), dice)
    if card:
        _write_card(picture, card)
    _write_footer(picture, request.seed)
    buffer = io.BytesIO()
    comment = f"imagetask placeholder, seed {request.seed}, {digest}"
    picture.save(buffer, "JPEG", quality=88, subsampling=0, comment=comment.encode("ascii"))
    return buffer.getvalue()


def _digest(request: ImageRequest, width: int, height: int) -> str:
    said = (request.prompt, request.negative_prompt, request.seed, width, height)
    return hashlib.blake2b(repr(said).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class _Card:
    """A plate with text on it. left, top, width, height, pad: px. swatches: the colours that the prompt names."""

    left: float
    top: float
    width: float
    height: float
    pad: float
    plate: Colour
    ink: Colour
    block: TextBlock
    without: str
    swatches: tuple[Colour, ...]

    @property
    def dot(self) -> float:
        """Width of one swatch, px."""
        return max(4.0, self.block.size * 0.3)


def _card(
    prompt: str, negative: str | None, palette: Palette, size: tuple[int, int], dice: random.Random
) -> _Card | None:
    """The card with the prompt on it, or None where the picture is too small for text."""
    width, height = size
    side = min(size)
    margin, pad = side * 0.06, side * 0.05
    room_x, room_y = width - 2 * margin - 2 * pad, height - 2 * margin - 2 * pad - _footer_height(size)
    if room_x < 40 or room_y < _SMALLEST_TYPE:
        return None
    swatches = palette.named[:8]
    block = _fit_words(printable(prompt), room_x, room_y, min(math.sqrt(width * height), 3 * side), bool(swatches))
    without = printable(f"without: {negative[:_LONGEST]}") if negative else ""
    small = _small_size(block)
    text_height = block.height + (block.size * 0.75 if swatches else 0)
    without = ellipsize(without, small, room_x * 0.96) if without and text_height + small * 1.6 <= room_y else ""
    text_height += small * 1.6 if without else 0
    wide = max(block.width, text_width(without, small)) + 2 * pad
    high = min(text_height, room_y) + 2 * pad
    plate, ink = _plate_and_ink(palette)
    free_x, free_y = width - 2 * margin - wide, height - 2 * margin - _footer_height(size) - high
    left = margin + free_x * (0, 0.5)[dice.random() < 0.4]
    top = margin + free_y * (0.5, 0.86, 1)[int(dice.random() * 3)]
    return _Card(left, top, wide, high, pad, plate, ink, block, without, swatches)


def _fit_words(text: str, width: float, height: float, reach: float, swatches: bool) -> TextBlock:
    """A short text stays in the lower part of the picture, in large type; a long one may take it all."""
    largest, comfortable = max(_SMALLEST_TYPE, round(reach * 0.125)), reach * 0.055
    full = height - (comfortable if swatches else 0)
    block = fit(text, width, full * 0.6, _SMALLEST_TYPE, largest)
    return block if block.size >= comfortable else fit(text, width, full, _SMALLEST_TYPE, round(comfortable) or 1)


def _small_size(block: TextBlock) -> int:
    return max(_SMALLEST_TYPE, round(block.size * 0.5))


def _plate_and_ink(palette: Palette) -> tuple[Colour, Colour]:
    """A light plate by day and a dark one by night, and an ink with a contrast of at least 7 to it."""
    night = luminance(palette.ground) < 0.16
    plate = mix(palette.ground, INK, 0.72) if night else mix(palette.ground, WHITE, 0.9)
    ink, pole = mix(palette.shapes[0], WHITE if night else INK, 0.8), (255, 255, 255) if night else (0, 0, 0)
    while contrast(ink, plate) < 7 and ink != pole:
        ink = mix(ink, pole, 0.5)
    return plate, ink


def _background(palette: Palette, card: _Card | None, size: tuple[int, int], dice: random.Random) -> PILImage.Image:
    """Landscape and plate, drawn larger and scaled down, which smooths all edges."""
    scale = min(2.0, _CANVAS / max(size))
    canvas = sky((max(8, round(size[0] * scale)), max(8, round(size[1] * scale))), palette, dice)
    SCENES[int(dice.random() * len(SCENES))](Scene(canvas, palette, dice))
    if card:
        _draw_plate(canvas, card, scale)
    return canvas.reduce(2) if scale == 2 else canvas.resize(size, PILImage.Resampling.BICUBIC)


def _draw_plate(canvas: PILImage.Image, card: _Card, scale: float) -> None:
    box = [edge * scale for edge in (card.left, card.top, card.left + card.width, card.top + card.height)]
    drop, radius = card.pad * 0.16 * scale, card.pad * 0.45 * scale
    shadow = (box[0] + drop / 2, box[1] + drop, box[2] + drop / 2, box[3] + drop)
    ImageDraw.Draw(canvas, "RGBA").rounded_rectangle(shadow, radius, fill=(*INK, 60))
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle(box, radius, fill=card.plate)
    x, y = card.left + card.pad, card.top + card.pad + card.block.size * 0.02
    for number, colour in enumerate(card.swatches):
        left = x + number * card.dot * 1.35
        edges = [edge * scale for edge in (left, y, left + card.dot, y + card.dot)]
        line = mix(card.ink, card.plate, 0.55) if contrast(colour, card.plate) < 1.4 else colour
        draw.ellipse(edges, fill=colour, outline=line, width=max(1, round(scale)))


def _write_card(picture: PILImage.Image, card: _Card) -> None:
    draw, block = ImageDraw.Draw(picture, "RGBA"), card.block
    x, y = card.left + card.pad, card.top + card.pad + (block.size * 0.75 if card.swatches else 0)
    y += block.size * (CAP_HEIGHT + 0.03)
    bold = 0.35 if block.size >= 22 and len(block.lines) <= 6 else 0.0
    for number, line in enumerate(block.lines):
        draw_line(draw, (x, y + number * block.size * LEADING), line, block.size, card.ink, bold)
    if card.without:
        small = _small_size(block)
        y += (len(block.lines) - 1) * block.size * LEADING + block.size * 0.3 + small * 1.3
        draw_line(draw, (x, y), card.without, small, mix(card.ink, card.plate, 0.25))


def _footer_height(size: tuple[int, int]) -> int:
    """Height (px) of the strip at the foot; 0 where the picture is too small for it."""
    return 2 * _footer_type(size) if min(size) >= 56 else 0


def _footer_type(size: tuple[int, int]) -> int:
    return max(_SMALLEST_TYPE, round(min(size) * 0.025))


def _write_footer(picture: PILImage.Image, seed: int | None) -> None:
    """A dark strip that says what the picture is; only as many of its parts as fit."""
    width, height = picture.size
    strip = _footer_height(picture.size)
    if not strip:
        return
    draw, size = ImageDraw.Draw(picture, "RGBA"), _footer_type(picture.size)
    draw.rectangle((0, height - strip, width, height), fill=(*INK, 190))
    parts = ["placeholder", "no seed" if seed is None else f"seed {seed}", f"{width} x {height}"]
    while len(parts) > 1 and text_width(" · ".join(parts), size) > width * 0.94:
        parts.pop()
    said = ellipsize(" · ".join(parts), size, width * 0.96)
    baseline = height - strip / 2 + size * CAP_HEIGHT / 2
    draw_line(draw, ((width - text_width(said, size)) / 2, baseline), said, size, (240, 238, 232))
