"""Hugging Face: Inference Providers by model id, Inference Endpoints by name, and any text-to-image URL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import httpx2
import huggingface_hub
from huggingface_hub import AsyncInferenceClient, HfApi, InferenceEndpoint
from huggingface_hub.inference._common import RequestParameters
from huggingface_hub.inference._providers import PROVIDERS, get_provider_helper
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from imagetask.errors import GenerationError
from imagetask.images import Image
from imagetask.models.base import AsyncImageGenerationModel, ImageRequest
from imagetask.models.connections import checked_key, checked_url, proxied, timeouts
from imagetask.models.hub_answers import filtered_image, is_filtered, provider_image
from imagetask.models.hub_clients import prepare_clients, watch_session
from imagetask.models.hub_failures import HubFailures
from imagetask.models.watched_call import Routes, WatchedCall
from imagetask.redact import bare_url, safe_cause

_KEY_VARIABLE = "HF_TOKEN"
_TASK = "text-to-image"
_ARGUMENTS = ("negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "scheduler")
_OURS = frozenset({"prompt", "inputs", "model"})

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
    _routes: Routes = PrivateAttr(default_factory=lambda: Routes(proxied=False))

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
            raise self._failures.of_look_up(error) from safe_cause(error, self._secrets)
        prepare_clients()

    def unload(self) -> None:
        self._key = self._target = ""

    async def aload(self) -> None:
        self._routes = Routes(proxied())
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
        watch = WatchedCall(self._routes)
        if self._by_provider:
            watch_session()
        try:
            with watch.watched(self.timeout):
                picture = await asyncio.wait_for(client.text_to_image(request.prompt, **arguments), self.timeout)
        except Exception as error:
            failures = self._failures
            raise failures.of_call(error, watch, self._again(watch)) from failures.cause(error, watch)
        if any(is_filtered(answer) for answer in watch.answers):
            raise filtered_image()
        watch.forget_answers()
        return provider_image(picture, self._info)

    def _again(self, call: WatchedCall) -> Callable[[], Awaitable[Image]]:
        """Has the provider's own code take the result once more that the model's answer in `call` leads to."""

        async def again() -> Image:
            watch = call.following()
            watch_session()
            try:
                with watch.watched(self.timeout):
                    data = await asyncio.wait_for(asyncio.to_thread(self._result, watch.answers), self.timeout)
            except Exception as error:
                failures = self._failures
                raise failures.of_call(error, watch, self._again(watch)) from failures.cause(error, watch)
            if any(is_filtered(answer) for answer in watch.answers):
                raise filtered_image()
            watch.forget_answers()
            return Image.from_bytes(data, self._info)

        return again

    def _result(self, answers: list[httpx2.Response]) -> bytes:
        """What lies where the model's answer leads, as the provider's code of huggingface_hub polls and fetches it."""
        first = answers[0].request
        headers = {"authorization": first.headers.get("authorization", "")}
        asked = RequestParameters(str(first.url), _TASK, self._target, json=None, data=None, headers=headers)
        helper = get_provider_helper(self._provider, _TASK, self._target)  # type: ignore[arg-type]
        data: bytes = helper.get_response(answers[-1].content, asked)
        return data

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

    @property
    def _failures(self) -> HubFailures:
        key_variable = None if self.api_key else _KEY_VARIABLE
        return HubFailures(self._by_provider, self._secrets, key_variable)

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
