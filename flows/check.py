"""What can be seen to be wrong before anything is started or paid for."""

from __future__ import annotations

from imagetask.errors import DatasetError, GenerationError, RunStopped
from imagetask.layout import is_running
from imagetask.models import AsyncImageGenerationModel, ImageGenerationModel, model_class, split_model
from imagetask.plan import open_source
from imagetask.settings import RunSettings

from .models_in_use import make_model


def check_before_start(settings: RunSettings) -> None:
    """Raises `UsageError` for a source, task, model or folder that cannot work, `RunStopped` for a missing key."""
    settings.layout.check()
    if is_running(settings.layout):
        raise DatasetError(f"another run is writing into {settings.out}: wait for it to end, or stop it")
    open_source(settings)
    check_models(settings)


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
