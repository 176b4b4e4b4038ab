"""imagetask: from a table of prompts to an image dataset, no image paid for twice, no row lost."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetask.columns import transform_columns_to_image
    from imagetask.dataset import ImageDataset
    from imagetask.errors import (
        DatasetError,
        GenerationError,
        ImageError,
        ImageTaskError,
        RunStopped,
        SourceError,
        StorageError,
        TaskError,
        UsageError,
    )
    from imagetask.images import Image, image_from_str, image_to_str
    from imagetask.models import (
        AsyncImageGenerationModel,
        Generation,
        ImageGenerationModel,
        ImageRequest,
        load_model,
    )
    from imagetask.models.inference_endpoints import InferenceEndpointsImageGeneration
    from imagetask.models.managed import ManagedModel
    from imagetask.models.openai import OpenAIImageGeneration
    from imagetask.models.placeholder import PlaceholderImageGeneration
    from imagetask.store import GenerationStore
    from imagetask.tasks import ImageGeneration, ImageTask

_HOMES = {
    "AsyncImageGenerationModel": "imagetask.models",
    "DatasetError": "imagetask.errors",
    "Generation": "imagetask.models",
    "GenerationError": "imagetask.errors",
    "GenerationStore": "imagetask.store",
    "Image": "imagetask.images",
    "ImageDataset": "imagetask.dataset",
    "ImageError": "imagetask.errors",
    "ImageGeneration": "imagetask.tasks",
    "ImageGenerationModel": "imagetask.models",
    "ImageRequest": "imagetask.models",
    "ImageTask": "imagetask.tasks",
    "ImageTaskError": "imagetask.errors",
    "InferenceEndpointsImageGeneration": "imagetask.models.inference_endpoints",
    "ManagedModel": "imagetask.models.managed",
    "OpenAIImageGeneration": "imagetask.models.openai",
    "PlaceholderImageGeneration": "imagetask.models.placeholder",
    "RunStopped": "imagetask.errors",
    "SourceError": "imagetask.errors",
    "StorageError": "imagetask.errors",
    "TaskError": "imagetask.errors",
    "UsageError": "imagetask.errors",
    "image_from_str": "imagetask.images",
    "image_to_str": "imagetask.images",
    "load_model": "imagetask.models",
    "transform_columns_to_image": "imagetask.columns",
}
"""Public name → module, imported on use: `import imagetask` loads neither a client library nor Polars."""

__all__ = [
    "AsyncImageGenerationModel",
    "DatasetError",
    "Generation",
    "GenerationError",
    "GenerationStore",
    "Image",
    "ImageDataset",
    "ImageError",
    "ImageGeneration",
    "ImageGenerationModel",
    "ImageRequest",
    "ImageTask",
    "ImageTaskError",
    "InferenceEndpointsImageGeneration",
    "ManagedModel",
    "OpenAIImageGeneration",
    "PlaceholderImageGeneration",
    "RunStopped",
    "SourceError",
    "StorageError",
    "TaskError",
    "UsageError",
    "image_from_str",
    "image_to_str",
    "load_model",
    "transform_columns_to_image",
]

__version__ = "0.1.0"

logging.getLogger("imagetask").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imagetask' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
