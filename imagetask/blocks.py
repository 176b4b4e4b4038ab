"""Prefect blocks that hold the credentials of a backend; the only module here that imports Prefect."""

from __future__ import annotations

import re
import shlex
from abc import ABC
from typing import Annotated, Any, ClassVar

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, ValidationError, ValidationInfo, field_validator

from imagetask.errors import ImageTaskError, UsageError
from imagetask.models import BACKENDS, load_model, split_model
from imagetask.models.base import ImageGenerationModel
from imagetask.models.connections import checked_url
from imagetask.models.costs import TOKENS
from imagetask.settings import BLOCK_NAME, what_is_wrong, without_null

_PRICED = re.compile(rf"\S+(?: [1-9]\d*x[1-9]\d*| {'| '.join(TOKENS)})?")


def _plain(schema: dict[str, Any]) -> None:
    """Makes one field in the UI's form of a field that may be None."""
    without_null(schema)
    schema.pop("default")


Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BackendBlock(Block, ABC):
    """What the blocks of all backends share: the secret, and what belongs to the account.

    A name that is no field is refused, and its value not shown: it may be a key under a wrong name. The UI saves what
    is typed, unchecked: there `load_block` says what is wrong.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    _backend: ClassVar[str]
    key_variable: ClassVar[str]
    """The environment variable in which the backend's users keep their key."""

    api_key: SecretStr | None = Field(
        default=None,
        title="API key",
        description="Key or token of the account; empty for a server that needs none.",
        json_schema_extra=_plain,
    )
    base_url: str | None = Field(
        default=None,
        title="Base URL",
        description="URL of the server, where it is not the backend's own; without user name, password and query.",
        json_schema_extra=_plain,
    )
    model: str | None = Field(
        default=None,
        title="Default model",
        description="Model id for runs that name the backend alone.",
        json_schema_extra=_plain,
    )
    max_concurrency: int | None = Field(
        default=None,
        ge=1,
        title="Calls at once",
        description="Calls of one run under way at once, at most; the run's own limit counts where it is lower.",
        json_schema_extra=_plain,
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        title="Requests per minute",
        description="Calls of one run in a minute, at most; the run's own limit counts where it is lower.",
        json_schema_extra=_plain,
    )
    prices: dict[str, Usd] = Field(
        default_factory=dict,
        description="USD an image, by model, or by model and size (px); and USD a million tokens, for backends that "
        "report the tokens of each image: they go before. For the cost that a run shows, and for --max-cost, as in "
        '{"gpt-image-2": 0.04, "gpt-image-2 1024x1536": 0.06, "gpt-image-2 output tokens": 40}.',
    )

    @field_validator("base_url", "model", "provider", "bill_to", mode="before", check_fields=False)
    @classmethod
    def _blank_is_none(cls, value: Any) -> Any:
        """A field that was emptied in the UI's form may come back as blank text."""
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_url(cls, url: str | None) -> str | None:
        if url and "?" in url:
            raise ValueError("base_url must not hold a query: give the key as api_key")
        return checked_url(url)

    @field_validator("model")
    @classmethod
    def _id_alone(cls, model: str | None) -> str | None:
        if model:
            _check_id(model)
        return model

    @field_validator("prices", mode="before")
    @classmethod
    def _no_prices_is_empty(cls, prices: Any) -> Any:
        return {} if prices is None else prices

    @field_validator("prices")
    @classmethod
    def _known_form(cls, prices: dict[str, float]) -> dict[str, float]:
        for name in prices:
            if not _PRICED.fullmatch(name):
                forms = ", ".join(f'"MODEL {what}"' for what in ("WIDTHxHEIGHT", *TOKENS))
                raise ValueError(f'{name!r} is not of the form "MODEL", {forms}')
            _check_id(name)
        return prices

    def get_model(self, model_id: str | None = None, **options: Any) -> ImageGenerationModel:
        """The model, or the block's own where no id is given; not yet loaded.

        options: fields of the model's class; one that is not None goes before the block's own.
        Limits and prices are the account's: they are for who makes the calls. Raises `UsageError` for what the
        backend does not take.
        """
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in _NOT_THE_MODEL_CLASSES}
        given = {name: value for name, value in options.items() if value is not None}
        model_id = model_id or self.model
        return load_model(f"{self._backend}:{model_id}" if model_id else self._backend, **{**own, **given})


_NOT_THE_MODEL_CLASSES = frozenset({"model", "max_concurrency", "requests_per_minute", "prices"})
"""Fields of a block that are no options of the model's class."""


def _check_id(model: str) -> None:
    backend = model.partition(":")[0]
    if ":" in model and backend in BACKENDS:
        raise ValueError(f"give the model's id alone, without {backend}: before it")


class InferenceEndpointsCredentials(BackendBlock):
    """Token for Hugging Face, with the limits and prices of the account."""

    _block_type_name = "Image Inference Endpoints Credentials"
    _block_type_slug = "image-inference-endpoints-credentials"
    _logo_url = HttpUrl("https://github.com/huggingface.png?size=200")
    _documentation_url = HttpUrl("https://huggingface.co/docs/huggingface_hub/guides/inference")
    _description = (
        "Makes images with Hugging Face: through Inference Providers, on an Inference Endpoint, or at any URL that "
        "speaks its protocol. Runs take the block by its name, as the parameter `credentials`."
    )
    _code_example = """
        ```python
        from imagetask.blocks import InferenceEndpointsCredentials

        credentials = InferenceEndpointsCredentials.load("BLOCK_NAME")
        model = credentials.get_model("black-forest-labs/FLUX.1-schnell")
        [[generation]] = model.generate_outputs(["a red bicycle"])
        picture = generation.image.to_pil()
        ```
    """
    _backend = "inference-endpoints"
    key_variable = "HF_TOKEN"

    provider: str | None = Field(
        default=None,
        description="Inference provider, such as fal-ai; empty: the Hub chooses one.",
        json_schema_extra=_plain,
    )
    bill_to: str | None = Field(
        default=None, description="Organization on the Hub that pays for the calls.", json_schema_extra=_plain
    )

    @field_validator("provider")
    @classmethod
    def _makes_images(cls, provider: str | None, info: ValidationInfo) -> str | None:
        from imagetask.models.inference_endpoints import TEXT_TO_IMAGE_PROVIDERS as KNOWN

        if provider not in (None, "auto", *KNOWN):
            raise ValueError(f"no text-to-image provider: choose auto or one of {', '.join(KNOWN)}")
        if provider not in (None, "auto") and info.data.get("base_url"):
            raise ValueError("a provider goes without a base_url, which is called directly")
        return provider


class OpenAIImageCredentials(BackendBlock):
    """Key for OpenAI, or for a server that speaks its protocol, with the limits and prices of the account."""

    _block_type_name = "OpenAI Image Credentials"
    _block_type_slug = "openai-image-credentials"
    _logo_url = HttpUrl("https://github.com/openai.png?size=200")
    _documentation_url = HttpUrl("https://platform.openai.com/docs/api-reference/images")
    _description = (
        "Makes images with OpenAI, or with any server that speaks `/v1/images/generations`. Runs take the block "
        "by its name, as the parameter `credentials`."
    )
    _code_example = """
        ```python
        from imagetask.blocks import OpenAIImageCredentials

        credentials = OpenAIImageCredentials.load("BLOCK_NAME")
        model = credentials.get_model("gpt-image-2")
        [[generation]] = model.generate_outputs(["a red bicycle"])
        picture = generation.image.to_pil()
        ```
    """
    _backend = "openai"
    key_variable = "OPENAI_API_KEY"


BLOCKS: dict[str, type[BackendBlock]] = {
    "inference-endpoints": InferenceEndpointsCredentials,
    "openai": OpenAIImageCredentials,
}
"""Backend name → the block that holds its credentials."""


def block_class(backend: str) -> type[BackendBlock]:
    """The block of a backend. Raises `UsageError` for an unknown backend, and for one without credentials."""
    split_model(backend)
    if backend not in BLOCKS:
        raise UsageError(f"the backend {backend!r} takes no credentials; those that do: {', '.join(BLOCKS)}")
    return BLOCKS[backend]


def check_block_name(name: str) -> None:
    """Raises `UsageError` for a name that Prefect does not take; it is not shown, since it may be a key."""
    if not re.fullmatch(BLOCK_NAME, name):
        raise UsageError("the name of a block may have lowercase letters, digits and dashes only, as in my-account")


def wrong_field(error: ValidationError) -> tuple[str, str]:
    """The first field of a block that is wrong, and why; no value is shown but the name of a price."""
    field, why = what_is_wrong(error)
    return field or "the block", why or "this backend's block does not have it"


def block_exists(backend: str, name: str) -> bool:
    """Whether the Prefect server has such a block. Raises `ImageTaskError` where it does not say."""
    try:
        with get_client(sync_client=True) as client:
            client.read_block_document_by_name(name, block_class(backend).get_block_type_slug(), include_secrets=False)
    except ObjectNotFound:
        return False
    except PrefectHTTPStatusError as error:
        raise _not_allowed(error) from error
    return True


def check_block(backend: str, name: str) -> None:
    """Raises `UsageError` where a run cannot have the block: there is none, or the backend takes none."""
    if not block_exists(_with_credentials(backend, name), name):
        raise _no_block(backend, name)


def save_block(block: BackendBlock, name: str, *, overwrite: bool) -> None:
    """Saves the block, with its type, on the Prefect server.

    Raises `UsageError` where there is one of that name, which is replaced only with `overwrite`; `ImageTaskError` where
    the server refuses.
    """
    try:
        block.save(name, overwrite=overwrite)
    except PrefectHTTPStatusError as error:
        raise _not_allowed(error) from None  # its text may repeat what was sent, which has the key
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectAlreadyExists):
            raise
        raise block_is_there(block._backend, name) from None


def block_is_there(backend: str, name: str) -> UsageError:
    return UsageError(
        f"there is a block {_slug(backend, name)} already: choose another name, or replace it with --overwrite"
    )


def _not_allowed(error: PrefectHTTPStatusError) -> ImageTaskError:
    return ImageTaskError(
        f"the Prefect server answered HTTP {error.response.status_code}: see to its log, and to PREFECT_API_KEY or "
        "PREFECT_API_AUTH_STRING where it wants one"
    )


def load_block(backend: str, name: str) -> BackendBlock:
    """The saved block of a backend by its name. Raises `UsageError` where there is none, or none that can be used."""
    kind = BLOCKS[_with_credentials(backend, name)]
    try:
        block = kind.load(name)
    except ValueError as error:
        raise _no_block(backend, name) from error
    except RuntimeError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        field, why = wrong_field(error.__cause__)
        raise UsageError(
            f"--credentials {name}: the block {_slug(backend, name)} cannot be used: {field}: {why}; mend it in the "
            f"UI, or with: {_make(backend, name)} --overwrite"
        ) from error
    assert isinstance(block, BackendBlock)
    return block


def _with_credentials(backend: str, name: str) -> str:
    """The backend. Raises `UsageError` where it takes no credentials."""
    if backend not in BLOCKS:
        raise UsageError(f"--credentials {name}: the backend {backend!r} takes no credentials; leave them out")
    return backend


def _no_block(backend: str, name: str) -> UsageError:
    return UsageError(
        f"--credentials {name}: there is no block {_slug(backend, name)} on this Prefect server; make one with: "
        f"{_make(backend, name)}"
    )


def _slug(backend: str, name: str) -> str:
    return f"{BLOCKS[backend].get_block_type_slug()}/{name}"


def _make(backend: str, name: str) -> str:
    return f"imagetask blocks create {backend} {shlex.quote(name)}"
