"""Backgrounds for placeholder pictures: the colours that a prompt names, and simple landscapes made of them.

Everything here follows from the arguments alone, to the pixel.
"""

from __future__ import annotations

import colorsys
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw

Colour = tuple[int, int, int]

WHITE: Colour = (250, 248, 243)
INK: Colour = (22, 22, 30)


def _table(text: str) -> dict[str, str]:
    """Words, each followed by its hex code."""
    parts = text.split()
    return {name: f"#{code}" for name, code in zip(parts[::2], parts[1::2], strict=True)}


_PAINTS = _table(
    """
    red dc2b36  scarlet e2231a  vermilion e34a27  ruby b3123f  cherry c2183c  burgundy 6d1530  rust b1471f
    rusty b1471f  copper b9703c  bronze a0722f  brown 7b4a2b  mahogany 6b2a1c  caramel bf7a3a  chestnut 80402a
    terracotta cc6748  orange f28a24  tangerine f58231  apricot f7b27a  peach fbc09a  amber f2a71b  gold e3b23c
    golden e3b23c  mustard d4a017  ochre c98a1b  yellow f6cf3c  lemon f5e04c  blond ead28f  blonde ead28f
    cream f7efd6  sand dcc49a  green 2f9e57  emerald 1f9d6b  jade 3aa17e  mint a6e3c8  moss 6f7f3a  sage a3b18a
    turquoise 2bbfb8  teal 1b7f86  cyan 33c3e0  azure 3f8efc  blue 2c68d4  cobalt 1f4fbf  sapphire 1c4aa8
    ultramarine 2b2fb0  navy 1b2a57  indigo 44389c  violet 7a45c4  purple 7a3fb8  lilac c3a6e0  lavender b8a4e3
    mauve b88fb8  magenta cf2f92  pink f48fb4  rose e2647f  white f7f5ef  black 1b1b22  pearl efe9df
    silver bfc5cc  silvery bfc5cc  grey 8b9098  gray 8b9098  charcoal 3a3d44  ebony 2a2420
    """
)
"""Paints for the common colour words; other colours of CSS are taken as CSS has them."""

_MOODS = _table(
    """
    night 1d2b5a  midnight 1b2450  moonlit 31437c  starry 1d2b5a  space 1a1c3a  sunset f2794a  sunrise f7a76a
    dawn f3b39c  dusk 7a6aa8  autumn c9682a  ocean 1f7fa6  sea 2a8fb0  lake 4aa0bd  river 4f9fb8  rain 6f8aa3
    forest 3d7a4a  jungle 2f7d4f  meadow 8fbf5a  garden 6faa5c  desert e0b978  beach ecd6a4  snowy e9f1f7
    winter d3e3ef  ice cfe8f2  fire ef5a24  lava d83a1e  sky 8cc3ea  sunflower f4c430  fog c3cad1
    """
)
"""Words that name no colour but bring one to mind; used where a prompt names fewer than two colours."""

_SKY = 256
"""Side (px) at which the gradient is made; it has fewer steps than that, so enlarging it loses nothing."""

_NOT_COLOURS = frozenset({"peru"})
_WORD = re.compile(r"[a-z]+")


def rgb(text: str) -> Colour:
    """The colour that a hex code or a CSS name stands for."""
    red, green, blue, *_ = ImageColor.getrgb(text)
    return red, green, blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one`, with `share` (0 to 1) of `other` in it."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio, 1 to 21 (WCAG 2); 4.5 is what running text needs."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def colour_of(word: str) -> Colour | None:
    """The colour that an English word (or two, joined) names: "red", "golden", "lightblue", "greenish"; else None."""
    for name in (word, word.removesuffix("ish"), word.removesuffix("dish"), word.removesuffix("s")):
        if name in _PAINTS:
            return rgb(_PAINTS[name])
        if name in ImageColor.colormap and name not in _NOT_COLOURS:
            return rgb(name)
    return None


def colours_in(prompt: str) -> list[Colour]:
    """The colours that a prompt names, each once, in its order: "a red bicycle, light blue sky" → red, light blue."""
    words = _WORD.findall(prompt.lower())
    found: dict[Colour, None] = {}
    at = 0
    while at < len(words):
        pair = colour_of("".join(words[at : at + 2])) if at + 1 < len(words) else None
        if colour := pair or colour_of(words[at]):
            found[colour] = None
        at += 2 if pair else 1
    return list(found)


@dataclass(frozen=True, slots=True)
class Palette:
    """named: the colours that the prompt names. ground: what the sky is made of. shapes: four or more colours."""

    named: tuple[Colour, ...]
    ground: Colour
    shapes: tuple[Colour, ...]


def palette_for(prompt: str, dice: random.Random) -> Palette:
    """Colours for a prompt: the last one it names makes the ground, the others the shapes; the rest goes with them."""
    named = colours_in(prompt)
    moods = [rgb(_MOODS[word]) for word in _WORD.findall(prompt.lower()) if word in _MOODS]
    hue = dice.random()
    if len(named) > 1:
        *lead, ground = named
    elif named:
        lead, ground = named, (moods[-1] if moods else _companion(named[0], dice))
    elif moods:
        lead, ground = moods[:-1], moods[-1]
    else:
        lead, ground = [], _hls(hue, 0.74 + 0.1 * dice.random(), 0.55)
    shapes = [*lead, *_relatives(lead)]
    if len(named) > 1:
        shapes += [mix(ground, WHITE, 0.55), mix(ground, INK, 0.35)]
    else:
        others = ((0.52, 0.55), (0.08, 0.45), (0.42, 0.66), (0.93, 0.35))
        shapes += [mix(_hls(hue + turn, level, 0.55), ground, 0.25) for turn, level in others]
    return Palette(tuple(named), ground, tuple(_apart(colour, ground) for colour in shapes))


def _relatives(colours: Sequence[Colour]) -> list[Colour]:
    return [mix(colour, WHITE, 0.45) for colour in colours] + [mix(colour, INK, 0.3) for colour in colours]


def _hls(hue: float, level: float, saturation: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue % 1.0, level, saturation))
    return red, green, blue


def _companion(colour: Colour, dice: random.Random) -> Colour:
    """A soft ground that one named colour stands out from."""
    hue, level, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    hue = dice.random() if saturation < 0.2 else hue + 0.4 + 0.2 * dice.random()
    return _hls(hue, 0.5 if level > 0.75 else 0.82, 0.42)


def _apart(colour: Colour, ground: Colour) -> Colour:
    """The colour, lighter or darker where the ground would swallow it."""
    if sum(abs(a - b) for a, b in zip(colour, ground, strict=True)) > 90:
        return colour
    return mix(colour, INK if luminance(ground) > 0.25 else WHITE, 0.32)


def sky(size: tuple[int, int], palette: Palette, dice: random.Random) -> Image.Image:
    """A soft gradient over the whole picture, never one flat colour."""
    light, dark = mix(palette.ground, WHITE, 0.38), mix(palette.ground, INK, 0.14)
    glow = mix(mix(palette.ground, palette.shapes[0], 0.3), WHITE, 0.25)
    corners = [light, mix(palette.ground, light, 0.5), glow, dark]
    if dice.random() < 0.5:
        corners = [corners[1], corners[0], corners[3], corners[2]]
    small = Image.new("RGB", (2, 2))
    small.putdata(corners)
    middle = (min(size[0], _SKY), min(size[1], _SKY))
    small = small.resize(middle, Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, 1.5))
    return small.resize(size, Image.Resampling.NEAREST)


class Scene:
    """What a landscape is drawn with; all lengths are shares of the picture's width and height.

    u: the shorter side, px.
    """

    def __init__(self, picture: Image.Image, palette: Palette, dice: random.Random) -> None:
        self.draw = ImageDraw.Draw(picture)
        self.glass = ImageDraw.Draw(picture, "RGBA")
        self.width, self.height = picture.size
        self.u = min(picture.size)
        self.palette = palette
        self.dice = dice

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.dice.random()

    def colour(self, number: int) -> Colour:
        return self.palette.shapes[number % len(self.palette.shapes)]

    def disc(self, x: float, y: float, radius: float, colour: Colour, alpha: int = 255) -> None:
        """A filled circle; radius as a share of the shorter side."""
        r, cx, cy = radius * self.u, x * self.width, y * self.height
        box = (cx - r, cy - r, cx + r, cy + r)
        if alpha == 255:
            self.draw.ellipse(box, fill=colour)
        else:
            self.glass.ellipse(box, fill=(*colour, alpha))

    def shape(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.width, y * self.height) for x, y in points], fill=colour)

    def halo(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A sun, or a pale moon over a dark ground unless a colour was named, with two faint rings of light."""
        if colour not in self.palette.named and luminance(self.palette.ground) < 0.16 and luminance(colour) < 0.45:
            colour = mix(colour, WHITE, 0.78)
        for grown, alpha in ((1.9, 40), (1.42, 70), (1.0, 255)):
            self.disc(x, y, radius * grown, colour, alpha)


def hills(scene: Scene) -> None:
    """A sun over three rows of hills."""
    scene.halo(scene.between(0.18, 0.82), scene.between(0.14, 0.3), scene.between(0.09, 0.14), scene.colour(0))
    for row in range(3):
        base, swing, waves = 0.5 + 0.17 * row, scene.between(0.04, 0.1), scene.between(0.7, 1.6)
        start = scene.between(0, math.tau)
        ridge = [(x / 48, base + swing * math.sin(start + math.tau * waves * x / 48)) for x in range(49)]
        colour = mix(scene.colour(2 - row), scene.palette.ground, 0.45 - 0.2 * row)
        scene.shape([(0, 1), *ridge, (1, 1)], colour)


def peaks(scene: Scene) -> None:
    """A moon behind mountains with white tops."""
    scene.halo(scene.between(0.15, 0.85), scene.between(0.12, 0.26), scene.between(0.07, 0.11), scene.colour(1))
    places = sorted((scene.between(0.28, 0.58), n * 0.25 + scene.between(-0.08, 0.08)) for n in range(5))
    for number, (top, x) in enumerate(places):
        half = (1.02 - top) * scene.between(0.5, 0.68)
        colour = mix(scene.colour(number % 2), scene.palette.ground, 0.28 - 0.07 * number)
        scene.shape([(x - half, 1.02), (x, top), (x + half, 1.02)], colour)
        scene.shape([(x, top), (x + half, 1.02), (x + half * 0.1, 1.02)], mix(colour, INK, 0.18))
        tip, down = half * 0.2, (1.02 - top) * 0.2
        snow = [(x - tip, top + down), (x, top), (x + tip, top + down), (x + tip / 3, top + down * 0.8)]
        scene.shape([*snow, (x - tip / 4, top + down * 1.1)], mix(WHITE, colour, 0.1))


def waves(scene: Scene) -> None:
    """A low sun over bands of water."""
    scene.halo(scene.between(0.25, 0.75), scene.between(0.3, 0.42), scene.between(0.16, 0.22), scene.colour(0))
    for band in range(6):
        base, start = 0.5 + 0.085 * band, scene.between(0, math.tau)
        crest = [(x / 60, base + 0.016 * math.sin(start + math.tau * 3 * x / 60)) for x in range(61)]
        colour = mix(scene.colour((band + 1) % 2), scene.palette.ground, 0.45 - 0.08 * band)
        scene.shape([(0, 1), *crest, (1, 1)], colour)


def discs(scene: Scene) -> None:
    """Large see-through circles over each other."""
    shift, turned = int(scene.between(0, 6)), scene.dice.random() < 0.5
    for number in range(8):
        radius = scene.between(0.14, 0.38) if number < 5 else scene.between(0.04, 0.1)
        place = number + shift
        x, y = (place % 3) * 0.36 + scene.between(-0.05, 0.33), (place % 2) * 0.5 + scene.between(0.0, 0.45)
        scene.disc(1 - x if turned else x, y, radius, scene.colour(number), 205 if number < 5 else 255)


def arcs(scene: Scene) -> None:
    """A rainbow of rings around one corner."""
    x, y = (0.0 if scene.dice.random() < 0.5 else 1.0), (1.0 if scene.dice.random() < 0.7 else 0.0)
    widest, step = scene.between(0.95, 1.1), scene.between(0.1, 0.14)
    for ring in range(7):
        colour = scene.colour(ring) if ring % 2 == 0 else mix(scene.colour(ring), scene.palette.ground, 0.6)
        scene.disc(x, y, widest - ring * step, colour)
    scene.disc(1 - x + (x - 0.5) * 0.36, 1 - y + (y - 0.5) * 0.36, scene.between(0.08, 0.13), scene.colour(0))


def tiles(scene: Scene) -> None:
    """A board of quarter and full circles."""
    side = scene.u / 4
    columns, rows = math.ceil(scene.width / side), math.ceil(scene.height / side)
    tint = mix(scene.palette.ground, WHITE, 0.3)
    for number in range(min(columns * rows, 2048)):
        left, top = number % columns * side, number // columns * side
        kind, turn = int(scene.between(0, 4)), int(scene.between(0, 4))
        colour = scene.colour(int(5 * scene.dice.random() ** 1.7))
        if (number + number // columns) % 2:
            scene.draw.rectangle((left, top, left + side, top + side), fill=tint)
        if kind == 0:
            scene.draw.ellipse((left + side / 5, top + side / 5, left + side * 0.8, top + side * 0.8), fill=colour)
        elif kind < 3:
            x, y = left - side * (turn % 2), top - side * (turn // 2)
            scene.draw.pieslice((x, y, x + 2 * side, y + 2 * side), *_QUARTERS[turn], fill=colour)


_QUARTERS = ((180, 270), (270, 360), (90, 180), (0, 90))
SCENES: tuple[Callable[[Scene], None], ...] = (hills, peaks, waves, discs, arcs, tiles)
