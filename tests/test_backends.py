"""The hosted backends, called as ManagedModel calls them, against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import pickle
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import InferenceEndpoint
from pydantic import SecretStr, ValidationError

from imagetask.errors import GenerationError
from imagetask.images import Image, check_image
from imagetask.models import ImageRequest, load_model
from imagetask.models.base import AsyncImageGenerationModel
from imagetask.models.inference_endpoints import (
    TEXT_TO_IMAGE_PROVIDERS,
    InferenceEndpointsImageGeneration,
    endpoint_url,
)
from imagetask.models.openai import OpenAIImageGeneration
from tests.model_server import SIGNATURE, Fault, ModelServer

KEY = "hf_0123456789abcdefghij"
Make = Callable[..., AsyncImageGenerationModel]


def openai_model(server: ModelServer, **options: Any) -> OpenAIImageGeneration:
    return OpenAIImageGeneration(**({"model": "m", "base_url": server.openai_url, "api_key": KEY} | options))


def hub_model(server: ModelServer, **options: Any) -> InferenceEndpointsImageGeneration:
    return InferenceEndpointsImageGeneration(**({"base_url": server.model_url("org/flux"), "api_key": KEY} | options))


both = pytest.mark.parametrize("make", [openai_model, hub_model])


def with_loaded(model: AsyncImageGenerationModel, work: Callable[[AsyncImageGenerationModel], Awaitable[Any]]) -> Any:
    """What `work` gives with the model loaded, as ManagedModel does it: `load` off the loop, the rest on it."""

    async def run() -> Any:
        await model.aload()
        try:
            return await work(model)
        finally:
            await model.aunload()

    model.load()
    try:
        return asyncio.run(run())
    finally:
        model.unload()


def ask(model: AsyncImageGenerationModel, *requests: ImageRequest | str) -> list[Image]:
    """The images of the requests, asked for at once."""
    given = [ImageRequest(request) if isinstance(request, str) else request for request in requests]

    async def work(loaded: AsyncImageGenerationModel) -> list[Image]:
        return await asyncio.gather(*(loaded.agenerate(request) for request in given))

    images: list[Image] = with_loaded(model, work)
    return images


def failure_of(model: AsyncImageGenerationModel, request: ImageRequest | str = "a cat") -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        ask(model, request)
    return caught.value


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# What comes back


@both
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_image_is_byte_for_byte_what_the_server_sent(make: Make, format: Any) -> None:
    with ModelServer(format=format) as server:
        [image] = ask(make(server), "a cat")
        assert [sha256(image.data)] == list(server.delivered)
        assert image.format == format.upper()
        picture = image.to_pil()
        assert (image.width, image.height) == picture.size


def test_image_behind_a_url_is_fetched_as_it_is_and_without_the_key(model_server: ModelServer) -> None:
    model_server.answers = "url"
    [image] = ask(openai_model(model_server), "a cat")
    assert [sha256(image.data)] == list(model_server.delivered)


def test_image_in_a_data_url_is_taken() -> None:
    from imagetask.models.openai import read_answer

    with ModelServer() as server:
        [image] = ask(openai_model(server), "a cat")
    text = f"data:image/png;base64,{image.to_base64()}"
    taken = read_answer(b'{"data": [{"url": "%s"}]}' % text.encode())
    assert isinstance(taken, Image)
    assert taken.data == image.data


def test_usage_travels_with_the_image(model_server: ModelServer) -> None:
    [image] = ask(openai_model(model_server), "a cat")
    assert image.info["usage"]["output_tokens"] == 272


# What is sent


def test_openai_sends_only_what_was_set_and_one_image(model_server: ModelServer) -> None:
    ask(openai_model(model_server), "a cat")
    [call] = model_server.calls
    assert call.body == {"prompt": "a cat", "model": "m", "n": 1}
    assert call.authorization == f"Bearer {KEY}"


def test_openai_sends_parameters_where_its_servers_expect_them(model_server: ModelServer) -> None:
    request = ImageRequest(
        "a cat",
        negative_prompt="blur",
        width=96,
        height=64,
        num_inference_steps=4,
        guidance_scale=3.5,
        seed=7,
        extra={"quality": "low", "response_format": "b64_json", "lora": "x", "extra_body": {"nested": {"a": 1}}},
    )
    [image] = ask(openai_model(model_server), request)
    assert model_server.calls[0].body == {
        "prompt": "a cat",
        "model": "m",
        "n": 1,
        "size": "96x64",
        "quality": "low",
        "response_format": "b64_json",
        "negative_prompt": "blur",
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "seed": 7,
        "lora": "x",
        "nested": {"a": 1},
    }
    assert (image.width, image.height) == (96, 64)


def test_openai_fields_are_generation_parameters_and_so_part_of_every_key() -> None:
    model = OpenAIImageGeneration(
        model="gpt-image-2",
        size="1024x1024",
        quality="low",
        extra_body={"style_id": 3},
        generation_kwargs={"quality": "high", "width": 64},
    )
    assert model.get_generation_kwargs() == {
        "size": "1024x1024",
        "quality": "high",
        "extra_body": {"style_id": 3},
        "width": 64,
    }


def test_server_that_serves_one_model_is_sent_no_model(model_server: ModelServer) -> None:
    model = openai_model(model_server, model=None, api_key=None)
    ask(model, "a cat")
    assert "model" not in model_server.calls[0].body
    assert model.model_name == model.key_url == model_server.openai_url


def test_hub_sends_parameters_where_its_servers_expect_them(model_server: ModelServer) -> None:
    request = ImageRequest(
        "a cat",
        negative_prompt="blur",
        width=96,
        height=64,
        num_inference_steps=4,
        guidance_scale=3.5,
        seed=7,
        extra={"scheduler": "euler", "lora": "x", "extra_body": {"strength": 0.5}},
    )
    ask(hub_model(model_server, bill_to="my-org"), request)
    [call] = model_server.calls
    assert call.path == "/models/org/flux"
    assert call.authorization == f"Bearer {KEY}"
    assert call.body["inputs"] == "a cat"
    assert {name: value for name, value in call.body["parameters"].items() if value is not None} == {
        "negative_prompt": "blur",
        "width": 96,
        "height": 64,
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "seed": 7,
        "scheduler": "euler",
        "lora": "x",
        "strength": 0.5,
    }


@both
def test_base_url_beside_a_model_takes_the_calls_and_the_model_is_the_name(
    model_server: ModelServer, make: Make
) -> None:
    field = "model" if make is openai_model else "model_id"
    model = make(model_server, **{field: "org/name"})
    ask(model, "a cat")
    assert len(model_server.calls) == 1
    assert model.model_name == "org/name"
    assert model.key_url is None


@pytest.mark.parametrize("name", ["n", "stream", "model", "prompt"])
def test_openai_parameters_that_are_not_the_users_are_an_error(model_server: ModelServer, name: str) -> None:
    error = failure_of(openai_model(model_server), ImageRequest("a cat", extra={name: 2}))
    assert error.kind == "config"
    assert name in error.message
    assert model_server.calls == []


def test_width_without_height_is_an_error_that_says_so(model_server: ModelServer) -> None:
    error = failure_of(openai_model(model_server), ImageRequest("a cat", width=64))
    assert error.kind == "config"
    assert "give both" in error.message


@both
def test_hundreds_of_calls_at_once_all_get_their_image(make: Make) -> None:
    prompts = [f"prompt {number}" for number in range(256)]
    with ModelServer(latency=2.0, format="jpeg") as server:
        images = ask(make(server), *prompts)
        assert server.max_in_flight > 200
        got = {call.prompt: call.sha256 for call in server.calls}
    assert [sha256(image.data) for image in images] == [got[prompt] for prompt in prompts]


# Failures: what the table of failures (test_failure_table.py) does not have


@pytest.mark.parametrize("flavour", ["nsfw", "finish_reason"])
def test_filtered_output_is_never_a_success(model_server: ModelServer, flavour: Any) -> None:
    model_server.fail("cat", Fault("filtered", flavour=flavour))
    assert failure_of(openai_model(model_server)).kind == "refused"


@both
def test_truncated_image_is_handed_on_for_the_full_check_to_see(model_server: ModelServer, make: Make) -> None:
    model_server.fail("cat", "truncated_image")
    [image] = ask(make(model_server), "a cat")
    with pytest.raises(ValueError, match="cut short"):
        check_image(image)


@both
def test_answer_that_does_not_come_is_a_timeout_in_time(model_server: ModelServer, make: Make) -> None:
    model_server.fail("cat", "hang")
    started = time.monotonic()
    error = failure_of(make(model_server, timeout=0.4))
    assert error.kind == "timeout"
    assert time.monotonic() - started < 5


@both
def test_answer_that_trickles_is_cut_off_by_the_whole_time_it_may_take(model_server: ModelServer, make: Make) -> None:
    model_server.fail("cat", Fault("hang", after_bytes=40))
    assert failure_of(make(model_server, timeout=0.4)).kind == "timeout"


@both
def test_server_that_is_not_there_is_a_refused_connection(make: Make) -> None:
    with ModelServer() as server:
        url = server.url
    error = failure_of(make(server))
    assert error.kind == "server"
    assert error.info["refused_connection"] is True
    assert url in error.message


def test_download_that_failed_can_be_made_again_without_a_new_image(model_server: ModelServer) -> None:
    model_server.fail("cat", Fault("result_gone", times=2))

    async def work(model: AsyncImageGenerationModel) -> tuple[Image, list[GenerationError]]:
        errors: list[GenerationError] = []
        attempt: Callable[[], Awaitable[Image]] | None = partial(model.agenerate, ImageRequest("a cat"))
        while attempt is not None:
            try:
                return await attempt(), errors
            except GenerationError as error:
                errors.append(error)
                attempt = error.again
        raise AssertionError("nothing to download again")

    image, errors = with_loaded(openai_model(model_server), work)
    assert [sha256(image.data)] == list(model_server.delivered)
    assert [error.kind for error in errors] == ["download", "download"]
    assert all(SIGNATURE not in error.message and "HTTP 404" in error.message for error in errors)
    assert len(model_server.calls) == 1


# Names and settings


@pytest.mark.parametrize(
    ("fields", "seeds"),
    [
        ({"model": "gpt-image-2"}, False),
        ({"model": "some-model", "base_url": "https://api.openai.com/v1"}, False),
        ({"model": "some-model", "base_url": "https://mine.openai.azure.com/openai/v1"}, False),
        ({"model": "gpt-image-1", "base_url": "https://router.example/v1"}, False),
        ({"model": "dall-e-3", "base_url": "https://router.example/v1"}, False),
        ({"model": "flux", "base_url": "http://127.0.0.1:8000/v1"}, True),
        ({"model": "gpt-image-2", "has_seeds": True}, True),
        ({"model": "flux", "base_url": "http://127.0.0.1:8000/v1", "has_seeds": False}, False),
    ],
)
def test_seeds_are_sent_to_compatible_servers_only_unless_told(fields: dict[str, Any], seeds: bool) -> None:
    assert OpenAIImageGeneration(**fields).has_seeds is seeds


@pytest.mark.parametrize(
    ("fields", "name", "key_url"),
    [
        ({"model_id": "org/m"}, "org/m", None),
        ({"base_url": "http://host/x/?token=abc"}, "http://host/x", "http://host/x"),
        ({"endpoint_name": "e", "endpoint_namespace": "me"}, "e", "me/e"),
    ],
)
def test_hub_model_is_named_by_what_says_where_it_is(fields: dict[str, str], name: str, key_url: str | None) -> None:
    model = InferenceEndpointsImageGeneration(**fields)  # type: ignore[arg-type]
    assert (model.model_name, model.key_url) == (name, key_url)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "give a model_id"),
        ({"endpoint_name": "e", "model_id": "m"}, "give endpoint_name alone"),
        ({"endpoint_namespace": "me", "model_id": "m"}, "goes with an endpoint_name"),
        ({"base_url": "http://host", "provider": "fal-ai"}, "a provider goes with a model_id alone"),
        ({"model_id": "m", "provider": "cohere"}, "no text-to-image provider"),
        ({"base_url": "host/x"}, "must start with http"),
        ({"base_url": "http://me:topsecret@host/x"}, "must not hold a user name"),
    ],
)
def test_wrong_mix_of_hub_fields_is_one_clear_sentence(fields: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence) as caught:
        InferenceEndpointsImageGeneration(**fields)  # type: ignore[arg-type]
    assert "topsecret" not in str(caught.value)


def test_openai_without_model_and_base_url_is_an_error() -> None:
    with pytest.raises(ValidationError, match="give a model"):
        OpenAIImageGeneration()


def test_all_text_to_image_providers_of_the_client_are_taken() -> None:
    assert {"fal-ai", "hf-inference", "replicate", "together"} <= set(TEXT_TO_IMAGE_PROVIDERS)
    for provider in (*TEXT_TO_IMAGE_PROVIDERS, "auto"):
        InferenceEndpointsImageGeneration(model_id="org/m", provider=provider)


def test_backends_are_found_by_name() -> None:
    assert load_model("openai:gpt-image-2").model_name == "gpt-image-2"
    assert load_model("inference-endpoints:org/m").model_name == "org/m"
    assert load_model("inference-endpoints", base_url="http://host/m").model_name == "http://host/m"


# Keys


def test_openai_without_a_key_says_what_to_set() -> None:
    with pytest.raises(GenerationError, match="set OPENAI_API_KEY, or name a credentials block") as caught:
        OpenAIImageGeneration(model="gpt-image-2").load()
    assert caught.value.kind == "auth"


def test_hub_model_without_a_token_says_what_to_set(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HUGGINGFACEHUB_API_TOKEN", raising=False)
    with pytest.raises(GenerationError, match="set HF_TOKEN, or name a credentials block") as caught:
        InferenceEndpointsImageGeneration(model_id="org/m").load()
    assert caught.value.kind == "auth"


@pytest.mark.parametrize(("make", "variable"), [(openai_model, "OPENAI_API_KEY"), (hub_model, "HF_TOKEN")])
def test_key_of_the_environment_is_used_when_none_is_given(
    model_server: ModelServer, make: Make, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hf_from_environment\n")
    ask(make(model_server, api_key=None), "a cat")
    assert model_server.calls[0].authorization == "Bearer hf_from_environment"


@both
def test_key_that_cannot_be_sent_is_an_error_that_does_not_show_it(model_server: ModelServer, make: Make) -> None:
    error = failure_of(make(model_server, api_key="hf_top secret\u2026"))
    assert error.kind == "auth"
    assert "secret" not in str(error)


def chain(error: BaseException) -> list[BaseException]:
    """What a traceback shows of an exception."""
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [error, *(chain(behind) if behind else [])]


@both
def test_key_is_in_no_representation_and_no_exception(model_server: ModelServer, make: Make) -> None:
    model_server.fail("cat", "unauthorized")  # the server repeats the key in its answer
    model = make(model_server)
    shown = [repr(model), str(model), str(model.model_dump()), model.model_dump_json(), str(model.key_url)]
    shown += [f"{link!r} {link}" for link in chain(failure_of(model))]
    assert "HTTP 401" in shown[-1]
    assert not [text for text in shown if KEY in text]


@both
def test_key_is_not_kept_once_the_model_is_unloaded(model_server: ModelServer, make: Make) -> None:
    model = make(model_server)
    ask(model, "a cat")
    fresh = model.model_copy(update={"api_key": None}, deep=True)
    assert KEY.encode() not in pickle.dumps(fresh)


def test_signature_of_a_result_url_is_not_logged(model_server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    model_server.answers = "url"
    caplog.set_level(logging.INFO)
    ask(openai_model(model_server), "a cat")
    assert "/results/" in caplog.text
    assert SIGNATURE not in caplog.text


# Look-ups of the Hub


def test_offline_mode_is_an_error_that_says_to_unset_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(GenerationError, match="HF_HUB_OFFLINE is set: unset it") as caught:
        InferenceEndpointsImageGeneration(base_url="http://127.0.0.1:9/m").load()
    assert caught.value.kind == "config"


def endpoint(state: str, url: str | None) -> InferenceEndpoint:
    when = "2026-01-01T00:00:00.000Z"
    status = {"state": state, "createdAt": when, "updatedAt": when} | ({"url": url} if url else {})
    model = {"repository": "org/m", "framework": "custom", "revision": "main", "task": "text-to-image"}
    raw = {"name": "e", "type": "protected", "healthRoute": "/", "model": model, "status": status}
    return InferenceEndpoint.from_raw(raw, namespace="me", token=KEY)


@pytest.mark.parametrize("state", ["running", "scaledToZero"])
def test_endpoint_that_runs_or_sleeps_is_called_by_its_url(state: str) -> None:
    assert endpoint_url(endpoint(state, "https://e.example")) == "https://e.example"


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [("paused", "loading", "resume it"), ("failed", "config", "see its log"), ("initializing", "loading", "when it")],
)
def test_endpoint_that_cannot_be_called_says_what_to_do(state: str, kind: str, words: str) -> None:
    with pytest.raises(GenerationError, match=words) as caught:
        endpoint_url(endpoint(state, None))
    assert caught.value.kind == kind


LOOK_UP = textwrap.dedent("""
    import sys
    from imagetask.errors import GenerationError
    from imagetask.models.inference_endpoints import InferenceEndpointsImageGeneration
    provider = sys.argv[2] if len(sys.argv) > 2 else None
    model = InferenceEndpointsImageGeneration(model_id=sys.argv[1], provider=provider, api_key="hf_0123456789")
    try:
        model.load()
    except GenerationError as error:
        print(error.kind, bool(error.info.get("refused_connection")), error.message)
    else:
        print("loaded", model._info)
""")


def look_up(hub: str, *arguments: str) -> str:
    """What loading a model by its id says, in a process that takes `hub` for the Hub."""
    environment = {"HF_ENDPOINT": hub, "PYTHONPATH": ".", "PATH": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UP, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Hub:
    """A stand-in for the Hub that knows which provider serves which model."""

    def __init__(self, mappings: dict[str, Any]) -> None:
        self._mappings = mappings

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0]
        name = line.split()[1].partition("?")[0].removeprefix("/api/models/")
        known = name in self._mappings
        value = {"id": name, "inferenceProviderMapping": self._mappings.get(name)} if known else {"error": "not found"}
        body = json.dumps(value).encode()
        status = "200 OK" if known else "404 Not Found\r\nX-Error-Code: RepoNotFound"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    def run(self, *arguments: str) -> str:
        async def work() -> str:
            server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
            async with server:
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                return await asyncio.to_thread(look_up, url, *arguments)

        return asyncio.run(work())


SERVED = {"status": "live", "providerId": "flux-schnell", "task": "text-to-image"}
HUB = Hub({"org/m": {"together": SERVED, "nscale": SERVED}, "org/nobody": {}})


def test_provider_is_looked_up_when_the_model_loads_and_recorded() -> None:
    assert HUB.run("org/m") == "loaded {'provider': 'together'}"
    assert HUB.run("org/m", "nscale") == "loaded {'provider': 'nscale'}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("org/nobody",), "no inference provider serves this model"),
        (("org/m", "fal-ai"), "Model org/m is not supported by provider fal-ai"),
        (("org/unknown",), "HTTP 404"),
    ],
)
def test_model_that_no_provider_serves_is_a_wrong_setting(arguments: tuple[str, ...], words: str) -> None:
    said = HUB.run(*arguments)
    assert said.startswith("config False")
    assert words in said


def test_hub_that_cannot_be_reached_is_a_refused_connection() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert look_up(f"http://127.0.0.1:{port}", "org/m").startswith("server True")


@pytest.mark.parametrize("model_of", [openai_model, hub_model])
def test_answer_is_not_kept_once_its_image_is_read(model_of: Make, model_server: ModelServer) -> None:
    """Contexts of connections and timers know the call, and would hold 2 MB of each large answer."""

    def answers() -> list[object]:
        gc.collect()
        return [found for found in gc.get_objects() if type(found) is httpx2.Response]

    async def work(loaded: AsyncImageGenerationModel) -> list[object]:
        before = answers()  # other tests' failures
        await loaded.agenerate(ImageRequest("a cat"))
        known = {id(answer) for answer in before}
        return [answer for answer in answers() if id(answer) not in known]

    assert with_loaded(model_of(model_server), work) == []


def test_pools_are_wide_and_what_was_set_for_the_hubs_clients_stays(model_server: ModelServer) -> None:
    for _ in range(2):
        ask(hub_model(model_server), "a cat")
    hooks = huggingface_hub.get_async_session().event_hooks
    assert len(hooks["request"]) == len(set(hooks["request"])) == 2
    assert len(hooks["response"]) == len(set(hooks["response"])) == 2


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, model_server: ModelServer) -> None:
    monkeypatch.setenv("HTTP_PROXY", model_server.url)
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    model = InferenceEndpointsImageGeneration(base_url="http://far.invalid/models/m", api_key=SecretStr(KEY))
    ask(model, "a cat")
    assert len(model_server.calls) == 1


def test_httpx2_writes_urls_to_the_log_as_the_filter_expects() -> None:
    from imagetask.redact import BareUrls

    url = httpx2.URL("https://host/a.png?sig=1")
    record = logging.LogRecord("httpx2", logging.INFO, "", 0, "%s %s", ("GET", url), None)
    assert BareUrls().filter(record)
    assert record.getMessage() == "GET https://host/a.png"
    record = logging.LogRecord("httpx2", logging.INFO, "", 0, "%s %s", ("GET",), None)
    assert BareUrls().filter(record), "a line that is wrong fails no call"
    assert "cannot be shown" in record.getMessage()
