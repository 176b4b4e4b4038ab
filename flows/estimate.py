"""What a run is going to ask for, and what that costs at most: told before anything is paid."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from imagetask.errors import UsageError
from imagetask.models import AsyncImageGenerationModel, model_class, split_model
from imagetask.models.base import ImageRequest
from imagetask.models.budget import Spent, spent
from imagetask.models.costs import price_before
from imagetask.parts import read_manifest
from imagetask.plan import Plan
from imagetask.retry_settings import Retry
from imagetask.retrying import marked
from imagetask.settings import RunSettings

from .accounts import account_of, make_model
from .wording import dollars, paid_for


@dataclass(frozen=True, slots=True)
class Estimate:
    """images: to be asked for, at most: what the store has without a part for it is not known yet. usd: what they cost
    at most by the block's prices; None where these do not tell. before: what the dataset cost before. max_images,
    max_cost: the budget.
    """

    images: int
    usd: float | None
    before: Spent
    max_images: int | None
    max_cost: float | None

    def __str__(self) -> str:
        unknown = "cost not known: give the block a price (imagetask blocks create … --price MODEL=USD)"
        price = unknown if self.usd is None else f"at most {dollars(self.usd)}"
        before = f"; before: {paid_for(self.before)}" if self.before.images else ""
        limits = [
            *([] if self.max_images is None else [f"{self.max_images:,} images"]),
            *([] if self.max_cost is None else [dollars(self.max_cost)]),
        ]
        budget = f"; budget of the dataset: {' and '.join(limits)}" if limits else ""
        return f"up to {self.images:,} images to generate, {'no cost' if self.usd == 0 else price}{before}{budget}"


def estimate(settings: RunSettings, plan: Plan, retry: Retry | None = None) -> Estimate:
    """retry: only failed rows are tried again, those that `mark_failed` wrote down, and maybe with another model.

    Raises `UsageError` where there is a budget in USD, and a model without a price.
    """
    missing = _missing(settings, plan, retry)
    usd: float | None = 0.0
    for model, images in missing.items():
        asked = settings if retry is None else retry.settings_for(settings, model)
        price = known_price(asked, model if retry is None else asked.model[0])
        usd = None if usd is None or price is None else usd + images * price
    before = spent(settings.layout.spent)
    return Estimate(sum(missing.values()), usd, before, settings.max_images, settings.max_cost)


def _missing(settings: RunSettings, plan: Plan, retry: Retry | None) -> Counter[str]:
    """Of each model how many generations there are to ask for, as far as the parts tell."""
    missing = Counter(dict.fromkeys(settings.model, 0))
    for chunk in plan.chunks:
        if retry is not None:
            missing[chunk.model] += plan.num_generations * sum(marked(settings.layout, chunk))
            continue
        manifest = read_manifest(settings.layout, chunk)
        whole = plan.num_generations * (chunk.stop - chunk.start)
        missing[chunk.model] += whole if manifest is None else manifest["asked_again"] + manifest["pending"]
    return missing


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
