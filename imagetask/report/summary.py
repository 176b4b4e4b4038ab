"""What a report says of the whole dataset before any picture: its makers, counts, cost and days."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import polars as pl

from imagetask.card.counts import DatasetCounts


def lede(counts: DatasetCounts) -> str:
    """One sentence on what it is."""
    by = f" by {_and(list(counts.models))}" if counts.models else ""
    served = f", served by {_and(list(counts.providers))}" if counts.providers else ""
    return f"{_many(counts.images, 'image')} generated{by}{served}, in {_many(counts.rows, 'row')}."


def facts(counts: DatasetCounts, numbers: pl.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Name, value and what else there is to say of each, over the whole dataset.

    numbers: `cost` (USD), `cost_source`, `created_at`, a row for each picture that was asked for.
    """
    yield "images", f"{counts.images:,}", _by_count(counts.sizes, " px")
    failed = sum(counts.failed.values())
    yield "failed", f"{failed:,}", _by_count(counts.failed)
    if counts.pending:
        yield "pending", f"{counts.pending:,}", "a budget was reached"
    yield "cost", *_cost(numbers)
    if (days := _days(numbers)) is not None:
        yield "made", *days


def _cost(numbers: pl.DataFrame) -> tuple[str, str]:
    known = numbers.filter(pl.col("cost").is_not_null())
    sources = {str(name or "unknown") for name in known["cost_source"].unique().sort()}
    unknown = numbers.filter(pl.col("cost").is_null() & pl.col("cost_source").is_not_null()).height
    words = {"reported": "reported by the backend", "price table": "by the price table", "local": "made locally"}
    told = [words.get(name, name) for name in sorted(sources)]
    told += [f"{_many(unknown, 'image')} of unknown cost"] if unknown else []
    if known.is_empty():
        return "unknown", ", ".join(told)
    total = known["cost"].sum()
    return f"${total:,.2f}" if total >= 0.01 or not total else f"${total:.4f}", ", ".join(told)


def _days(numbers: pl.DataFrame) -> tuple[str, str] | None:
    made = numbers["created_at"].drop_nulls()
    first, last = made.min(), made.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return None
    if first.date() == last.date():
        hours = f"{first:%H:%M}" if f"{first:%H:%M}" == f"{last:%H:%M}" else f"{first:%H:%M} to {last:%H:%M}"
        return _day(first), f"{hours} UTC"
    return _day(first), f"to {_day(last)}"


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y}"


def _by_count(counted: Mapping[str, int], unit: str = "") -> str:
    shown = list(counted.items())[:3]
    more = len(counted) - len(shown)
    if len(counted) == 1:
        return f"{shown[0][0].replace('x', ' × ') if unit else shown[0][0]}{unit}"
    told = [f"{name.replace('x', ' × ') if unit else name}{unit} ({count:,})" for name, count in shown]
    return ", ".join(told) + (f", {more:,} others" if more else "")


def _and(names: list[str]) -> str:
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
