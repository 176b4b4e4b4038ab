"""The models of the runs in this process: one for each run and model, shared by all of the run's chunks."""

from __future__ import annotations

import threading

from imagetask.errors import StopReason
from imagetask.models import load_model, model_class, split_model
from imagetask.models.base import ImageGenerationModel
from imagetask.models.managed import ManagedModel
from imagetask.models.tally import Tally
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

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


def managed_model(settings: RunSettings, model: str) -> ManagedModel:
    """The model as the settings describe it, with its store, not yet loaded."""
    return ManagedModel(
        make_model(settings, model),
        store=GenerationStore(settings.store_url),
        seed=settings.seed,
        max_concurrency=settings.max_concurrency,
        requests_per_minute=settings.requests_per_minute,
    )


def make_model(settings: RunSettings, model: str) -> ImageGenerationModel:
    """The backend's model, with the credentials of the block that the settings name.

    Where a run has several models, what is said for all of them goes to those that take it.
    """
    backend, model_id = split_model(model)
    takes, several = model_class(backend).model_fields, len(settings.model) > 1
    options = {
        "base_url": settings.base_url,
        "timeout": settings.timeout,
        "generation_kwargs": settings.generation_kwargs() or None,
    }
    if several:
        options = {name: value for name, value in options.items() if name in takes}
    if settings.credentials is None or (several and "api_key" not in takes):
        return load_model(model, **options)
    from imagetask.blocks import load_block

    return load_block(backend, settings.credentials).get_model(model_id, **options)


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
