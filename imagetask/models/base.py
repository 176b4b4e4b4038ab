"""What every image generation model is: an interface that a backend fills with one method."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from imagetask.errors import ErrorKind, GenerationError
from imagetask.images import Image

Status = Literal["done", "failed", "pending"]
"""Of a generation: it has its image, it failed, or it was not asked for because a budget was reached."""

CostSource = Literal["reported", "price table", "local", "unknown"]
"""From where a cost is known: the backend's own account, the block's prices, a model of this machine (free), or not."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One picture that is asked for. `None` means: not set, left to the backend.

    width, height: px. seed: set only where this very seed is wanted; else one is derived for each generation.
    extra: parameters of this backend alone, JSON-able, by the name that the backend gives them.
    """

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self) -> dict[str, Any]:
        """Everything that is set but prompt and seed, flat."""
        named = {name: getattr(self, name) for name in _PARAMETERS}
        return {name: value for name, value in (*named.items(), *self.extra.items()) if value is not None}

    def with_defaults(self, defaults: Mapping[str, Any]) -> ImageRequest:
        """The request with `defaults` where it says nothing itself; unknown names go to `extra`."""
        named = {
            name: value for name, value in defaults.items() if name in _DEFAULTABLE and getattr(self, name) is None
        }
        extra = {name: value for name, value in defaults.items() if name not in _DEFAULTABLE}
        return replace(self, **named, extra={**extra, **self.extra}) if named or extra else self


_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
_DEFAULTABLE = frozenset(f.name for f in fields(ImageRequest)) - {"prompt", "extra"}
_PARAMETERS = tuple(f.name for f in fields(ImageRequest) if f.name in _DEFAULTABLE and f.name != "seed")


def asked_size(parameters: Mapping[str, Any]) -> str | None:
    """The size that parameters of a request ask for, as "WIDTHxHEIGHT" (px); None where they leave it open."""
    width, height = parameters.get("width"), parameters.get("height")
    text = f"{width}x{height}" if width and height else str(parameters.get("size"))
    return text if _SIZE.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Generation:
    """What became of one request: an image, or a failure with its kind; and how it came about.

    key: under which the store keeps it. seed: recorded whether or not the backend has seeds. generation: 0-based
    number among those of one row. attempts: calls made for it, in this and earlier runs. latency: seconds of the
    call that decided. reused: it was in the store. maybe_billed: a call whose answer was lost may have been charged.
    cost: USD of all its calls that brought an image; cost_source: None where none did.
    created_at: when its image came, or it failed (seconds since 1970); None where it was not asked for.
    parameters: what was asked beside prompt and seed. info: what the backend said beside the picture. Both JSON-able.
    """

    model_name: str
    prompt: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    seed: int | None = None
    generation: int = 0
    image: Image | None = None
    error_kind: ErrorKind | None = None
    error_message: str | None = None
    attempts: int = 0
    latency: float | None = None
    reused: bool = False
    maybe_billed: bool = False
    cost: float | None = None
    cost_source: CostSource | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    created_at: float | None = None

    @property
    def status(self) -> Status:
        if self.error_kind is not None:
            return "failed"
        return "pending" if self.image is None else "done"

    def failed(self, kind: ErrorKind, message: str) -> Generation:
        """The same generation, failed; the image stays in the store."""
        return replace(self, error_kind=kind, error_message=message)


class ImageGenerationModel(BaseModel, ABC):
    """A model that turns prompts into images; `generate` is what a subclass for a local model writes.

    Such a model is called with batches of up to `batch_size` requests, one batch at a time, in a thread of its own.

    generation_kwargs: parameters for every request (width, height, negative_prompt, num_inference_steps,
        guidance_scale, seed, and any parameter that the backend has beyond these).
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    backend: ClassVar[str] = "custom"
    """The name in `imagetask.models.BACKENDS`; part of every key."""
    model_id_field: ClassVar[str] = "model_id"
    """The field that takes what stands after the colon in `BACKEND:MODEL_ID`."""

    has_seeds: bool = Field(default=True, description="Whether the backend takes a seed; else it is only recorded.")
    batch_size: int = Field(default=1, ge=1, description="Requests that one call of `generate` takes.")
    generation_kwargs: dict[str, Any] = Field(default_factory=dict, description="Parameters for every request.")

    @property
    @abstractmethod
    def model_name(self) -> str:
        """The name that goes into the column `model_name`, and into every key."""

    @property
    def key_url(self) -> str | None:
        """What names the model in a key where no model id does: a base URL, without any secret; else None."""
        return None

    def load(self) -> None:
        """Opens clients, or loads weights; called once, before the first request, off the event loop."""

    def unload(self) -> None:
        """Gives back what `load` took."""

    def get_generation_kwargs(self) -> dict[str, Any]:
        """The parameters that go to `generate_outputs`."""
        return dict(self.generation_kwargs)

    @abstractmethod
    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        """One image, or one classified failure, for each request, in order. Each request has its seed set."""

    def generate_outputs(
        self, inputs: Sequence[str | ImageRequest], num_generations: int = 1, **kwargs: Any
    ) -> list[list[Generation]]:
        """For each input, its generations in order: n inputs → n lists of `num_generations`.

        Paced and retried by the table of failures; a failed generation is in its place with its kind. Without a
        store nothing is remembered. Raises `RunStopped` where no call can work.
        """
        from imagetask.models.managed import ManagedModel

        with ManagedModel(self) as managed:
            return managed.generate_outputs(inputs, num_generations, **kwargs)


class AsyncImageGenerationModel(ImageGenerationModel):
    """A model behind a network: `agenerate` is what a subclass writes.

    All calls of a process run on one event loop. `aload` and `aunload` run on it as well.
    """

    async def aload(self) -> None:
        """Opens what must be opened on the event loop."""

    async def aunload(self) -> None:
        """Closes what `aload` opened."""

    @abstractmethod
    async def agenerate(self, request: ImageRequest) -> Image:
        """The image of one request, its bytes as the provider sent them.

        The request has its seed set, or None where the model has no seeds. Raises `GenerationError`, classified;
        any other exception is taken as kind "unknown". Makes one call: waiting and retrying are not its business.
        """

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        """Not how a hosted model is called; here so that both kinds of model have one interface."""
        return [generation.image or _error(generation) for [generation] in self.generate_outputs(list(requests))]


def _error(generation: Generation) -> GenerationError:
    return GenerationError(generation.error_kind or "unknown", generation.error_message or "no image came")
