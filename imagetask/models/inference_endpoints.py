"""Hugging Face: Inference Providers by model id, Inference Endpoints by name, and any text-to-image URL."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import httpx2
import huggingface_hub
from huggingface_hub import AsyncInferenceClient, HfApi, InferenceEndpoint
from huggingface_hub.inference._providers import PROVIDERS, get_provider_helper
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_core import from_json

from imagetask.errors import GenerationError
from imagetask.images import FORMATS, Image, describe_bytes
from imagetask.models.base import AsyncImageGenerationModel, ImageRequest
from imagetask.models.classify import classify_exception, classify_response
from imagetask.models.connections import checked_key, checked_url, proxied, timeouts
from imagetask.models.error_body import filtered
from imagetask.models.hub_clients import prepare_clients, watch_session
from imagetask.models.redact import bare_url, one_line, safe_cause
from imagetask.models.watched_call import WatchedCall

_KEY_VARIABLE = "HF_TOKEN"
_TASK = "text-to-image"
_ARGUMENTS = ("negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "scheduler")
_OURS = frozenset({"prompt", "inputs", "model"})
_BAD_LINK = (httpx2.InvalidURL, httpx2.TooManyRedirects, httpx2.UnsupportedProtocol)
_BARE_503 = re.compile(r"HTTP 503: (?:503 )?Service (?:Temporarily )?Unavailable", re.IGNORECASE)

TEXT_TO_IMAGE_PROVIDERS = tuple(sorted(name for name, tasks in PROVIDERS.items() if _TASK in tasks))
"""The providers of the installed huggingface_hub that make images."""


class InferenceEndpointsImageGeneration(AsyncImageGenerationModel):
    """An image model that speaks Hugging Face's text-to-image: one of three names says where it is.

    `model_id`: a model on the Hub, made by `provider` (by default the first that serves it, in your own order).
    `endpoint_name` with `endpoint_namespace`: an Inference Endpoint. `base_url`: any URL that takes the calls; a
    `model_id` beside it is only the name.

    `Image.info` has the provider that made the picture; for an endpoint its repository.
    """

    model_config = ConfigDict(hide_input_in_errors=True)
    backend: ClassVar[str] = "inference-endpoints"

    model_id: str | None = Field(default=None, description="A model on the Hub, or the name of what base_url serves.")
    endpoint_name: str | None = None
    endpoint_namespace: str | None = Field(default=None, description="Owner of the endpoint; default: the token's.")
    base_url: str | None = Field(default=None, description="URL that takes the calls, nothing is added to it.")
    provider: str | None = Field(default=None, description='One of the text-to-image providers; default "auto".')
    api_key: SecretStr | None = Field(
        default=None,
        description="Default: HF_TOKEN, HUGGINGFACEHUB_API_TOKEN or the stored token, read when the model loads.",
    )
    bill_to: str | None = Field(default=None, description="Organization that pays for the calls.")
    timeout: float = Field(default=120.0, gt=0, description="Longest wait for an image (seconds).")

    _key: str = PrivateAttr(default="")
    _target: str = PrivateAttr(default="")
    _provider: str | None = PrivateAttr(default=None)
    _info: dict[str, Any] = PrivateAttr(default_factory=dict)
    _client: AsyncInferenceClient | None = PrivateAttr(default=None)
    _proxied: bool = PrivateAttr(default=False)

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        return checked_url(url)

    @field_validator("provider")
    @classmethod
    def _check_provider(cls, provider: str | None) -> str | None:
        if provider in (None, "auto", *TEXT_TO_IMAGE_PROVIDERS):
            return provider
        raise ValueError(f"no text-to-image provider: choose auto or one of {', '.join(TEXT_TO_IMAGE_PROVIDERS)}")

    @model_validator(mode="after")
    def _check_target(self) -> InferenceEndpointsImageGeneration:
        if self.endpoint_name and (self.model_id or self.base_url):
            raise ValueError("give endpoint_name alone, without model_id and base_url")
        if self.endpoint_namespace and not self.endpoint_name:
            raise ValueError("endpoint_namespace goes with an endpoint_name")
        if not (self.model_id or self.endpoint_name or self.base_url):
            raise ValueError("give a model_id, an endpoint_name with its endpoint_namespace, or a base_url")
        if self.provider not in (None, "auto") and not self._by_provider:
            raise ValueError("a provider goes with a model_id alone: a URL or an endpoint is called directly")
        return self

    @property
    def _by_provider(self) -> bool:
        return bool(self.model_id) and not self.base_url

    @property
    def model_name(self) -> str:
        return self.model_id or self.endpoint_name or bare_url(self.base_url or "")

    @property
    def key_url(self) -> str | None:
        """The base URL where it alone names the model; for an endpoint its namespace and name."""
        if self.model_id:
            return None
        if self.base_url:
            return bare_url(self.base_url)
        return f"{self.endpoint_namespace}/{self.endpoint_name}" if self.endpoint_namespace else None

    def load(self) -> None:
        """Finds the token, and what is to be called: looks the endpoint or the provider up.

        Raises `GenerationError`: "auth" without a token where one is needed, "config" where no provider serves the
        model or huggingface_hub is offline, "loading" where the endpoint does not run.
        """
        if huggingface_hub.is_offline_mode():
            raise GenerationError("config", "huggingface_hub refuses every call while HF_HUB_OFFLINE is set: unset it")
        self._key = self._find_key()
        try:
            if self.base_url:
                self._target = self.base_url
            elif self.endpoint_name:
                self._find_endpoint(self.endpoint_name)
            else:
                self._find_provider()
        except GenerationError:
            raise
        except Exception as error:
            raise self._failure_of_look_up(error) from safe_cause(error, self._secrets)
        prepare_clients()

    def unload(self) -> None:
        self._key = self._target = ""

    async def aload(self) -> None:
        self._proxied = proxied()
        self._client = AsyncInferenceClient(
            model=self._target,
            provider=self._provider,  # type: ignore[arg-type]  # checked against the installed providers
            token=self._key or None,
            bill_to=self.bill_to,
            timeout=timeouts(self.timeout),  # type: ignore[arg-type]  # goes to httpx2 as it is
        )

    async def aunload(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    async def agenerate(self, request: ImageRequest) -> Image:
        client = self._client
        if client is None:
            raise GenerationError("config", "the model is not loaded: call load() and aload() first")
        arguments = call_arguments(request)
        watch = WatchedCall(self._proxied)
        if self._by_provider:
            watch_session()
        try:
            with watch.watched(self.timeout):
                picture = await asyncio.wait_for(client.text_to_image(request.prompt, **arguments), self.timeout)
        except GenerationError as error:
            if watch.lost_link is not None:
                error.again = self._again(watch, watch.lost_link)
            raise
        except IndexError as error:
            raise GenerationError("refused", "the provider's answer has no image") from error
        except _BAD_LINK as error:
            if not watch.succeeded:
                raise self._failure(error) from safe_cause(error, self._secrets)
            raise GenerationError(
                "download", f"the link to the image cannot be followed: {type(error).__name__}"
            ) from None
        except UnidentifiedImageError as error:
            raise self._told(watch.answers) or self._no_image(watch.answers) from error
        except Exception as error:
            failure = self._told(watch.answers) or self._failure_of_call(error, watch)
            raise failure from safe_cause(error, self._secrets)
        if any(is_filtered(answer) for answer in watch.answers):
            raise GenerationError("refused", "the provider filtered the image")
        return provider_image(picture, self._info)

    def _again(self, watch: WatchedCall, link: httpx2.URL) -> Callable[[], Awaitable[Image]]:
        """Fetches a result once more, as the provider's own code did."""

        async def again() -> Image:
            try:
                with watch.watched(self.timeout):
                    response = await asyncio.to_thread(huggingface_hub.get_session().get, link)
            except GenerationError as error:
                error.again = again if error.kind == "download" else None
                raise
            except Exception as error:
                raise self._failure(error) from safe_cause(error, (str(link), *self._secrets))
            return Image.from_bytes(response.content, self._info)

        return again

    def _told(self, answers: list[httpx2.Response]) -> GenerationError | None:
        """The failure that the last answer tells where huggingface_hub took it for a result; None where it tells none.

        That is a redirect to nowhere, and a provider's task that failed, which is told with a status of success.
        """
        answer = answers[-1] if answers else None
        if answer is None or answer.status_code >= 400 or not is_read(answer):
            return None
        is_redirect = answer.status_code >= 300
        if not is_redirect and not (self._by_provider and tells_error(answer)):
            return None
        status = answer.status_code if is_redirect else 200
        failure = classify_response(status, answer.headers, answer.text, secrets=self._secrets)
        if failure.kind == "unknown":
            failure.kind = "server"
        return failure

    def _no_image(self, answers: list[httpx2.Response]) -> GenerationError:
        """What an answer with status 200 is that holds no image."""
        if any(is_filtered(answer) for answer in answers):
            return GenerationError("refused", "the provider filtered the image")
        if self._by_provider or not answers:  # the image lay behind a link, and the answer is not what failed
            return GenerationError("corrupt_image", "the provider's result is not an image")
        answer = answers[-1]
        if is_json(answer):
            failure = classify_response(200, answer.headers, answer.text, secrets=self._secrets)
            if failure.kind != "unknown":
                return failure
        return GenerationError("corrupt_image", f"not an image ({describe_bytes(answer.content)})")

    def _find_key(self) -> str:
        given = self.api_key.get_secret_value() if self.api_key else None
        key = checked_key(
            given
            or os.environ.get(_KEY_VARIABLE)
            or os.environ.get("HUGGINGFACEHUB_API_TOKEN")
            or huggingface_hub.get_token(),
            _KEY_VARIABLE,
        )
        if not key and not self.base_url:
            raise GenerationError("auth", f"no token: set {_KEY_VARIABLE}, or name a credentials block")
        return key

    def _find_endpoint(self, name: str) -> None:
        endpoint = HfApi(token=self._key).get_inference_endpoint(name, namespace=self.endpoint_namespace)
        self._target = endpoint_url(endpoint)
        self._info = {"repository": endpoint.repository}

    def _find_provider(self) -> None:
        """Prepares a request for nothing, so that every look-up is done, checked and remembered off the event loop."""
        self._target = self.model_id or ""
        helper = get_provider_helper(self.provider, _TASK, self._target)  # type: ignore[arg-type]
        helper.prepare_request(inputs="", parameters={}, headers={}, model=self._target, api_key=self._key)
        self._provider = helper.provider
        self._info = {"provider": helper.provider}

    def _failure_of_look_up(self, error: Exception) -> GenerationError:
        """As for a call, but a plain ValueError says that the provider does not serve the model."""
        if isinstance(error, ValueError) and not hasattr(error, "response"):
            return GenerationError("config", one_line(str(error), self._secrets))
        return self._failure(error)

    def _failure_of_call(self, error: Exception, watch: WatchedCall) -> GenerationError:
        """By the answer itself where the client could not read it (huggingface_hub 2.4, an error that is no text)."""
        failure = self._failure(error)
        if failure.kind == "unknown" and watch.answers and watch.answers[-1].is_error:
            answer = watch.answers[-1]
            return classify_response(answer.status_code, answer.headers, answer.text, secrets=self._secrets)
        return failure

    def _failure(self, error: Exception) -> GenerationError:
        failure = classify_exception(error, secrets=self._secrets, key_variable=None if self.api_key else _KEY_VARIABLE)
        if failure.kind == "server" and not self._by_provider and _BARE_503.fullmatch(failure.message):
            # What Inference Endpoints answer while they come up from zero replicas, with nothing else said.
            failure.kind = "loading"
        return failure

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self._key,) if self._key else ()


def call_arguments(request: ImageRequest) -> dict[str, Any]:
    """The arguments of `text_to_image` but for the prompt: what is set; parameters it does not name in `extra_body`.

    Raises `GenerationError` of kind "config" for parameters that are not the user's to set.
    """
    extra = request.parameters()
    body = dict(extra.pop("extra_body", None) or {})
    if taken := sorted(_OURS & (extra.keys() | body.keys())):
        raise GenerationError("config", f"{', '.join(taken)}: set by imagetask, not as a parameter")
    arguments = {name: extra.pop(name) for name in _ARGUMENTS if name in extra}
    if request.seed is not None:
        arguments["seed"] = request.seed
    body = {**extra, **body}
    return {**arguments, **({"extra_body": body} if body else {})}


def provider_image(picture: PILImage.Image, info: dict[str, Any]) -> Image:
    """The image as the provider sent it: the client's picture is lazy, and its file holds the bytes as they came.

    Pillow has read the header, so it is not read again. Raises `ImageError` for a format that is not taken.
    """
    source = picture.fp if hasattr(picture, "fp") else None
    if not isinstance(source, io.BytesIO):
        raise GenerationError("unknown", "huggingface_hub gave a picture without the provider's bytes")
    data = source.getvalue()
    name = picture.format
    if name is None or name not in FORMATS:
        return Image.from_bytes(data, info)
    return Image(data, format=name, width=picture.width, height=picture.height, info=info)


def endpoint_url(endpoint: InferenceEndpoint) -> str:
    """Where an endpoint takes calls. Raises `GenerationError` where it cannot take any, with what to do."""
    state = str(getattr(endpoint.status, "value", endpoint.status))
    if state == "paused":
        message = f"the endpoint {endpoint.name} is paused: resume it, then start again"
        raise GenerationError("loading", message, fatal=True)
    if state in ("failed", "updateFailed"):
        raise GenerationError("config", f"the endpoint {endpoint.name} is in state {state}: see its log on the Hub")
    if not endpoint.url:
        message = f"the endpoint {endpoint.name} is in state {state}: start again when it runs"
        raise GenerationError("loading", message, fatal=True)
    return endpoint.url


def is_json(answer: httpx2.Response) -> bool:
    return "json" in answer.headers.get("content-type", "")


def is_read(answer: httpx2.Response) -> bool:
    """Whether the body is there; it is not where the connection broke in it."""
    try:
        return answer.content is not None
    except httpx2.ResponseNotRead:
        return False


def tells_error(answer: httpx2.Response) -> bool:
    """Whether an answer in JSON names an error in place of its result."""
    try:
        value = from_json(answer.content) if is_json(answer) else None
    except ValueError:
        return False
    return isinstance(value, dict) and bool(value.get("error"))


def is_filtered(answer: httpx2.Response) -> bool:
    """Whether an answer in JSON says that the picture was filtered; some providers send a black one beside it."""
    if not is_json(answer) or (b"nsfw" not in answer.content and b"filter" not in answer.content):
        return False
    try:
        value = from_json(answer.content)
    except ValueError:
        return False
    return isinstance(value, dict) and filtered(value)
