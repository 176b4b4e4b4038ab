"""Small plots as inline SVG. Colours are the page's: an element has a class, and the style sheet says the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from imagetask.report.axes import number_ticks, number_words

WIDTH, HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 44
_BAR = 26


@dataclass(frozen=True, slots=True)
class Axis:
    """low to high of what is drawn along x; ticks with their words; label: what it is, with its unit."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low or 1)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


@dataclass(slots=True)
class _Plot:
    """A frame with both axes, into which marks are drawn. most: the highest value along y."""

    axis: Axis
    most: float
    label: str
    marks: list[str] = field(default_factory=list)

    def height(self, value: float) -> float:
        return HEIGHT - _BOTTOM - value / (self.most or 1) * (HEIGHT - _TOP - _BOTTOM)

    def svg(self) -> str:
        floor = self.height(0)
        lines = []
        for tick in number_ticks(0, self.most, 4):
            y = self.height(tick)
            lines.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text class="end" x="{_LEFT - 7}" y="{y + 4:.1f}">{number_words(tick)}</text>')
        for value, words in self.axis.ticks:
            x = min(self.axis.place(value), WIDTH - _RIGHT - 3 * len(words))
            lines.append(f'<text class="middle" x="{x:.1f}" y="{floor + 16:.1f}">{escape(words)}</text>')
        base = f'<line class="base" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>'
        right = WIDTH - _RIGHT
        label = f'<text class="end label" x="{right}" y="{HEIGHT - 6}">{escape(self.axis.label)} →</text>'
        above = f'<text class="label" x="0" y="{HEIGHT - 6}">↑ {escape(self.label)}</text>'
        return _svg(HEIGHT, [*lines, *self.marks, base, label, above])


def columns(bins: Sequence[tuple[float, float, float]], axis: Axis, label: str, words: Callable[[float], str]) -> str:
    """A histogram. bins: from, to, height; label: what the heights are; words: for a place along x, in tooltips."""
    plot = _Plot(axis, max((height for _, _, height in bins), default=1), label)
    floor = plot.height(0)
    for low, high, height in bins:
        left, right, top = axis.place(low), axis.place(high), plot.height(height)
        gap = 1 if right - left > 4 else 0
        told = f"{words(low)} to {words(high)}: {number_words(height)} {label}"
        plot.marks.append(
            f'<rect class="mark" x="{left:.1f}" y="{top:.1f}" width="{max(right - left - gap, 0.8):.1f}" '
            f'height="{floor - top:.1f}"><title>{escape(told)}</title></rect>'
        )
    return plot.svg()


def line(points: Sequence[tuple[float, float]], axis: Axis, label: str) -> str:
    """A line over a filled area; label: what the heights are."""
    plot = _Plot(axis, max((height for _, height in points), default=1), label)
    path = " ".join(f"{axis.place(x):.1f},{plot.height(y):.1f}" for x, y in points)
    floor, first, last = plot.height(0), axis.place(points[0][0]), axis.place(points[-1][0])
    plot.marks.append(f'<polygon class="area" points="{first:.1f},{floor} {path} {last:.1f},{floor}"/>')
    plot.marks.append(f'<polyline class="line" points="{path}"/>')
    return plot.svg()


def bars(rows: Sequence[tuple[str, float, str]], kind: str) -> str:
    """Bars that lie, each with its name and its value in words. kind: class of the marks."""
    most = max((value for _, value, _ in rows), default=1) or 1
    name_width = min(190, 24 + 7 * max((len(name) for name, _, _ in rows), default=1))
    room = WIDTH - name_width - 12 - 7 * max((len(words) for _, _, words in rows), default=1)
    marks = []
    for number, (name, value, words) in enumerate(rows):
        y, width = number * _BAR, max(1.5, value / most * room)
        shown = name if len(name) <= 26 else f"{name[:25]}…"
        marks.append(f'<text x="0" y="{y + 17}">{escape(shown)}<title>{escape(name)}</title></text>')
        marks.append(f'<rect class="{kind}" x="{name_width}" y="{y + 5}" width="{width:.1f}" height="{_BAR - 10}"/>')
        marks.append(f'<text x="{name_width + width + 7:.1f}" y="{y + 17}">{escape(words)}</text>')
    return _svg(_BAR * len(rows), marks)


def decades(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of an axis of logarithms: the powers of ten."""
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    return [(float(power), number_words(10.0**power)) for power in powers]


def _svg(height: float, marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-hidden="true">{"".join(marks)}</svg>'
