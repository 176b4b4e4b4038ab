"""What can be seen to be wrong before anything is started or paid for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from imagetask.errors import DatasetError, GenerationError, HubError, RunStopped
from imagetask.layout import is_running
from imagetask.models import AsyncImageGenerationModel, ImageGenerationModel, model_class, split_model
from imagetask.plan import open_source
from imagetask.retry_settings import LIMITS, Retry
from imagetask.runs import Run
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

from .accounts import make_model
from .hub_credentials import hub_token


def check_before_start(settings: RunSettings) -> None:
    """Raises `UsageError` for a source, task, model or folder that cannot work, `RunStopped` for a missing key."""
    check_source(settings)
    if settings.hub_credentials is None:
        check_hub(settings)
    check_store(settings)
    check_models(settings)


def check_source(settings: RunSettings) -> None:
    """Raises `UsageError` for a source, task or folder that cannot work."""
    settings.layout.check()
    if is_running(settings.layout):
        raise DatasetError(f"another run is writing into {settings.out}: wait for it to end, or stop it")
    if settings.hub_credentials is None:  # else the block, which is on the server, has its say later
        open_source(settings)


def check_store(settings: RunSettings) -> None:
    """Raises `UsageError` for an object store that cannot be opened; it is not asked for anything yet."""
    if "://" in settings.store_url:
        GenerationStore(settings.store_url)


def check_hub(settings: RunSettings, *, of_folder: bool = False) -> None:
    """Raises `UsageError` where the token cannot write to the dataset that the run is to push to.

    of_folder: or something else is there than what the folder of the run holds, which is on this machine.
    A Hub that does not answer now may do so when there is something to push.
    """
    if settings.push_to is not None:
        from imagetask.push import check_push

        with suppress(HubError):
            layout = settings.layout if of_folder else None
            check_push(settings.push_to, hub_token(settings.hub_credentials), layout)


def check_models(settings: RunSettings) -> None:
    """Raises `UsageError` for a model that cannot work, `RunStopped` for a missing key."""
    for model in settings.model:
        if settings.credentials is None:
            _check_key(make_model(settings, model))
        else:  # the block, which is on the server, has its say later
            model_class(split_model(model)[0])


def _check_key(model: ImageGenerationModel) -> None:
    """Loads a hosted model, which looks for the key; a local one would load weights."""
    if not isinstance(model, AsyncImageGenerationModel):
        return
    try:
        model.load()
    except GenerationError as error:
        raise RunStopped(error.kind, error.message) from error
    model.unload()


def retry_settings(out: str, **given: Any) -> tuple[RunSettings, Retry]:
    """The settings of the last run into a folder with what is `given` anew; and what is tried again.

    All is checked with which a row of any of the run's models is asked for: what is refused here is written nowhere.
    Raises `DatasetError` where there was no run, `UsageError`.
    """
    limits = {name: given.pop(name) for name in LIMITS if name in given}
    last = Run.read(out).settings.model_dump()
    if limits.get("runner") == "threads":
        last["dask_address"] = None
    settings = RunSettings.checked(**{**last, **limits, "rebuild": False})
    retry = Retry.checked(**given)
    for model in settings.model:
        retry.settings_for(settings, model)
    return settings, retry
