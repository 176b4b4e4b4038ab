"""Scales of small plots: round steps for numbers and for time, and the words at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_TIME_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 28, 91, 182, 365)),
)


def number_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides `span` into at most so many steps."""
    rough = max(span, 1e-12) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def number_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    step = number_step(high - low, most)
    return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def time_step(span: float, most: int) -> float:
    """The smallest usual step of time, in seconds, that divides `span` seconds into at most so many."""
    return next((step for step in _TIME_STEPS if step * most >= span), math.ceil(span / most / _DAY) * _DAY)


def time_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round times from `low` to `high`, seconds since 1970."""
    step = time_step(high - low, most)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def time_words(ticks: Sequence[float]) -> list[str]:
    """The words at ticks of time, UTC: as much of date and time as tells them apart."""
    moments = [datetime.fromtimestamp(tick, UTC) for tick in ticks]
    if all(tick % _DAY == 0 for tick in ticks):
        return [f"{moment.day} {moment:%b}" for moment in moments]
    pattern = "%H:%M" if all(tick % _MINUTE == 0 for tick in ticks) else "%H:%M:%S"
    if len({moment.date() for moment in moments}) > 1:
        return [f"{moment.day} {moment:%b} {moment:{pattern}}" for moment in moments]
    return [f"{moment:{pattern}}" for moment in moments]


def number_words(value: float) -> str:
    """A number in a few characters."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k" if abs(value) < 1_000_000 else f"{value / 1_000_000:,.1f}M"
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"
