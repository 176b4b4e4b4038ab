"""What a run is going to ask for, and what that costs at most: told before anything is paid."""

from __future__ import annotations

from dataclasses import dataclass

from imagetask.errors import UsageError
from imagetask.models import AsyncImageGenerationModel, model_class, split_model
from imagetask.models.base import ImageRequest
from imagetask.models.budget import spent
from imagetask.models.costs import price_before
from imagetask.plan import Plan
from imagetask.retrying import Retry
from imagetask.runs import counts_of_parts
from imagetask.settings import RunSettings

from .models_in_use import account_of, make_model
from .wording import dollars


@dataclass(frozen=True, slots=True)
class Estimate:
    """images: that are missing. usd: what they cost by the block's prices; None where these do not tell.

    spent_images, spent_usd: what the dataset cost before. max_images, max_cost: the budget.
    """

    images: int
    usd: float | None
    spent_images: int
    spent_usd: float
    max_images: int | None
    max_cost: float | None

    def __str__(self) -> str:
        price = "cost not known: prices belong in the block" if self.usd is None else f"about {dollars(self.usd)}"
        free = "no cost" if self.usd == 0 else price
        before = f"; {self.spent_images:,} images for {dollars(self.spent_usd)} before" if self.spent_images else ""
        limits = [
            *([] if self.max_images is None else [f"{self.max_images:,} images"]),
            *([] if self.max_cost is None else [dollars(self.max_cost)]),
        ]
        budget = f"; budget of the dataset: {' and '.join(limits)}" if limits else ""
        return f"{self.images:,} images to generate, {free}{before}{budget}"


def estimate(settings: RunSettings, plan: Plan, rows: int | None = None, retry: Retry | None = None) -> Estimate:
    """rows: of those that are tried again, over all models; None for all that is missing. retry: with what they are.

    Raises `UsageError` where there is a budget in USD, and a model without a price.
    """
    missing = plan.generations - counts_of_parts(settings.layout).done
    images = missing if rows is None else rows * plan.num_generations
    asked = [settings if retry is None else retry.settings_for(settings, model) for model in settings.model]
    models = settings.model if retry is None else [one.model[0] for one in asked]
    prices = [known_price(one, model) for one, model in zip(asked, models, strict=True)]
    known = [price for price in prices if price is not None]
    usd = images * sum(known) / len(prices) if len(known) == len(prices) else None
    before = spent(settings.layout.spent)
    return Estimate(images, usd, *before, settings.max_images, settings.max_cost)


def known_price(settings: RunSettings, model: str) -> float | None:
    """As `price_of_an_image`. Raises `UsageError` where there is a budget in USD, and the price is not known."""
    price = price_of_an_image(settings, model)
    if price is None and settings.max_cost is not None:
        raise _no_price(settings, model)
    return price


def price_of_an_image(settings: RunSettings, model: str) -> float | None:
    """USD that one image of a model costs at most; None where the block's prices do not tell."""
    if not issubclass(model_class(split_model(model)[0]), AsyncImageGenerationModel):
        return 0.0
    request = ImageRequest("").with_defaults(settings.generation_kwargs())
    return price_before(account_of(settings, model).prices, make_model(settings, model).model_name, request)


def _no_price(settings: RunSettings, model: str) -> UsageError:
    backend, model_id = split_model(model)
    name = settings.credentials or "NAME"
    return UsageError(
        f"--max-cost: the price of an image of {model} is not known: give a block its price, as in: imagetask blocks "
        f"create {backend} {name} --price {model_id or 'MODEL'}=0.04, and name it with --credentials {name}"
    )
