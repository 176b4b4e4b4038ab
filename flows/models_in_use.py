"""The models of the runs in this process: one for each run and model, shared by all of the run's chunks."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imagetask.errors import StopReason
from imagetask.models import load_model, model_class, split_model
from imagetask.models.base import ImageGenerationModel
from imagetask.models.managed import ManagedModel
from imagetask.models.tally import Tally
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

if TYPE_CHECKING:
    from imagetask.blocks import BackendBlock

_lock = threading.Lock()
_models: dict[tuple[str, str], ManagedModel] = {}
_stopped: dict[str, tuple[StopReason, str]] = {}
_closed: dict[str, list[Tally]] = {}
"""What became of the generations of the run that was closed last."""


def open_model(settings: RunSettings, model: str, run: str) -> ManagedModel:
    """The run's model in this process, opened at first use. Raises `UsageError`, `RunStopped`, `StorageError`."""
    with _lock:
        managed = _models.get((run, model))
        if managed is None:
            managed = managed_model(settings, model)
            _models[run, model] = managed
            if run in _stopped:
                managed.stop(*_stopped[run])
            managed.load()
        return managed


@dataclass(frozen=True, slots=True)
class Account:
    """With what a run asks a model: the block that it names, and the limits that hold for this model.

    block: None where the run names none, or the backend takes no credentials.
    """

    block: BackendBlock | None
    max_concurrency: int
    requests_per_minute: float | None


def account_of(settings: RunSettings, model: str) -> Account:
    """Loads the block, and gives what holds: the lower of the run's and the account's limits.

    Models of one backend are asked with one block, and share its limits evenly. Raises `UsageError`.
    """
    block = _block_of(settings, model)
    at_once, per_minute = settings.max_concurrency, settings.requests_per_minute
    if block is None:
        return Account(None, at_once, per_minute)
    backend = split_model(model)[0]
    sharing = sum(split_model(other)[0] == backend for other in settings.model)
    if block.max_concurrency is not None:
        at_once = min(at_once, max(1, block.max_concurrency // sharing))
    if block.requests_per_minute is not None:
        per_minute = min(per_minute or math.inf, block.requests_per_minute / sharing)
    return Account(block, at_once, per_minute)


def managed_model(settings: RunSettings, model: str, account: Account | None = None) -> ManagedModel:
    """The model as the settings describe it, with its store, not yet loaded.

    account: where it is known already. Raises `UsageError`.
    """
    account = account or account_of(settings, model)
    return ManagedModel(
        _made(settings, model, account.block),
        store=GenerationStore(settings.store_url),
        seed=settings.seed,
        max_concurrency=account.max_concurrency,
        requests_per_minute=account.requests_per_minute,
        prices=account.block.prices if account.block else None,
    )


def make_model(settings: RunSettings, model: str) -> ImageGenerationModel:
    """The backend's model, with the credentials of the block that the settings name. Raises `UsageError`."""
    return _made(settings, model, _block_of(settings, model))


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
    options = {
        "base_url": settings.base_url,
        "timeout": settings.timeout,
        "generation_kwargs": settings.generation_kwargs() or None,
    }
    if len(settings.model) > 1:
        takes = model_class(backend).model_fields
        options = {name: value for name, value in options.items() if name in takes}
    return load_model(model, **options) if block is None else block.get_model(model_id, **options)


def stop_models(run: str, kind: StopReason, message: str) -> None:
    """No new calls by the run in this process."""
    _stopped[run] = (kind, message)
    for (owner, _), managed in list(_models.items()):
        if owner == run:
            managed.stop(kind, message)


def close_models(run: str) -> None:
    """Closes the run's models in this process."""
    with _lock:
        closing = [_models.pop(key) for key in list(_models) if key[0] == run]
        _stopped.pop(run, None)
        _closed.clear()
        _closed[run] = [managed.tally for managed in closing]
    for managed in closing:
        managed.unload()


def tallies(run: str) -> list[Tally]:
    """What became of the run's generations in this process, one tally for each model."""
    return _closed.get(run) or [managed.tally for (owner, _), managed in list(_models.items()) if owner == run]
