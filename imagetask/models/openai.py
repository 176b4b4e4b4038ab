"""OpenAI's image models, and any server that speaks `/v1/images/generations`."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2
import openai
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator
from pydantic_core import from_json

from imagetask.errors import GenerationError, ImageError
from imagetask.images import Image, decode_base64, describe_bytes
from imagetask.models.base import AsyncImageGenerationModel, ImageRequest
from imagetask.models.classify import classify_exception, classify_response
from imagetask.models.connections import checked_key, checked_url, open_client, proxied, timeouts
from imagetask.models.error_body import filtered
from imagetask.models.event_loop import event_loop
from imagetask.models.watched_call import Routes, WatchedCall
from imagetask.redact import bare_url, safe_cause

_OPENAI_URL = "https://api.openai.com/v1"
_OPENAI_HOSTS = ("api.openai.com", ".openai.azure.com")
_KEY_VARIABLE = "OPENAI_API_KEY"
_NO_KEY = "none"
_READ_AT_ONCE = 4_000_000
"""An answer of so many bytes is read on the event loop (1 ms): a thread would take as long to get its turn."""
_SEEDLESS = re.compile(r"(?:openai/)?(?:gpt-image|chatgpt-image|dall-e)")

FIELDS = ("size", "quality", "background", "output_format", "moderation", "extra_body")
"""The fields that decide pixels: they travel as generation parameters, so that they are part of every key."""

ARGUMENTS = frozenset({*FIELDS, "output_compression", "style", "user", "response_format"}) - {"extra_body"}
"""Parameters that the client takes by name; any other goes into the top level of the body."""

_OURS = frozenset({"prompt", "model", "n", "stream", "partial_images"})


class OpenAIImageGeneration(AsyncImageGenerationModel):
    """An image model behind `POST {base_url}/images/generations`.

    Sends only what was set, always `n=1`. `width` and `height` become `size="WxH"`, and win over `size`. Parameters
    that OpenAI does not have (seed, negative_prompt, num_inference_steps, …) go into the top level of the body.

    `has_seeds`, where it is not given, is False for OpenAI's own API and for its models behind other servers.
    Without a `model` none is sent, for servers that serve one; `model_name` is then the base URL.
    """

    model_config = ConfigDict(hide_input_in_errors=True)
    backend: ClassVar[str] = "openai"
    model_id_field: ClassVar[str] = "model"

    model: str | None = Field(default=None, description="Model id; not needed where the server serves one model.")
    base_url: str | None = Field(
        default=None, description="URL up to and with /v1; default: OPENAI_BASE_URL, else OpenAI's own."
    )
    api_key: SecretStr | None = Field(default=None, description="Default: OPENAI_API_KEY, read when the model loads.")
    size: str | None = Field(default=None, description='"1024x1024" (width × height, px) or "auto".')
    quality: str | None = None
    background: str | None = None
    output_format: str | None = Field(default=None, description="png, jpeg or webp.")
    moderation: str | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict, description="Further members of the request's body.")
    timeout: float = Field(default=300.0, gt=0, description="Longest wait for an answer (seconds).")

    _key: str = PrivateAttr(default="")
    _client: openai.AsyncOpenAI | None = PrivateAttr(default=None)
    _downloads: httpx2.AsyncClient | None = PrivateAttr(default=None)
    _routes: Routes = PrivateAttr(default_factory=lambda: Routes(proxied=False))

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        return checked_url(url)

    @model_validator(mode="after")
    def _complete(self) -> OpenAIImageGeneration:
        if not self.model and self._is_openai:
            raise ValueError("give a model, for example openai:gpt-image-2, or the base_url of a server")
        if "has_seeds" not in self.model_fields_set:
            self.has_seeds = not (self._is_openai or _SEEDLESS.match(self.model or ""))
        return self

    @property
    def _url(self) -> str:
        return self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI_URL

    @property
    def _is_openai(self) -> bool:
        return httpx2.URL(self._url).host.endswith(_OPENAI_HOSTS)

    @property
    def model_name(self) -> str:
        return self.model or bare_url(self._url)

    @property
    def key_url(self) -> str | None:
        return None if self.model else bare_url(self._url)

    def get_generation_kwargs(self) -> dict[str, Any]:
        """The fields that decide pixels, and `generation_kwargs`, which win over them."""
        fields = {name: value for name in FIELDS if (value := getattr(self, name))}
        return {**fields, **self.generation_kwargs}

    def load(self) -> None:
        """Finds the key. Raises `GenerationError` of kind "auth" where OpenAI's own API is asked without one."""
        given = self.api_key.get_secret_value() if self.api_key else os.environ.get(_KEY_VARIABLE)
        key = checked_key(given, _KEY_VARIABLE)
        if not key and self._is_openai:
            raise GenerationError("auth", f"no API key: set {_KEY_VARIABLE}, or name a credentials block")
        self._key = key

    def unload(self) -> None:
        self._key = ""

    async def aload(self) -> None:
        wait = timeouts(self.timeout)
        self._client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=self._url,
            max_retries=0,  # ManagedModel retries; two owners would pay twice
            timeout=wait,
            http_client=open_client(timeout=wait),
        )
        self._downloads = open_client(timeout=wait)
        self._routes = Routes(proxied())

    async def aunload(self) -> None:
        for client in (self._client, self._downloads):
            if isinstance(client, openai.AsyncOpenAI):
                await client.close()
            elif client is not None:
                await client.aclose()
        self._client = self._downloads = None

    async def agenerate(self, request: ImageRequest) -> Image:
        arguments = call_arguments(request)
        if self.model:
            arguments["model"] = self.model
        watch = WatchedCall(self._routes)
        with watch.watched(self.timeout):
            response = await self._call(arguments)
        watch.forget_answers()
        if len(response.content) <= _READ_AT_ONCE:
            answer = self._read(response)
        else:  # in few threads: a large answer is in memory three times over while it is read
            threads = event_loop().image_threads
            answer = await asyncio.get_running_loop().run_in_executor(threads, self._read, response)
        del response
        if isinstance(answer, Image):
            return answer
        return await self._download(answer, watch)

    async def _call(self, arguments: dict[str, Any]) -> httpx2.Response:
        if self._client is None:
            raise GenerationError("config", "the model is not loaded: call load() and aload() first")
        try:
            async with asyncio.timeout(self.timeout):
                raw = await self._client.images.with_raw_response.generate(**arguments)
        except GenerationError:
            raise
        except Exception as error:
            raise self._failure(error) from safe_cause(error, self._secrets)
        response: httpx2.Response = raw.http_response
        return response

    def _read(self, response: httpx2.Response) -> Image | Link:
        """The image of an answer, or where it lies; 0.06 ms for 100 KB, 0.5 ms for 1.5 MB."""
        try:
            return read_answer(response.content)
        except ImageError as error:
            raise GenerationError("corrupt_image", str(error)) from error
        except ErrorInAnswer as error:
            text = response.content.decode("utf-8", "replace")
            raise classify_response(
                200, response.headers, text, secrets=self._secrets, key_variable=self._key_variable
            ) from error

    async def _download(self, link: Link, watch: WatchedCall) -> Image:
        """The image behind a link. No key is sent there, and the link, which may be signed, is in no message."""
        assert self._downloads is not None
        try:
            with watch.watched(self.timeout):
                async with asyncio.timeout(self.timeout):
                    response = await self._downloads.get(httpx2.URL(self._url).join(link.url))
            if response.status_code != 200:
                raise self._not_fetched(link, watch, f"HTTP {response.status_code}")
            image = Image.from_bytes(response.content, link.info)
        except GenerationError as error:
            if error.kind != "timeout":
                raise
            raise self._not_fetched(link, watch, error.message) from error
        except httpx2.InvalidURL as error:
            raise GenerationError("download", "not followed: the link to the image is no http(s) URL") from error
        except (httpx2.HTTPError, TimeoutError) as error:
            why, cause = type(error).__name__, safe_cause(error, (link.url, *self._secrets))
            raise self._not_fetched(link, watch, why) from cause
        except ImageError as error:
            raise self._not_fetched(link, watch, str(error)) from error
        watch.forget_answers()
        return image

    def _not_fetched(self, link: Link, watch: WatchedCall, why: str) -> GenerationError:
        async def again() -> Image:
            return await self._download(link, watch)

        return GenerationError("download", f"the image was made but could not be fetched: {why}", again=again)

    @property
    def _key_variable(self) -> str | None:
        """From where the key comes, for what is told; None where it was given."""
        return None if self.api_key else _KEY_VARIABLE

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self._key,) if self._key else ()

    def _failure(self, error: Exception) -> GenerationError:
        return classify_exception(error, secrets=self._secrets, key_variable=self._key_variable)


@dataclass(frozen=True, slots=True)
class Link:
    """Where a picture that was made can be fetched, for a while. info: as in `Image.info`."""

    url: str
    info: Mapping[str, Any]


class ErrorInAnswer(Exception):
    """An answer with status 200 says that something failed."""


def call_arguments(request: ImageRequest) -> dict[str, Any]:
    """The arguments of the client's `images.generate` but for `model`: what is set, and `n=1`.

    Raises `GenerationError` of kind "config" for a width without a height, and for parameters that are not the
    user's to set.
    """
    extra = request.parameters()
    body = dict(extra.pop("extra_body", None) or {})
    if taken := sorted(_OURS & (extra.keys() | body.keys())):
        raise GenerationError("config", f"{', '.join(taken)}: set by imagetask; for more images use num_generations")
    width, height = extra.pop("width", None), extra.pop("height", None)
    if (width is None) != (height is None):
        raise GenerationError("config", "width and height go together here: give both, or a size")
    if width is not None:
        extra["size"] = f"{width}x{height}"
    if request.seed is not None:
        body.setdefault("seed", request.seed)
    arguments = {name: extra.pop(name) for name in ARGUMENTS & extra.keys()}
    body = {**extra, **body}
    return {"prompt": request.prompt, "n": 1, **arguments, **({"extra_body": body} if body else {})}


def read_answer(body: bytes) -> Image | Link:
    """The image, or the link, in the body of an answer; `info` has usage and revised_prompt where they were given.

    Raises `GenerationError` of kind "refused" for an answer without an image, `ErrorInAnswer` for one that names an
    error, `ImageError` for what is no answer or no image.
    """
    try:
        answer = from_json(body)
    except ValueError as error:
        raise ImageError(f"the answer is no JSON but {describe_bytes(body)}") from error
    if not isinstance(answer, dict) or "data" not in answer:
        if isinstance(answer, dict) and answer.get("error"):
            raise ErrorInAnswer
        raise ImageError(f"the answer has no data: {describe_bytes(body)}")
    items = answer["data"]
    item = items[0] if isinstance(items, list) and items else None
    if not isinstance(item, dict) or filtered(item) or filtered(answer):
        raise GenerationError("refused", "the provider filtered the image" if item else "the answer has no image")
    return _image_of(item, _info(answer, item))


def _image_of(item: Mapping[str, Any], info: dict[str, Any]) -> Image | Link:
    text, url = item.get("b64_json"), item.get("url")
    if not text and isinstance(url, str) and url.startswith("data:"):
        text = url
    if isinstance(text, str) and text:
        return Image.from_bytes(decode_base64(text), info)
    if isinstance(url, str) and url:
        return Link(url, info)
    raise GenerationError("refused", "the answer has neither b64_json nor url: no image was made")


def _info(answer: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    found = {"usage": answer.get("usage"), "revised_prompt": item.get("revised_prompt")}
    return {name: value for name, value in found.items() if value}
