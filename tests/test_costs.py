"""What an image costs: as reported, by the price of its tokens, by the price table, nothing, or not known."""

from __future__ import annotations

import math
from typing import Any

import pytest
from PIL import Image as PILImage

from imagetask.images import Image, encode_picture
from imagetask.models import ImageRequest
from imagetask.models.costs import Cost, cost_of, price_before, total

PRICES = {
    "m": 0.04,
    "m 32x32": 0.01,
    "m 64x64": 0.06,
    "sizes 32x32": 0.01,
    "sizes 64x64": 0.06,
    "tokens": 0.5,
    "tokens input tokens": 5.0,
    "tokens output tokens": 40.0,
    "output": 0.5,
    "output output tokens": 40.0,
}
USED = {"input_tokens": 100, "output_tokens": 1000}


def picture(usage: Any = None, size: tuple[int, int] = (16, 16)) -> Image:
    info = {} if usage is None else {"usage": usage}
    return Image.from_bytes(encode_picture(PILImage.new("RGB", size), "PNG"), info)


@pytest.mark.parametrize(
    ("model", "image", "cost"),
    [
        ("m", picture(), Cost(0.04, "price table")),
        ("m", picture(size=(32, 32)), Cost(0.01, "price table")),
        ("sizes", picture(size=(64, 64)), Cost(0.06, "price table")),
        ("sizes", picture(), Cost(None, "unknown")),
        ("other", picture(USED), Cost(None, "unknown")),
        ("m", picture(USED), Cost(0.04, "price table")),
        ("m", picture({"cost": 0.0123}), Cost(0.0123, "reported")),
        ("other", picture({"cost": 0}), Cost(0.0, "reported")),
        ("tokens", picture({"cost": 0.0123, **USED}), Cost(0.0123, "reported")),
        ("tokens", picture(USED), Cost(0.0405, "reported")),
        ("output", picture(USED), Cost(0.04, "reported")),
        ("tokens", picture({"output_tokens": 1000}), Cost(0.5, "price table")),
    ],
)
def test_cost_is_reported_before_it_is_looked_up_and_unknown_where_nothing_tells(
    model: str, image: Image, cost: Cost
) -> None:
    found = cost_of(PRICES, model, image)
    assert found.usd == pytest.approx(cost.usd)
    assert found.source == cost.source


@pytest.mark.parametrize(
    "usage", [{"cost": -1}, {"cost": math.nan}, {"cost": math.inf}, {"cost": True}, {"cost": "1"}, 7]
)
def test_a_reported_cost_that_is_no_amount_is_not_believed(usage: Any) -> None:
    assert cost_of(PRICES, "m", picture(usage)) == Cost(0.04, "price table")


@pytest.mark.parametrize(
    ("model", "request_", "usd"),
    [
        ("m", ImageRequest("a cat", width=32, height=32), 0.01),
        ("m", ImageRequest("a cat", extra={"size": "64x64"}), 0.06),
        ("m", ImageRequest("a cat"), 0.06),
        ("m", ImageRequest("a cat", width=8, height=8), 0.06),
        ("sizes", ImageRequest("a cat"), 0.06),
        ("output", ImageRequest("a cat"), 0.5),
        ("other", ImageRequest("a cat"), None),
    ],
)
def test_price_before_a_call_is_the_most_that_its_image_may_cost(
    model: str, request_: ImageRequest, usd: float | None
) -> None:
    assert price_before(PRICES, model, request_) == usd


def test_cost_of_several_images_is_their_sum_and_unknown_with_one_that_is() -> None:
    one, unknown = Cost(0.25, "price table"), Cost(None, "unknown")
    assert total(total(None, one), one) == Cost(0.5, "price table")
    assert total(total(one, unknown), one) == unknown
