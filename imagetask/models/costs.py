"""What an image costs: as the backend reported it, by the block's prices, or unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagetask.images import Image
from imagetask.models.base import CostSource, ImageRequest


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one image, or of several. usd: None where it is not known."""

    usd: float | None
    source: CostSource


def total(one: Cost | None, other: Cost | None) -> Cost | None:
    """What two together cost. None: nothing was paid for; with an amount that is not known, the sum is not known."""
    if one is None or other is None:
        return one or other
    if one.usd is None or other.usd is None:
        return Cost(None, "unknown")
    return Cost(one.usd + other.usd, other.source)


FREE = Cost(0.0, "local")
"""Of an image that a model of this machine made."""

TOKENS = ("input tokens", "output tokens")
"""What stands after the model's id in the price of a million tokens."""
_MILLION = 1_000_000


def cost_of(prices: Mapping[str, float], model: str, image: Image) -> Cost:
    """What an image of a hosted model cost.

    prices: "MODEL WIDTHxHEIGHT" (px), or "MODEL" for every size → USD an image, the size before the other;
    "MODEL input tokens", "MODEL output tokens" → USD a million, for backends that report the tokens of each image.
    What the backend reports (a cost in USD, or tokens that have a price) goes before the price of an image.
    """
    usage = image.info.get("usage")
    reported = _reported(prices, model, usage) if isinstance(usage, Mapping) else None
    if reported is not None:
        return Cost(reported, "reported")
    price = prices.get(f"{model} {image.width}x{image.height}", prices.get(model))
    return Cost(None, "unknown") if price is None else Cost(price, "price table")


def price_before(prices: Mapping[str, float], model: str, request: ImageRequest) -> float | None:
    """USD that an image will cost at most, by the prices of images; None where they do not tell.

    That of its size where the request has one, else the highest of the model's sizes.
    """
    size = request.extra.get("size", f"{request.width}x{request.height}")
    exact = prices.get(f"{model} {size}")
    if exact is not None:
        return exact
    sizes = (name.removeprefix(f"{model} ") for name in prices if name.startswith(f"{model} "))
    known = [prices[f"{model} {size}"] for size in sizes if size not in TOKENS]
    return max((*known, prices[model]) if model in prices else known, default=None)


def _reported(prices: Mapping[str, float], model: str, usage: Mapping[str, Any]) -> float | None:
    if _is_amount(usage.get("cost")):
        return float(usage["cost"])
    rates = {name: prices[f"{model} {name}"] for name in TOKENS if f"{model} {name}" in prices}
    counts = {name: usage.get(name.replace(" ", "_")) for name in rates}
    if not rates or not all(map(_is_amount, counts.values())):
        return None
    return sum(float(counts[name] or 0) * rate for name, rate in rates.items()) / _MILLION


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
