"""With what a run asks its models: each as the settings describe it, with its block, and the limits of its account."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagetask.errors import UsageError
from imagetask.models import load_model, model_class, split_model
from imagetask.models.base import ImageGenerationModel
from imagetask.models.breakers import Breakers
from imagetask.models.budget import Budget
from imagetask.models.managed import ManagedModel
from imagetask.models.pacing import Pace
from imagetask.retry_settings import Retry
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

from .shares import WHOLE, Share

if TYPE_CHECKING:
    from imagetask.blocks import BackendBlock


@dataclass(frozen=True, slots=True)
class Account:
    """With what a run asks the models of a backend: the block that it names, and the limits that hold for all of them.

    block: None where the run names none, or the backend takes no credentials.
    """

    block: BackendBlock | None
    max_concurrency: int
    requests_per_minute: float | None

    @property
    def prices(self) -> Mapping[str, float]:
        return self.block.prices if self.block is not None else {}

    def pace(self, share: Share = WHOLE) -> Pace:
        return Pace(*self.limits(share))

    def limits(self, share: Share) -> tuple[int, float | None]:
        """What one of a run's processes has of `max_concurrency` and `requests_per_minute`."""
        return share.places(self.max_concurrency), share.rate(self.requests_per_minute)


def account_of(settings: RunSettings, model: str) -> Account:
    """Loads the block, and gives what holds: the lower of the run's and the account's limits. Raises `UsageError`."""
    block = _block_of(settings, model)
    at_once, per_minute = settings.max_concurrency, settings.requests_per_minute
    if block is not None and block.max_concurrency is not None:
        at_once = min(at_once, block.max_concurrency)
    if block is not None and block.requests_per_minute is not None:
        per_minute = min(per_minute or math.inf, block.requests_per_minute)
    return Account(block, at_once, per_minute)


def managed_model(
    settings: RunSettings,
    model: str,
    account: Account,
    *,
    pace: Pace | None = None,
    budget: Budget | None = None,
    proven: bool = False,
) -> ManagedModel:
    """The model as the settings describe it, with its store, not yet loaded.

    pace, budget: those that it shares with others; default: a pace of its own, and no limit to what is spent.
    proven: as `Breakers` takes it. Raises `UsageError`.
    """
    return ManagedModel(
        _made(settings, model, account.block),
        store=GenerationStore(settings.store_url),
        seed=settings.seed,
        pace=pace or account.pace(),
        prices=account.prices,
        budget=budget,
        breakers=Breakers(settings.max_failed_share, settings.max_refused_share, proven=proven),
        exact_size=settings.exact_size,
    )


def make_model(settings: RunSettings, model: str) -> ImageGenerationModel:
    """The backend's model, with the credentials of the block that the settings name. Raises `UsageError`."""
    return _made(settings, model, _block_of(settings, model))


def named_model(settings: RunSettings, model: str, retry: Retry | None = None) -> ImageGenerationModel:
    """A model of the run, as keys name it. Where another is asked in its place its block may be gone.

    Raises `UsageError`.
    """
    try:
        return make_model(settings, model)
    except UsageError:
        if retry is None or not retry.elsewhere or settings.credentials is None or split_model(model)[1] is None:
            raise
        return _made(settings, model, None)


def _block_of(settings: RunSettings, model: str) -> BackendBlock | None:
    """The block that the settings name; of several models those that take no key have none."""
    backend = split_model(model)[0]
    if settings.credentials is None:
        return None
    if len(settings.model) > 1 and "api_key" not in model_class(backend).model_fields:
        return None
    from imagetask.blocks import load_block

    return load_block(backend, settings.credentials)


def _made(settings: RunSettings, model: str, block: BackendBlock | None) -> ImageGenerationModel:
    """Where a run has several models, what is said for all of them goes to those that take it."""
    backend, model_id = split_model(model)
    if block is not None and block.api_key is not None and settings.base_url not in (None, block.base_url):
        raise UsageError(
            f"--base-url {settings.base_url}: the key of the block {settings.credentials} is sent only to the server "
            "that the block names: write the URL into the block (imagetask blocks create … --base-url URL)"
        )
    options = {
        "base_url": settings.base_url,
        "timeout": settings.timeout,
        "generation_kwargs": settings.generation_kwargs() or None,
    }
    if len(settings.model) > 1:
        takes = model_class(backend).model_fields
        options = {name: value for name, value in options.items() if name in takes}
    return load_model(model, **options) if block is None else block.get_model(model_id, **options)
