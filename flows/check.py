"""What can be seen to be wrong before anything is started or paid for."""

from __future__ import annotations

from imagetask.models import model_class, split_model
from imagetask.plan import open_source
from imagetask.settings import RunSettings

from .models_in_use import make_model


def check_before_start(settings: RunSettings) -> None:
    """Raises `UsageError` for a source, a task, a model or a folder that cannot work."""
    for model in settings.model:
        model_class(split_model(model)[0])
        if settings.credentials is None:  # else the block has its say
            make_model(settings, model)
    settings.layout.check()
    open_source(settings)
