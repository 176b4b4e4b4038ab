"""A server that answers as services of the field do, each on its own wire, and fails by the cases of a table."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import pytest
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import PROVIDERS, _common, wavespeed
from PIL import Image as PILImage
from pydantic import SecretStr

from imagetask.images import encode_picture
from imagetask.models.base import AsyncImageGenerationModel
from imagetask.models.inference_endpoints import InferenceEndpointsImageGeneration
from imagetask.models.openai import OpenAIImageGeneration
from tests.failure_cases import BY_LINK, CASES, Case, Wire
from tests.model_server import SIGNATURE
from tests.model_server.http11 import BACKLOG, HOST, Answer, HttpConnection, Request, Send, json_answer

MODEL = "org/m"
_CASE = re.compile(rb"case (\d+)[;-]")
_PATH_CASE = re.compile(r"/case(\d+)-")


def prompt_of(case: Case, number: int = 0) -> str:
    """A prompt that a `Services` answers with the case. Its words say nothing of it."""
    return f"case {CASES.index(case)}; {number}"


@dataclass(frozen=True, slots=True)
class Seen:
    """One call: its prompt's case (or None), when it came (seconds of the loop's clock), its headers."""

    case: int | None
    time: float
    headers: Mapping[str, str]


class Services:
    """All services on one port: the first part of the path is the wire. Prompts without a case get a picture.

    times: how often a prompt with a case fails before it gets its picture; None for ever. everywhere: the case that
    every call gets. results_at: where the links to results lead, in place of here. secret: what every failure
    repeats, in its headers, its body, and where it sends the client.
    """

    def __init__(self) -> None:
        self.times: int | None = None
        self.everywhere: Case | None = None
        self.results_at: str | None = None
        self.secret: str | None = None
        self.seen: list[Seen] = []
        self._failed: Counter[tuple[str, int]] = Counter()
        self._results = 0
        self._connections: set[HttpConnection] = set()
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._port = 0

    def __enter__(self) -> Services:
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def forget(self) -> None:
        """Takes what was seen and set back; the port stays."""
        self.times = self.everywhere = self.results_at = self.secret = None
        self.seen, self._failed = [], Counter()

    def calls_of(self, case: Case) -> list[Seen]:
        return [seen for seen in self.seen if seen.case == CASES.index(case)]

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        listening = await self._loop.create_server(
            lambda: HttpConnection(self._handle, self._connections), HOST, 0, backlog=BACKLOG
        )
        self._port = listening.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        listening.close()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)

    async def _handle(self, request: Request, send: Send) -> None:
        if request.method == "POST":
            await send(self._call(request))
            return
        match = _PATH_CASE.search(request.path)
        case = CASES[int(match[1])] if match else None
        if request.path.startswith("/results/"):
            broken = case is not None and case.stage == "result"
            await send(self._failing(case) if case and broken else file_answer(_picture_of(case)))
        else:
            await send(self._failing(case) if case and case.stage == "poll" else self._done(case))

    def _call(self, request: Request) -> Answer:
        wire: Wire = request.path.split("/")[1]  # type: ignore[assignment]  # tests ask for no other
        found = _CASE.search(request.body)
        number = int(found[1]) if found else None
        self.seen.append(Seen(number, self._loop.time(), request.headers))
        case = self.everywhere or (None if number is None else CASES[number])
        if case is None or self.everywhere is not None:
            return self._failing(case) if case else self._good(wire, None)
        who = (request.body.decode(), CASES.index(case))
        self._failed[who] += 1
        if self.times is not None and self._failed[who] > self.times:
            return self._good(wire, None)
        good_so_far = case.picture is not None or case.stage != "call"
        return self._good(wire, case) if good_so_far else self._failing(case)

    def _good(self, wire: Wire, case: Case | None) -> Answer:
        """The answer with a picture; its parts carry the case, where a later one is to fail."""
        picture = _picture_of(case)
        if wire == "hub":
            return file_answer(picture)
        behind_link = self.results_at is not None or (case is not None and case.stage == "result")
        if wire not in BY_LINK and not behind_link:
            return json_answer({"created": 1, "data": [{"b64_json": base64.b64encode(picture).decode()}]})
        link = self._link(case)
        if wire == "wavespeed":
            return json_answer({"data": {"urls": {"get": f"/wavespeed{_name(case)}poll"}}})
        forms: dict[str, Any] = {
            "openai": {"data": [{"url": link}]},
            "fal-ai": {"images": [{"url": link}]},
            "replicate": {"status": "succeeded", "output": [link]},
            "zai-org": {"id": "1", "task_status": "SUCCESS", "image_result": [{"url": link}]},
        }
        return json_answer(forms[wire])

    def _done(self, case: Case | None) -> Answer:
        return json_answer({"data": {"status": "completed", "outputs": [self._link(case)]}})

    def _link(self, case: Case | None) -> str:
        self._results += 1
        key = f"&key={quote(self.secret, safe='')}" if self.secret else ""
        return f"{self.results_at or self.url}/results{_name(case)}{self._results}.png?sig={SIGNATURE}{key}"

    def _failing(self, case: Case) -> Answer:
        if self.secret is None:
            return Answer(case.status, [case.data], case.content_type, case.headers, case.cut, case.ending)
        headers = {**case.headers, **echoes(self.secret, self.url)}
        body = repeating(case.data, self.secret)
        return Answer(case.status, [body], case.content_type, headers, case.cut, case.ending)


def echoes(secret: str, url: str) -> dict[str, str]:
    """Headers of a failure that repeat a secret."""
    return {
        "X-Error-Message": f"the key {secret} was not taken",
        "X-Amzn-Trace-Id": secret,
        "WWW-Authenticate": f'Bearer realm="{secret}"',
        "Set-Cookie": f"session={quote(secret, safe='')}",
        "Link": f"<{url}/?key={secret}>",
    }


def repeating(body: bytes, secret: str) -> bytes:
    """The body with the secret beside each of its texts, plain and as URLs, base64 and hex write it."""
    data = secret.encode()
    packed = base64.b64encode(f"Bearer {secret}".encode()).decode()
    said = f"{secret} {quote(secret, safe='')} {packed} {base64.b64encode(data).decode()} {data.hex()}"
    try:
        value = json.loads(body)
    except ValueError:
        return body.replace(b"</title>", f" {said}</title>".encode()) if b"</title>" in body else body + said.encode()
    return json.dumps(_with(value, f" (of {said})")).encode()


def _with(value: Any, said: str) -> Any:
    if isinstance(value, dict):
        return {
            name: item if name in ("b64_json", "url", "status") else _with(item, said) for name, item in value.items()
        }
    if isinstance(value, list):
        return [_with(item, said) for item in value]
    return value + said if isinstance(value, str) else value


def _name(case: Case | None) -> str:
    return "/" if case is None else f"/case{CASES.index(case)}-"


def _picture_of(case: Case | None) -> bytes:
    return _noise() if case is None or case.picture is None else case.picture


def _noise() -> bytes:
    return encode_picture(PILImage.effect_noise((16, 16), 60), "PNG")


def file_answer(data: bytes) -> Answer:
    return Answer(body=[data], content_type="image/png")


@lru_cache
def _mapping(wire: Wire) -> InferenceProviderMapping:
    return InferenceProviderMapping(  # type: ignore[no-untyped-call]
        provider=wire, hf_model_id=MODEL, providerId="m", status="live", task="text-to-image"
    )


def make_model(
    wire: Wire, services: Services, key: str, patch: pytest.MonkeyPatch, timeout: float = 20.0
) -> AsyncImageGenerationModel:
    """A model that speaks this wire; a provider's address is that of `services`, and nothing is looked up."""
    url = f"{services.url}/{wire}"
    secret = SecretStr(key)
    if wire == "openai":
        return OpenAIImageGeneration(model="m", base_url=url, api_key=secret, timeout=timeout, has_seeds=True)
    if wire == "hub":
        return InferenceEndpointsImageGeneration(model_id="m", base_url=url, api_key=secret, timeout=timeout)
    patch.setattr(wavespeed, "_POLLING_INTERVAL", 0.01)
    patch.setattr(PROVIDERS[wire]["text-to-image"], "base_url", url)
    patch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING[wire], MODEL, _mapping(wire))
    return InferenceEndpointsImageGeneration(model_id=MODEL, provider=wire, api_key=secret, timeout=timeout)
