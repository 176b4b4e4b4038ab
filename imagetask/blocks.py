"""Prefect blocks that hold the credentials of a backend; the only module here that imports Prefect."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from imagetask.errors import UsageError
from imagetask.models import load_model
from imagetask.models.base import ImageGenerationModel


class _BackendBlock(Block, ABC):
    """What the blocks of all backends share: the secret, and what belongs to the account.

    Every field is one of the backend's model class. A name that is no field is refused, and its value not shown: it
    may be a key under a wrong name.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    _backend: ClassVar[str]

    api_key: SecretStr | None = Field(default=None, description="Key or token of the account.")
    base_url: str | None = Field(
        default=None, description="URL of the server, where it is not the backend's own; the key does not belong in it."
    )

    def get_model(self, model_id: str | None = None, **options: Any) -> ImageGenerationModel:
        """The model, not yet loaded.

        options: fields of the model's class; one that is not None goes before the block's own.
        Raises `UsageError` for what the backend does not take.
        """
        own = {name: getattr(self, name) for name in type(self).model_fields}
        given = {name: value for name, value in options.items() if value is not None}
        return load_model(self._backend if model_id is None else f"{self._backend}:{model_id}", **{**own, **given})


class InferenceEndpointsCredentials(_BackendBlock):
    """Token for generating images with Hugging Face: Inference Providers, Inference Endpoints, or a URL."""

    _block_type_name = "Image Inference Endpoints Credentials"
    _block_type_slug = "image-inference-endpoints-credentials"
    _logo_url = HttpUrl("https://github.com/huggingface.png?size=200")
    _documentation_url = HttpUrl("https://huggingface.co/docs/huggingface_hub/guides/inference")
    _backend = "inference-endpoints"

    provider: str | None = Field(default=None, description="Inference provider; default: chosen by the Hub.")
    bill_to: str | None = Field(default=None, description="Organization that pays for the calls.")


class OpenAIImageCredentials(_BackendBlock):
    """Key for generating images with OpenAI, or with a server that speaks /v1/images/generations."""

    _block_type_name = "OpenAI Image Credentials"
    _block_type_slug = "openai-image-credentials"
    _logo_url = HttpUrl("https://github.com/openai.png?size=200")
    _documentation_url = HttpUrl("https://platform.openai.com/docs/api-reference/images")
    _backend = "openai"


BLOCKS: dict[str, type[_BackendBlock]] = {
    "inference-endpoints": InferenceEndpointsCredentials,
    "openai": OpenAIImageCredentials,
}
"""Backend name → the block that holds its credentials."""


def load_block(backend: str, name: str) -> _BackendBlock:
    """The saved block of a backend by its name. Raises `UsageError` where there is none."""
    if backend not in BLOCKS:
        raise UsageError(f"--credentials {name}: the backend {backend!r} takes no credentials; leave them out")
    kind = BLOCKS[backend]
    try:
        block = kind.load(name)
    except ValueError as error:
        raise UsageError(
            f"--credentials {name}: there is no block {kind.get_block_type_slug()}/{name} on this Prefect server; "
            f"make one in the UI, or with {kind.__name__}(api_key=…).save({name!r})"
        ) from error
    assert isinstance(block, _BackendBlock)
    return block
