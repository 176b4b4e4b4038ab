"""Amounts in words: the same for the terminal, the log, states and artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagetask.models.budget import Spent


def by_kind(failed: Mapping[str, int]) -> str:
    """How many failed of each kind, the most first: "12 refused, 1 server"; empty for none."""
    most_first = sorted(failed.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in most_first)


def duration(seconds: float) -> str:
    """About how long, for people."""
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def dollars(usd: float) -> str:
    """An amount of money, to the cent, and more exactly where it is small."""
    return f"{usd:,.2f} USD" if usd >= 1 or usd == 0 else f"{usd:.4f} USD"


def paid_for(known: Spent) -> str:
    """What a dataset cost by its ledger, in which a call counts that may have been charged."""
    if known.unpriced == known.images:
        return f"{known.images:,} images paid for, at a price that is not known"
    unpriced = f", and {known.unpriced:,} of unknown price" if known.unpriced else ""
    return f"{known.images - known.unpriced:,} images paid for, {dollars(known.usd)}{unpriced}"
