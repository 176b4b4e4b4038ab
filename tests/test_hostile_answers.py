"""Servers that send too much, without end, or somewhere else: every call ends by its kind, in bounded memory."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.hf_api import InferenceProviderMapping
from huggingface_hub.inference._providers import _common
from PIL import Image as PILImage
from pydantic import SecretStr

from imagetask.errors import GenerationError
from imagetask.images import encode_picture
from imagetask.models import bodies
from imagetask.models.addresses import literal_address, not_public
from imagetask.models.base import AsyncImageGenerationModel, ImageRequest
from imagetask.models.classify import classify_response
from imagetask.models.inference_endpoints import InferenceEndpointsImageGeneration
from imagetask.models.openai import OpenAIImageGeneration
from tests.hostile_server import HostileServer, chunked, drip, endless, head, packed, picture_answer, zeros
from tests.test_backends import ask, failure_of, with_loaded
from tests.timed import timed

KEY = SecretStr("hf_0123456789abcdefghij")
PICTURE = encode_picture(PILImage.effect_noise((40, 30), 60), "PNG")
CALL = "/images/generations"
FAR = "http://far.invalid"

Make = Callable[..., AsyncImageGenerationModel]


def openai_model(url: str, timeout: float = 20.0) -> OpenAIImageGeneration:
    return OpenAIImageGeneration(model="m", base_url=url, api_key=KEY, timeout=timeout)


def hub_model(url: str, timeout: float = 20.0) -> InferenceEndpointsImageGeneration:
    return InferenceEndpointsImageGeneration(base_url=url + CALL, api_key=KEY, timeout=timeout)


both = pytest.mark.parametrize("make", [openai_model, hub_model])


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as hostile:
        yield hostile


@pytest.fixture
def behind_proxy(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hostile server plays a server on the internet: a proxy stands before it. Gives its base URL."""
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy", "http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", socket.gethostname())
    return FAR


@pytest.fixture
def private_name(server: HostileServer, behind_proxy: str) -> str:
    """The hostile server by a name of the private network, which the proxy is not asked for. Gives its base URL."""
    name = socket.gethostname()
    if literal_address(name) or not not_public(socket.gethostbyname(name)):
        pytest.skip("this machine's name resolves to a public address")
    return f"http://{name}:{server.port}"


# Too much


@both
def test_an_answer_that_says_it_is_too_large_is_not_read(make: Make, server: HostileServer) -> None:
    told = head(200, {"content-type": "application/json", "content-length": str(10**12)})
    server.route(CALL, lambda: iter([told, *[bytes(1000)] * 3]))
    error = failure_of(make(server.url))
    assert (error.kind, error.message) == ("corrupt_image", "the answer is larger than the 140 MB allowed")


@both
@pytest.mark.parametrize(("kind", "allowed"), [("application/json", 140), ("image/png", 100)])
def test_an_endless_answer_is_cut_off_at_the_limit(make: Make, kind: str, allowed: int, server: HostileServer) -> None:
    server.route(CALL, lambda: chunked(endless(), content_type=kind))
    error = failure_of(make(server.url))
    assert (error.kind, error.message) == ("corrupt_image", f"the answer is larger than the {allowed} MB allowed")
    assert server.sent < (allowed + 60) * 10**6


@both
def test_a_gzip_bomb_is_cut_off_by_what_it_unpacks_to(make: Make, server: HostileServer) -> None:
    server.route(CALL, lambda: chunked(packed(zeros(10)), content_encoding="gzip"))
    error = failure_of(make(server.url))
    assert (error.kind, error.message) == ("corrupt_image", "the answer is larger than the 140 MB allowed")
    assert server.sent < 10**7


@both
def test_bytes_without_end_after_the_end_of_a_gzip_are_cut_off(make: Make, server: HostileServer) -> None:
    def parts() -> Iterator[bytes]:
        yield from packed(iter([picture_answer(PICTURE)]))
        yield from endless()

    server.route(CALL, lambda: chunked(parts(), content_encoding="gzip"))
    started = time.monotonic()
    assert failure_of(make(server.url)).message == "the answer is larger than the 140 MB allowed"
    assert time.monotonic() - started < 8


@both
def test_an_answer_that_drips_ends_by_the_time_limit(make: Make, server: HostileServer) -> None:
    server.route(CALL, lambda: chunked(drip()))
    started = time.monotonic()
    assert failure_of(make(server.url, timeout=0.5)).kind == "timeout"
    assert time.monotonic() - started < 5


@both
@pytest.mark.parametrize("status", [401, 500])
def test_an_endless_error_is_still_the_error_that_it_is(make: Make, status: int, server: HostileServer) -> None:
    rest = chunked(endless())
    next(rest)
    first = head(status, {"content-type": "text/plain", "transfer-encoding": "chunked"})
    server.route(CALL, lambda: iter(_Joined(first, rest)))
    assert failure_of(make(server.url)).kind == {401: "auth", 500: "server"}[status]
    assert server.sent < 6 * 10**7


class _Joined:
    def __init__(self, first: bytes, rest: Iterator[bytes]) -> None:
        self._parts = [iter([first]), rest]

    def __iter__(self) -> Iterator[bytes]:
        for parts in self._parts:
            yield from parts


BOUNDED = textwrap.dedent("""
    import sys
    from tests.hostile_server import HostileServer, chunked, endless, packed, zeros
    from tests.test_hostile_answers import CALL, failure_of, openai_model

    def peak():
        [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1000

    url, before = sys.argv[1], peak()
    assert failure_of(openai_model(url)).kind == "corrupt_image"
    print(peak() - before)
""")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of memory from /proc")
def test_memory_stays_near_the_limit_under_an_endless_answer(server: HostileServer) -> None:
    server.route(CALL, lambda: chunked(endless()))
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, server.url], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(done.stdout) < 2 * bodies.MAX_ANSWER_BYTES / 10**6


# What is packed, and is good


@both
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_a_packed_answer_is_unpacked_and_the_connection_used_again(
    make: Make, encoding: str, server: HostileServer
) -> None:
    body, kind = (picture_answer(PICTURE), "application/json") if make is openai_model else (PICTURE, "image/png")
    server.route(CALL, lambda: chunked(packed(iter([body])), content_encoding=encoding, content_type=kind))
    images = ask(make(server.url), "a cat", "a dog")
    assert [image.data for image in images] == [PICTURE, PICTURE]
    assert {asked.headers["accept-encoding"] for asked in server.asked} == {"gzip"}


@both
@pytest.mark.parametrize("spoil", ["cut", "no gzip"])
def test_a_packed_answer_that_is_damaged_is_a_corrupt_image(make: Make, spoil: str, server: HostileServer) -> None:
    whole = b"".join(packed(iter([picture_answer(PICTURE)])))
    server.answer(CALL, whole[:-200] if spoil == "cut" else b"plain" * 9, content_encoding="gzip")
    error = failure_of(make(server.url))
    assert error.kind == "corrupt_image"
    assert "gzip" in error.message


# What is no picture


@both
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!doctype html><title>Sign in</title>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"", "0 bytes"),
    ],
)
def test_what_is_no_picture_is_a_corrupt_image(make: Make, body: bytes, words: str, server: HostileServer) -> None:
    server.answer(CALL, body, "image/png")
    error = failure_of(make(server.url))
    assert error.kind == "corrupt_image"
    assert words in error.message


def test_a_picture_that_makes_pillow_give_up_is_a_corrupt_image(server: HostileServer) -> None:
    from tests.test_images import png_with

    server.answer(CALL, png_with(b"zTXt", b"k\0\0", 5), "image/png")
    error = failure_of(hub_model(server.url))
    assert error.kind == "corrupt_image"
    assert "too large" in error.message


# Somewhere else


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("me.LOCALHOST.", "loopback"),
        ("[::1]", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f000001", "loopback"),
        ("127.1", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[64:ff9b::7f00:1]", "loopback"),
        ("[2002:7f00:1::]", "loopback"),
        ("169.254.169.254", "link-local"),
        ("[::ffff:a9fe:a9fe]", "link-local"),
        ("[fe80::1]", "link-local"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.100.100.200", "private"),
        ("168.63.129.16", "private"),
        ("[fd00:ec2::254]", "private"),
        ("0.0.0.0", "unspecified"),
        ("[::]", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("[ff02::1]", "multicast"),
        ("255.255.255.255", "private"),
    ],
)
def test_a_host_that_is_not_public_is_seen_in_all_its_spellings(host: str, kind: str) -> None:
    address = literal_address(httpx2.URL(f"http://{host}/").raw_host.decode())
    assert address is not None
    assert not_public(address) == kind


@pytest.mark.parametrize("host", ["localhost", "[::1]", "2130706433", "127.1", "169.254.169.254"])
def test_a_link_to_an_address_that_is_not_public_is_refused(
    host: str, server: HostileServer, behind_proxy: str
) -> None:
    server.links(CALL, f"http://{host}:{server.port}/secret/place.png?signature=abc")
    error = failure_of(openai_model(behind_proxy))
    assert (error.kind, error.again) == ("download", None)
    assert error.message.startswith("not followed: http://")
    assert "signature" not in error.message
    assert "secret" not in error.message
    assert server.paths() == [FAR + CALL]


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_public(address: str) -> None:
    assert not_public(address) is None
    assert literal_address(address) == address


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "10.example", "a1"])
def test_names_are_no_addresses(host: str) -> None:
    assert literal_address(host) is None


def test_a_name_is_refused_by_where_the_connection_leads_before_anything_is_sent(
    server: HostileServer, behind_proxy: str, private_name: str
) -> None:
    server.answer("/a.png", PICTURE, "image/png")
    server.links(CALL, f"{private_name}/a.png")
    error = failure_of(openai_model(behind_proxy))
    assert (error.kind, error.again) == ("download", None)
    assert f"{private_name} leads to " in error.message
    assert server.paths() == [FAR + CALL]


@both
def test_a_redirect_to_an_address_that_is_not_public_is_refused(
    make: Make, server: HostileServer, behind_proxy: str
) -> None:
    server.answer(CALL, b"", status=307, location=f"{server.url}/latest/meta-data")
    error = failure_of(make(behind_proxy))
    assert (error.kind, error.again) == ("download", None)
    assert "leads to 127.0.0.1, which is a loopback address" in error.message
    assert server.paths() == [FAR + CALL]


def test_a_link_that_redirects_to_an_address_that_is_not_public_is_refused(
    server: HostileServer, behind_proxy: str
) -> None:
    server.links(CALL, f"{FAR}/a.png")
    server.answer("/a.png", b"", status=302, location="http://169.254.169.254/latest/meta-data/")
    error = failure_of(openai_model(behind_proxy))
    assert "leads to 169.254.169.254, which is a link-local address" in error.message
    assert server.paths() == [FAR + CALL, FAR + "/a.png"]


def test_a_server_on_a_private_network_may_give_links_into_it(server: HostileServer) -> None:
    server.links(CALL, f"http://localhost:{server.port}/a.png")
    server.answer("/a.png", b"", status=302, location=f"{server.url}/b.png")
    server.answer("/b.png", PICTURE, "image/png")
    [image] = ask(openai_model(server.url), "a cat")
    assert image.data == PICTURE


@both
def test_a_private_server_by_name_beside_a_proxy_may_lead_to_itself_and_into_its_network(
    make: Make, server: HostileServer, private_name: str
) -> None:
    body, kind = (picture_answer(PICTURE), "application/json") if make is openai_model else (PICTURE, "image/png")
    server.answer(CALL, b"", status=307, location=f"{private_name}/elsewhere")
    server.answer("/elsewhere", b"", status=307, location=f"http://127.0.0.1:{server.port}/there")
    server.answer("/there", body, kind)
    images = ask(make(private_name), "a cat", "a dog")
    assert [image.data for image in images] == [PICTURE] * 2


def test_a_private_server_by_name_beside_a_proxy_is_known_when_its_connection_is_used_again(
    server: HostileServer, private_name: str
) -> None:
    server.links(CALL, f"{private_name}/a.png")
    server.answer("/a.png", PICTURE, "image/png")

    async def work(model: AsyncImageGenerationModel) -> list[bytes]:
        return [(await model.agenerate(ImageRequest(prompt))).data for prompt in ("a cat", "a dog", "a cow")]

    assert with_loaded(openai_model(private_name), work) == [PICTURE] * 3
    assert server.paths() == [CALL, "/a.png"] * 3


def test_a_private_server_beside_a_proxy_that_leads_out_may_not_lead_back(
    server: HostileServer, private_name: str
) -> None:
    server.links(CALL, f"{FAR}/a.png")
    server.answer("/a.png", b"", status=302, location=f"{private_name}/b.png")
    error = failure_of(openai_model(private_name))
    assert (error.kind, error.again) == ("download", None)
    assert " leads to " in error.message
    assert server.paths() == [CALL, FAR + "/a.png"]


def test_a_server_on_the_internet_may_give_links_on_the_internet(server: HostileServer, behind_proxy: str) -> None:
    server.links(CALL, "http://cdn.invalid/a.png")
    server.answer("/a.png", PICTURE, "image/png")
    [image] = ask(openai_model(behind_proxy), "a cat")
    assert image.data == PICTURE


BAD_LINKS = ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "gopher://127.0.0.1/", "http://0177.0.0.1/"]


@pytest.mark.parametrize("url", BAD_LINKS)
def test_a_link_of_another_scheme_is_refused(url: str, server: HostileServer) -> None:
    server.links(CALL, url)
    error = failure_of(openai_model(server.url))
    assert (error.kind, error.again) == ("download", None)
    assert error.message.endswith("is no http(s) URL")


@both
def test_a_redirect_to_another_host_does_not_take_the_key_along(make: Make, server: HostileServer) -> None:
    body, kind = (picture_answer(PICTURE), "application/json") if make is openai_model else (PICTURE, "image/png")
    server.answer(CALL, b"", status=307, location=f"http://localhost:{server.port}/elsewhere")
    server.answer("/elsewhere", body, kind)
    ask(make(server.url), "a cat")
    assert ["authorization" in asked.headers for asked in server.asked] == [True, False]


def test_an_endless_result_behind_a_link_is_cut_off(server: HostileServer) -> None:
    server.links(CALL, f"{server.url}/a.png")
    server.route("/a.png", lambda: chunked(endless(), content_type="image/png"))
    error = failure_of(openai_model(server.url))
    assert (error.kind, error.message) == ("corrupt_image", "the answer is larger than the 100 MB allowed")


def test_a_dripping_result_behind_a_link_is_fetched_again(server: HostileServer) -> None:
    server.links(CALL, f"{server.url}/a.png")
    server.route("/a.png", lambda: chunked(drip(), content_type="image/png"))
    error = failure_of(openai_model(server.url, timeout=2.0))
    assert (error.kind, error.again is not None) == ("download", True)


# What the providers' own code fetches


@pytest.fixture
def fal(server: HostileServer, behind_proxy: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    """The hostile server as the provider fal-ai on the internet, whose results lie behind links."""
    monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_PROXY_TEMPLATE", FAR + "/{provider}")
    mapping = InferenceProviderMapping(  # type: ignore[no-untyped-call]
        provider="fal-ai", hf_model_id="org/m", providerId="flux", status="live", task="text-to-image"
    )
    monkeypatch.setitem(_common.HARDCODED_MODEL_INFERENCE_MAPPING["fal-ai"], "org/m", mapping)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()


def fal_model(timeout: float = 20.0) -> InferenceEndpointsImageGeneration:
    return InferenceEndpointsImageGeneration(model_id="org/m", provider="fal-ai", api_key=KEY, timeout=timeout)


def fal_links(server: HostileServer, url: str) -> None:
    server.answer("/flux", json.dumps({"images": [{"url": url}]}).encode())


def test_a_providers_result_on_the_internet_is_fetched_without_the_key(fal: HostileServer) -> None:
    fal_links(fal, "http://cdn.invalid/a.png")
    fal.answer("/a.png", PICTURE, "image/png")
    [image] = ask(fal_model(), "a cat")
    assert image.data == PICTURE
    assert ["authorization" in asked.headers for asked in fal.asked] == [True, False]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}/a.png", "leads to 127.0.0.1"),
        ("http://169.254.169.254/latest", "leads to 169.254.169.254"),
        ("http://{name}:{port}/a.png", "leads to "),
        ("file:///etc/passwd", "no http(s) URL"),
        ("http://0177.0.0.1/", "cannot be followed: InvalidURL"),
    ],
)
def test_a_providers_link_that_may_not_be_followed_is_refused(fal: HostileServer, url: str, words: str) -> None:
    fal.answer("/a.png", PICTURE, "image/png")
    fal_links(fal, url.format(port=fal.port, name=socket.gethostname()))
    error = failure_of(fal_model())
    assert (error.kind, error.again) == ("download", None)
    assert words in error.message
    assert len(fal.asked) == 1


def test_a_providers_link_that_leads_round_in_a_circle_does_not_stop_the_run(fal: HostileServer) -> None:
    fal_links(fal, "http://cdn.invalid/a.png")
    fal.answer("/a.png", b"", status=302, location="http://cdn.invalid/a.png")
    error = failure_of(fal_model())
    assert (error.kind, error.message) == (
        "download",
        "the link to the image cannot be followed: TooManyRedirects",
    )


def test_a_providers_endless_result_is_cut_off(fal: HostileServer) -> None:
    fal_links(fal, "http://cdn.invalid/a.png")
    fal.route("/a.png", lambda: chunked(endless(), content_type="image/png"))
    error = failure_of(fal_model())
    assert (error.kind, error.message) == ("corrupt_image", "the answer is larger than the 100 MB allowed")


def test_a_providers_dripping_result_lets_its_thread_go(fal: HostileServer) -> None:
    fal_links(fal, "http://cdn.invalid/a.png")
    fal.route("/a.png", lambda: chunked(drip(), content_type="image/png"))
    assert failure_of(fal_model(timeout=2.0)).kind == "download"
    until, sent = time.monotonic() + 10, -1
    while sent != fal.sent:
        assert time.monotonic() < until, "the server can still send"
        sent = fal.sent
        time.sleep(0.4)


def test_a_providers_lost_result_is_fetched_again_and_not_made_again(fal: HostileServer) -> None:
    async def work(model: AsyncImageGenerationModel) -> Any:
        with pytest.raises(GenerationError, match="could not be fetched: HTTP 404") as caught:
            await model.agenerate(ImageRequest("a cat"))
        assert caught.value.kind == "download"
        assert caught.value.again is not None
        fal.answer("/a.png", PICTURE, "image/png")
        return await caught.value.again()

    fal_links(fal, "http://cdn.invalid/a.png")
    assert with_loaded(fal_model(), work).data == PICTURE
    assert [path.rpartition("/")[2] for path in fal.paths()] == ["flux", "a.png", "a.png"]


def test_other_users_of_the_hubs_session_are_left_alone(fal: HostileServer) -> None:
    fal_links(fal, "http://cdn.invalid/a.png")
    fal.answer("/a.png", PICTURE, "image/png")
    ask(fal_model(), "a cat")
    session = huggingface_hub.get_session()
    assert session.get(f"{FAR}/nothing").status_code == 404
    assert len(session.event_hooks["request"]) == 2
    assert isinstance(session, httpx2.Client)


# What an error says


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "9" * 400},
        {"retry-after-ms": "9" * 400},
        {"retry-after": "Mon, 01 Jan 9999 00:00:00 GMT"},
        {"ratelimit": '"api";r=0;t=' + "9" * 400},
    ],
)
def test_a_wait_that_no_clock_can_add_is_a_year(headers: dict[str, str]) -> None:
    assert classify_response(429, headers, "{}").retry_after == 366 * 86_400


@pytest.mark.parametrize(
    "body",
    ["a" * 10**6, json.dumps({"error": "account " * 10**5}), "<title " * 10**5, "http://" + "a@" * 10**5, "[" * 10**6],
)
@timed
def test_a_large_error_is_classified_at_once(body: str) -> None:
    started = time.process_time()
    assert len(classify_response(500, {}, body).message) <= 300
    assert time.process_time() - started < 0.4
