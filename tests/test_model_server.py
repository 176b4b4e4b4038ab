"""The stand-in that other tests lean on: it must count right, deliver what it says, and fail as it is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from tests.model_server import (
    BROKEN,
    FAILURES,
    SIGNATURE,
    SPOILED,
    Chaos,
    Fault,
    ModelServer,
    RemoteModelServer,
    start_model_server,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(trust_env=False, timeout=10) as client:
        yield client


def ask_openai(client: httpx2.Client, server: ModelServer, prompt: str, **more: object) -> httpx2.Response:
    body = {"model": "m", "prompt": prompt, **more}
    return client.post(f"{server.openai_url}/images/generations", json=body, headers={"Authorization": "Bearer sk-1"})


def ask_hub(client: httpx2.Client, server: ModelServer, prompt: str, **parameters: object) -> httpx2.Response:
    return client.post(server.model_url("org/flux"), json={"inputs": prompt, "parameters": parameters})


def openai_bytes(response: httpx2.Response) -> bytes:
    return base64.b64decode(response.json()["data"][0]["b64_json"], validate=True)


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("image_kib", [None, 100])
def test_every_call_gets_a_whole_picture_of_its_own(client: httpx2.Client, format: str, image_kib: int | None) -> None:
    with ModelServer(format=format, image_kib=image_kib) as server:  # type: ignore[arg-type]
        got = [openai_bytes(ask_openai(client, server, prompt)) for prompt in ("a cat", "a cat", "a dog")]
        got += [ask_hub(client, server, "a cat", seed=seed).content for seed in (1, 2)]
        assert len(set(got)) == 5
        for data in got:
            picture = decoded(data)
            assert (picture.format or "").lower() == format
            assert any(low != high for low, high in picture.convert("RGB").getextrema())  # type: ignore[misc]
            assert image_kib is None or abs(len(data) - image_kib * 1024) < 500
        assert list(server.delivered) == [hashlib.sha256(data).hexdigest() for data in got]
        assert server.image_bytes(next(iter(server.delivered))) == got[0]


def test_the_same_calls_get_the_same_bytes_from_another_server(client: httpx2.Client) -> None:
    got = []
    for _ in range(2):
        with ModelServer() as server:
            got.append([ask_hub(client, server, "a cat", seed=7).content for _ in range(2)])
    assert got[0] == got[1]


def test_ledger_notes_what_was_asked_with_which_key(client: httpx2.Client, model_server: ModelServer) -> None:
    assert decoded(openai_bytes(ask_openai(client, model_server, "a cat", size="96x32", seed=5))).size == (96, 32)
    ask_hub(client, model_server, "a dog", width=32, height=48)
    first, second = model_server.calls
    assert (first.number, first.wire, first.model, first.prompt) == (1, "openai", "m", "a cat")
    assert (first.authorization, first.status, first.seed) == ("Bearer sk-1", 200, 5)
    assert (second.number, second.wire, second.model, second.prompt) == (2, "huggingface", "org/flux", "a dog")
    assert (second.authorization, second.body["parameters"]) == (None, {"width": 32, "height": 48})
    assert model_server.calls_for("a dog") == [second]
    model_server.reset()
    assert model_server.calls == []


@pytest.mark.parametrize("name", sorted(FAILURES))
def test_errors_speak_the_words_of_each_wire(client: httpx2.Client, model_server: ModelServer, name: str) -> None:
    model_server.fail(None, name, forever=True)
    of_openai = ask_openai(client, model_server, "a cat")
    of_hub = ask_hub(client, model_server, "a cat")
    assert of_openai.status_code == of_hub.status_code == FAILURES[name].status
    assert set(of_openai.json()["error"]) == {"message", "type", "code", "param"}
    assert isinstance(of_hub.json()["error"], str)
    assert ("Retry-After" in of_hub.headers) == (FAILURES[name].retry_after is not None)
    assert [call.fault for call in model_server.calls] == [name, name]
    assert model_server.counts().delivered == 0


@pytest.mark.parametrize("name", sorted(SPOILED - {"same_image", "wrong_size"}))
def test_spoiled_answers_look_like_good_ones_at_first(
    client: httpx2.Client, model_server: ModelServer, name: str
) -> None:
    model_server.fail(None, name, forever=True)
    of_openai = ask_openai(client, model_server, "a cat")
    of_hub = ask_hub(client, model_server, "a cat")
    assert of_openai.status_code == of_hub.status_code == 200
    if name == "result_gone":
        url = of_openai.json()["data"][0]["url"]
        assert [client.get(url).status_code for _ in range(2)] == [404, 200]
    elif name == "blank_image":
        for data in (openai_bytes(of_openai), of_hub.content):
            assert decoded(data).getextrema() == ((0, 0),) * 3
    elif name != "filtered":
        with pytest.raises((OSError, ValueError, LookupError)):
            decoded(openai_bytes(of_openai))
        with pytest.raises((OSError, SyntaxError)):
            decoded(of_hub.content)


def test_same_and_wrongly_sized_pictures_are_pictures(client: httpx2.Client, model_server: ModelServer) -> None:
    model_server.fail("same", "same_image", forever=True)
    model_server.fail("small", "wrong_size", forever=True)
    assert (
        ask_hub(client, model_server, "the same cat").content == ask_hub(client, model_server, "the same dog").content
    )
    assert decoded(ask_hub(client, model_server, "a small cat", width=80, height=60).content).size == (40, 30)


def test_faults_come_in_order_for_each_prompt_by_itself(client: httpx2.Client, model_server: ModelServer) -> None:
    model_server.fail("cat", Fault("rate_limited", retry_after=0.25), "server_error")
    model_server.fail(lambda prompt: prompt == "a dog", "teapot", forever=True)
    first = ask_openai(client, model_server, "a cat")
    assert (first.status_code, first.headers["Retry-After"]) == (429, "0.25")
    prompts = ["a cat", "a red cat", "a cat", "a dog", "a dog", "a cow"]
    assert [ask_openai(client, model_server, p).status_code for p in prompts] == [500, 429, 200, 418, 418, 200]
    model_server.recover()
    assert ask_openai(client, model_server, "a dog").status_code == 200


def test_broken_connections_and_silence_reach_the_client(client: httpx2.Client, model_server: ModelServer) -> None:
    assert frozenset({"reset", "hang"}) == BROKEN
    model_server.fail(None, "reset", Fault("reset", after_bytes=100), "hang", Fault("hang", after_bytes=100))
    for _ in range(2):
        with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
            ask_openai(client, model_server, "a cat")
    with httpx2.Client(trust_env=False, timeout=0.2) as hasty:
        for _ in range(2):
            with pytest.raises(httpx2.ReadTimeout):
                ask_hub(hasty, model_server, "a cat")
    assert ask_openai(client, model_server, "a cat").status_code == 200
    assert [call.delivered for call in model_server.calls] == [False] * 4 + [True]
    assert [call.status for call in model_server.calls] == [None, 200, None, 200, 200]
    assert model_server.counts().in_flight == 0


def test_results_behind_urls_need_their_signature(client: httpx2.Client, model_server: ModelServer) -> None:
    model_server.answers = "url"
    url = ask_openai(client, model_server, "a cat").json()["data"][0]["url"]
    assert SIGNATURE in url
    assert model_server.delivered == {}
    assert client.get(url.partition("?")[0]).status_code == 403
    assert hashlib.sha256(client.get(url).content).hexdigest() in model_server.delivered


def test_only_the_required_key_and_known_parameters_are_taken(client: httpx2.Client, model_server: ModelServer) -> None:
    model_server.require_key, model_server.rejects = "sk-1", frozenset({"response_format"})
    assert ask_hub(client, model_server, "a cat").status_code == 401
    assert ask_openai(client, model_server, "a cat").status_code == 200
    refused = ask_openai(client, model_server, "a cat", response_format="url")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")


async def ask_at_once(server: ModelServer, number: int) -> list[int]:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        asked = [client.post(server.model_url("m"), json={"inputs": f"cat {i}"}) for i in range(number)]
        return sorted(response.status_code for response in await asyncio.gather(*asked))


def test_calls_over_the_limit_are_rejected_and_counted(model_server: ModelServer) -> None:
    model_server.latency = 0.3
    model_server.admit(4)
    assert asyncio.run(ask_at_once(model_server, 10)) == [200] * 4 + [429] * 6
    counts = model_server.counts()
    assert (counts.calls, counts.max_in_flight, counts.rejected, counts.in_flight) == (10, 4, 6, 0)
    model_server.admit(None)
    model_server.latency = 0.0
    model_server.rate(6)
    assert asyncio.run(ask_at_once(model_server, 10)).count(429) >= 4


def test_a_server_in_another_process_is_read_and_set_alike(client: httpx2.Client) -> None:
    with start_model_server(image_kib=100, format="jpeg") as server:
        server.fail("cat", Fault("rate_limited", retry_after=2), "bad_gateway")
        got = [client.post(server.model_url("m"), json={"inputs": "a cat"}) for _ in range(3)]
        assert [response.status_code for response in got] == [429, 502, 200]
        assert got[0].headers["Retry-After"] == "2"
        server.wait_for_calls(3, timeout=5)
        [sha256] = server.delivered
        assert server.image_bytes(sha256) == got[2].content
        assert (server.counts().calls, server.counts().delivered) == (3, 1)
        with pytest.raises(httpx2.HTTPStatusError):
            server.behave({"fail": [{"match": None, "faults": ["no such fault"]}]})
        server.reset()
        assert server.calls == []


def test_slow_body_comes_whole_for_the_patient_alone(client: httpx2.Client, model_server: ModelServer) -> None:
    model_server.fail(None, Fault("slow_body", seconds=0.3), Fault("slow_body", seconds=30.0))
    decoded(openai_bytes(ask_openai(client, model_server, "a cat")))
    assert (model_server.calls[0].seconds or 0.0) >= 0.3
    with client.stream("POST", model_server.model_url("m"), json={"inputs": "a cat"}) as begun:
        assert begun.status_code == 200
    model_server.wait_for_calls(2)
    assert [call.delivered for call in model_server.calls] == [True, False]


def test_chaos_is_the_same_for_the_same_seed_in_whatever_order_the_calls_come() -> None:
    prompts = [f"cat {number}" for number in range(2000)]
    chaos, same, other = Chaos(0.3, seed=1, lasting=0.5), Chaos(0.3, seed=1, lasting=0.5), Chaos(0.3, seed=2)
    first = {prompt: chaos.fault_for(prompt, 0) for prompt in prompts}
    assert {prompt: same.fault_for(prompt, 0) for prompt in reversed(prompts)} == first
    assert {prompt: other.fault_for(prompt, 0) for prompt in prompts} != first
    failing = [prompt for prompt in prompts if first[prompt]]
    assert 0.25 < len(failing) / len(prompts) < 0.35
    assert all(fault in first.values() for fault in chaos.faults)
    lasting = [prompt for prompt in failing if all(chaos.fault_for(prompt, n) == first[prompt] for n in range(1, 6))]
    assert 0.35 < len(lasting) / len(failing) < 0.55


def test_chaos_is_set_over_http_and_taken_back(client: httpx2.Client, model_server: ModelServer) -> None:
    chaos = Chaos(0.6, seed=5, faults=(Fault("server_error"), Fault("teapot")))
    setting = {"chaos": {"rate": 0.6, "seed": 5, "faults": ["server_error", {"name": "teapot"}]}}
    assert client.post(f"{model_server.url}/_behaviour", json=setting).status_code == 200
    for _ in range(3):
        for prompt in ("a cat", "a dog", "a cow"):
            ask_openai(client, model_server, prompt)
    for prompt in ("a cat", "a dog", "a cow"):
        expected = [chaos.fault_for(prompt, number) for number in range(3)]
        assert [call.fault for call in model_server.calls_for(prompt)] == [fault and fault.name for fault in expected]
    assert client.post(f"{model_server.url}/_behaviour", json={"chaos": {"rate": 2}}).status_code == 400
    model_server.recover()
    assert {ask_openai(client, model_server, "a cat").status_code for _ in range(5)} == {200}


def test_chaos_is_set_on_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.model_server", "--chaos", "1", "--chaos-seed", "3", "--while-stdin-is-open"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        server = RemoteModelServer(url)
        prompt = next(f"cat {n}" for n in range(99) if _name(Chaos(1, seed=3).fault_for(f"cat {n}", 0)) == "teapot")
        assert httpx2.post(server.model_url("m"), json={"inputs": prompt}, trust_env=False).status_code == 418
        server.close()
        process.stdin.close()
        assert process.wait(10) == 0


def _name(fault: Fault | None) -> str | None:
    return fault.name if fault else None
