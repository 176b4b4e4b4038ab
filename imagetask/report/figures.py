"""The plots of a report, over the whole dataset: throughput, failures, latency, quality, cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from imagetask.report.axes import number_step, number_ticks, number_words, time_step, time_ticks, time_words
from imagetask.report.drawn import Axis, bars, columns, decades, line

_BINS = 40
_BARS = 10
_POINTS = 200
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


@dataclass(frozen=True, slots=True)
class Figure:
    """title; told: one sentence with the numbers that matter; svg."""

    title: str
    told: str
    svg: str


def figures(numbers: pl.DataFrame) -> Iterator[Figure]:
    """Those for which there is data.

    numbers: `created_at`, `error_kind`, `latency` (seconds), `blur`, `colourfulness`, `cost` (USD), `model_name`, a row
    for each picture that was asked for.
    """
    made = numbers.filter(pl.col("error_kind").is_null()).drop_nulls("created_at")
    drawn = (
        _throughput(made["created_at"]),
        _failures(numbers["error_kind"].drop_nulls()),
        _histogram(numbers["latency"], "Latency", "s", "seconds of the call"),
        _sharpness(numbers["blur"]),
        _histogram(numbers["colourfulness"], "Colourfulness", "", "0 is grey"),
        _cost_over_time(made),
        _cost_by_model(numbers),
    )
    yield from (figure for figure in drawn if figure is not None)


def _throughput(created: pl.Series) -> Figure | None:
    seconds = created.dt.epoch("us").sort() / 1e6
    if len(seconds) < 2 or seconds[-1] - seconds[0] < 1:
        return None
    step = time_step(seconds[-1] - seconds[0], _BINS)
    low, high = math.floor(seconds[0] / step) * step, (math.floor(seconds[-1] / step) + 1) * step
    unit, length = next((u for u in (("day", _DAY), ("hour", _HOUR)) if step >= u[1]), ("minute", _MINUTE))
    counted = (seconds / step).floor().value_counts().sort(seconds.name)
    bins = [(n * step, (n + 1) * step, count * length / step) for n, count in counted.iter_rows()]
    whole = len(seconds) / (seconds[-1] - seconds[0]) * length
    told = f"{number_words(float(f'{whole:.3g}'))} images a {unit} from the first to the last."
    svg = columns(bins, _time_axis(low, high), f"images a {unit}", lambda at: time_words([at])[0])
    return Figure("Throughput", told, svg)


def _failures(kinds: pl.Series) -> Figure | None:
    if kinds.is_empty():
        return None
    counted = list(kinds.value_counts(sort=True).iter_rows())
    rows = [(kind, float(count), f"{count:,}") for kind, count in counted[:_BARS]]
    told = f"{len(kinds):,} in all, {counted[0][1]:,} of them {counted[0][0]}."
    return Figure("Failures by kind", told, bars(rows, "mark bad"))


def _histogram(values: pl.Series, title: str, unit: str, label: str) -> Figure | None:
    values = values.drop_nulls().drop_nans()
    if len(values) < 2:
        return None
    high = float(values.quantile(0.995) or 0)
    step = number_step(high or 1, _BINS)
    last = max(1, math.ceil(high / step))
    counted = (values / step).floor().clip(0, last - 1).value_counts()
    bins = sorted((n * step, (n + 1) * step, float(count)) for n, count in counted.iter_rows())
    unit = f" {unit}" if unit else ""
    middle, most, highest = (float(values.quantile(share) or 0) for share in (0.5, 0.95, 1.0))
    told = f"Median {middle:.3g}{unit}, 95 % up to {most:.3g}{unit}, at most {highest:.3g}{unit}."
    ticks = [(tick, number_words(tick)) for tick in number_ticks(0, last * step)]
    axis = Axis(0, last * step, ticks, label)
    return Figure(title, told, columns(bins, axis, "images", lambda at: f"{at:.3g}{unit}"))


def _sharpness(values: pl.Series) -> Figure | None:
    values = values.drop_nulls().drop_nans()
    if len(values) < 2:
        return None
    powers = values.clip(0.1).log10()
    low, high = math.floor(powers.min()), math.ceil(powers.max() + 1e-9)  # type: ignore[arg-type, operator]
    step = (high - low) / _BINS
    counted = ((powers - low) / step).floor().clip(0, _BINS - 1).value_counts()
    bins = sorted((low + n * step, low + (n + 1) * step, float(count)) for n, count in counted.iter_rows())
    told = f"Median {number_words(round(values.median()))}; the lower, the more blurred."  # type: ignore[arg-type]
    axis = Axis(low, high, decades(low, high), "variance of the Laplacian")
    return Figure("Sharpness", told, columns(bins, axis, "images", lambda at: f"{10**at:,.0f}"))


def _cost_over_time(made: pl.DataFrame) -> Figure | None:
    paid = made.filter(pl.col("cost") > 0).sort("created_at")
    if paid.height < 2:
        return None
    seconds, total = paid["created_at"].dt.epoch("us") / 1e6, paid["cost"].cum_sum()
    if seconds[-1] - seconds[0] < 1:
        return None
    every = max(1, paid.height // _POINTS)
    places = [*range(0, paid.height - 1, every), paid.height - 1]
    points = [(seconds[place], total[place]) for place in places]
    told = f"${total[-1]:,.2f} for {paid.height:,} images: ${total[-1] / paid.height:.3g} each."
    return Figure("Cost so far", told, line(points, _time_axis(seconds[0], seconds[-1]), "USD"))


def _cost_by_model(numbers: pl.DataFrame) -> Figure | None:
    by = numbers.filter(pl.col("cost") > 0).group_by("model_name").agg(pl.col("cost").sum(), images=pl.len())
    if by.height < 2:
        return None
    rows = [
        (str(model), float(cost), f"${cost:,.2f}")
        for model, cost, _ in by.sort("cost", descending=True).head(_BARS).iter_rows()
    ]
    each = by.select(pl.col("model_name"), each=pl.col("cost") / pl.col("images")).sort("each")
    told = f"An image cost from ${each['each'][0]:.3g} to ${each['each'][-1]:.3g}."
    return Figure("Cost by model", told, bars(rows, "mark"))


def _time_axis(low: float, high: float) -> Axis:
    ticks = time_ticks(low, high)
    return Axis(low, high, list(zip(ticks, time_words(ticks), strict=True)), "time (UTC)")
