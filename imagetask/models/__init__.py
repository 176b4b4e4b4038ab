"""Models: one file per backend, one line per backend in `BACKENDS`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from imagetask.errors import UsageError

if TYPE_CHECKING:
    from imagetask.models.base import AsyncImageGenerationModel, Generation, ImageGenerationModel, ImageRequest

__all__ = [
    "BACKENDS",
    "MAX_CONCURRENCY",
    "AsyncImageGenerationModel",
    "Generation",
    "ImageGenerationModel",
    "ImageRequest",
    "load_model",
    "model_class",
    "split_model",
]

BACKENDS: dict[str, str] = {
    "inference-endpoints": "imagetask.models.inference_endpoints:InferenceEndpointsImageGeneration",
    "openai": "imagetask.models.openai:OpenAIImageGeneration",
    "placeholder": "imagetask.models.placeholder:PlaceholderImageGeneration",
}
"""Backend name → class, imported on use. A new backend is a file in this folder and a line here."""

MAX_CONCURRENCY = 64
"""Default for how many calls may be under way at once in a process; how many are is found out while running."""

_EXTRAS = {"openai": "openai"}
"""Backend name → the extra that brings its client, where it is not among the dependencies."""


_IN_BASE = frozenset({"AsyncImageGenerationModel", "Generation", "ImageGenerationModel", "ImageRequest"})
"""Imported on use, and Pillow with it: settings and the command line's help need the names of the backends alone."""


def __getattr__(name: str) -> Any:
    if name not in _IN_BASE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("imagetask.models.base"), name)


def split_model(model: str) -> tuple[str, str | None]:
    """`BACKEND:MODEL_ID` or `BACKEND` → (backend, model id or None). Raises `UsageError` for an unknown backend."""
    backend, _, model_id = model.partition(":")
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r} in the model {model!r}: choose one of {', '.join(BACKENDS)}")
    return backend, model_id or None


def model_class(backend: str) -> type[ImageGenerationModel]:
    """The class behind a backend name. Raises `UsageError` where its client library is not installed."""
    module, _, name = BACKENDS[backend].partition(":")
    try:
        loaded: type[ImageGenerationModel] = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if backend not in _EXTRAS:
            raise
        raise UsageError(
            f"the backend {backend!r} needs the package {error.name!r}: pip install 'imagetask[{_EXTRAS[backend]}]'"
        ) from error
    return loaded


def load_model(model: str, **options: Any) -> ImageGenerationModel:
    """The model that `BACKEND:MODEL_ID` or `BACKEND` names, not yet loaded.

    options: fields of the backend's class (`api_key`, `base_url`, `generation_kwargs`, …); None means not given.
    Raises `UsageError`, naming the field, where the backend does not take what it was given.
    """
    backend, model_id = split_model(model)
    kind = model_class(backend)
    given = {name: value for name, value in options.items() if value is not None}
    if model_id is not None:
        given[kind.model_id_field] = model_id
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if first["type"] == "extra_forbidden":
            what = "this backend does not take it"
        raise UsageError(f"model {model!r}{f', {field}' if field else ''}: {what}") from None
