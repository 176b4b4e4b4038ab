"""How HTTP answers and exceptions become kinds of failure; the table of cases is in tests/failure_cases.py."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import time
from contextlib import suppress
from email.utils import formatdate
from importlib import import_module
from types import ModuleType
from typing import Any

import anyio
import h11
import httpcore2
import httpx2
import huggingface_hub.errors
import openai
import pytest

from imagetask.errors import ErrorKind, GenerationError
from imagetask.models.classify import EXCEPTIONS, classify_exception, classify_response
from imagetask.redact import bare_url, redact, safe_cause
from tests.failure_cases import RAISED, REQUEST, answer_of
from tests.model_server.faults import FAILURES

KEY = "sk-proj-AbCdEf0123456789"


def said(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "code": code, "type": None, "param": None}})


def test_words_of_a_repeated_prompt_do_not_decide_the_kind() -> None:
    detail = [{"type": "value_error", "loc": ["body", "seed"], "msg": "Bad seed", "input": "nsfw, insufficient_quota"}]
    assert classify_response(422, {}, json.dumps({"detail": detail})).kind == "invalid_input"


def test_every_failure_of_the_model_server_is_one_that_the_table_knows_but_the_teapot() -> None:
    unknown = [
        name
        for name, failure in FAILURES.items()
        if classify_response(failure.status, {}, said(failure.message, failure.code)).kind == "unknown"
    ]
    assert unknown == ["teapot"]


def test_only_a_paused_endpoint_is_fatal_and_says_what_to_do() -> None:
    paused = classify_response(400, {}, '{"error": "Bad Request: Invalid state: endpoint is paused"}')
    loading = classify_response(503, {}, '{"error": "Model x is currently loading"}')
    assert (paused.fatal, loading.fatal) == (True, False)
    assert "resume the endpoint" in paused.message
    assert "resume" not in loading.message


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        ({"retry-after": "20"}, "", 20.0),
        ({"retry-after": "0.0"}, "", 0.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, "", 1.5),
        ({"retry-after": "30"}, "Please try again in 1s.", 30.0),
        ({"retry-after": "soon"}, "", None),
        ({"ratelimit": '"api";r=0;t=55'}, "", 55.0),
        ({"ratelimit": '"api";r=3;t=55'}, "", None),
        ({}, "Limit 50, Used 50. Please try again in 232ms. Visit your limits page.", 0.232),
        ({}, "Please try again in 1.5s.", 1.5),
        ({}, "Please try again in 6m0s.", 360.0),
        ({}, "Please try again in 1h2m3s.", 3723.0),
        ({}, "Please retry after 20 seconds.", 20.0),
        ({}, "Try again in 2 minutes", 120.0),
        ({}, "Your rate limit resets in ~30s.", 30.0),
        ({}, "Rate limit reached", None),
    ],
)
def test_time_to_wait_is_read_from_headers_and_text(headers: dict[str, str], text: str, seconds: float | None) -> None:
    assert classify_response(429, headers, said(text)).retry_after == (
        None if seconds is None else pytest.approx(seconds)
    )


def test_retry_after_may_be_a_date() -> None:
    error = classify_response(429, {"retry-after": formatdate(time.time() + 90, usegmt=True)}, "")
    assert error.retry_after == pytest.approx(90, abs=5)
    past = classify_response(429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "")
    assert past.retry_after == 0.0


def test_estimated_time_of_a_loading_model_is_the_time_to_wait() -> None:
    error = classify_response(503, {}, '{"error": "Model x is currently loading", "estimated_time": 17.5}')
    assert error.retry_after == 17.5


def test_message_has_status_and_words_on_one_short_line() -> None:
    error = classify_response(500, {}, said("first line\nsecond line \x1b[31m" + "x" * 1000))
    assert error.message.startswith("HTTP 500: first line second line")
    assert "\x1b" not in error.message
    assert len(error.message) <= 300


def test_advice_survives_a_long_message() -> None:
    error = classify_response(401, {}, said("x" * 1000), key_variable="HF_TOKEN")
    assert len(error.message) <= 300
    assert "set HF_TOKEN" in error.message
    assert "credentials block" in error.message


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        "Incorrect API key provided: sk-pr********************6789.",
        "token hf_AbCdEfGhIjKlMnOp is not valid",
        "header was 'Authorization: Bearer 0123456789abcdef'",
        "fetch https://user:secretpw@host.example/a.png?sig=0123456789abcdef failed",
        "the key my-own-odd-key was not found",
    ],
)
def test_no_secret_gets_into_a_message(text: str) -> None:
    message = classify_response(401, {}, said(text), secrets=("my-own-odd-key",)).message
    for secret in (KEY, "6789", "AbCdEf", "0123456789abcdef", "secretpw", "sig=", "my-own-odd-key"):
        assert secret not in message


def test_secret_that_the_cut_would_halve_is_hidden_whole() -> None:
    message = classify_response(500, {}, said("x" * 270 + " plain" + "9" * 60), secrets=("plain" + "9" * 60,)).message
    assert "plain" not in message


def test_exception_that_shows_a_secret_is_not_chained() -> None:
    harmless, telling = ValueError("a plain reason"), ValueError(f"bad key {KEY}")
    outer = RuntimeError("outer")
    outer.__cause__ = telling
    assert safe_cause(harmless) is harmless
    assert safe_cause(telling) is None
    assert safe_cause(outer) is None


def test_bare_url_has_no_credentials_and_no_query() -> None:
    assert bare_url("https://u:p@host:8000/v1/?sig=1#top") == "https://host:8000/v1"
    assert redact("no secret here: a 3-step plan") == "no secret here: a 3-step plan"


LIBRARIES = (httpx2, huggingface_hub, openai, httpcore2, h11, anyio)
"""The two clients, and what they stand on."""

NOT_OF_A_CALL: dict[str, str] = {
    r"httpx2\.CookieConflict": "cookies are not read by name",
    r"httpx2\.(Stream\w+|RequestNotRead|ResponseNotRead)": "misuse of a client's objects",
    r"openai\.InvalidWebhookSignatureError": "webhooks",
    r"openai\._(legacy_)?response\.MissingStreamClassError": "answers are not streamed",
    r"openai\.lib\.(computer|browser)\..+": "computer and browser use",
    r"openai\.lib\.(decisions|responses)_\w+\..+": "tools and conversations",
    r"openai\.auth\._x509\._TransientTokenExchangeError": "client certificates",
    r"huggingface_hub\.errors\.(\w*Cache\w*|(Local)?EntryNotFoundError|IncompleteSnapshotError)": "files",
    r"huggingface_hub\.errors\.(FileMetadata|RevisionResolution|XetDownload|FileDuplication|DryRun)Error": "files",
    r"huggingface_hub\._bucket\w+\..+": "buckets",
    r"huggingface_hub\.cli\..+": "its command line",
    r"huggingface_hub\.errors\.HfUriError": "hf:// addresses",
    r"huggingface_hub\.errors\.(DDUF\w+|Safetensors\w+|NotASafetensorsRepoError)": "formats of weights",
    r"huggingface_hub\.errors\.StrictDataclass\w+": "dataclasses of the Hub's configurations",
    r"huggingface_hub\.errors\.(CLI\w+|ConfirmationError|Sandbox\w+)": "its command line and sandboxes",
    r"httpcore2\..+": "httpx2 raises its own in their place: see the test of its map",
    r"(h11|anyio)\..+": "httpcore2 raises its own in their place",
}
"""Patterns of exceptions that no image call can raise, each with the reason."""


def exceptions_below(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind, *(found for below in kind.__subclasses__() for found in exceptions_below(below))}


def full_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def load_all(library: ModuleType) -> None:
    """Imports each module of a library, but those that need a package which is not there."""
    for module in pkgutil.walk_packages(library.__path__, f"{library.__name__}."):
        if not module.name.endswith("__main__"):
            with suppress(ModuleNotFoundError):
                import_module(module.name)


def of_the_libraries() -> list[type[BaseException]]:
    """Every exception class that any module of the libraries defines, public or not; no warnings."""
    for library in LIBRARIES:
        load_all(library)
    roots = {library.__name__ for library in LIBRARIES}
    found = [kind for kind in exceptions_below(Exception) if kind.__module__.partition(".")[0] in roots]
    return sorted((kind for kind in found if not issubclass(kind, Warning)), key=full_name)


def instance(kind: type[BaseException]) -> BaseException:
    """One without what its constructor asks for, but with an answer where its kind is that of the answer."""
    error = kind.__new__(kind)
    error.args = ("it failed",)
    with suppress(AttributeError):
        error.response = answer_of(500)  # type: ignore[attr-defined]
    return error


def test_no_exception_of_the_clients_and_of_what_they_stand_on_is_left_unclassified() -> None:
    unknown = [full_name(kind) for kind in of_the_libraries() if classify_exception(instance(kind)).kind == "unknown"]
    assert [name for name in unknown if not any(re.fullmatch(one, name) for one in NOT_OF_A_CALL)] == []
    idle = [one for one in NOT_OF_A_CALL if not any(re.fullmatch(one, name) for name in unknown)]
    assert idle == [], "a reason that is for nothing"


def test_the_walk_sees_every_exception_that_the_libraries_make_public() -> None:
    public = {
        item
        for module in (httpx2, openai, huggingface_hub.errors, httpcore2, h11, anyio)
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, Exception) and not issubclass(item, Warning)
    }
    ours = {kind for kind in public if kind.__module__.partition(".")[0] != "builtins"}
    assert ours <= {*of_the_libraries()}
    assert len(ours) > 100


def test_httpx2_maps_every_exception_of_httpcore2_but_the_pools_own() -> None:
    from httpx2._transports.default import _load_httpcore_exceptions

    mapped = tuple(_load_httpcore_exceptions())
    below = [kind for kind in of_the_libraries() if kind.__module__.partition(".")[0] == "httpcore2"]
    assert [kind.__name__ for kind in below if not issubclass(kind, mapped)] == ["ConnectionNotAvailable"]


def test_every_row_of_the_exception_table_names_an_exception_that_exists() -> None:
    known = {full_name(kind) for kind in exceptions_below(BaseException)}
    assert {row.exception for row in EXCEPTIONS} <= known


@pytest.mark.parametrize(("error", "kind"), RAISED, ids=lambda value: repr(value)[:60])
def test_exception_is_classified_by_the_table(error: BaseException, kind: ErrorKind) -> None:
    assert classify_exception(error).kind == kind


def wrapped(outer: BaseException, inner: BaseException) -> Any:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    "outer", [openai.APITimeoutError(REQUEST), huggingface_hub.errors.InferenceTimeoutError("timed out")]
)
def test_what_a_client_wraps_decides(outer: BaseException) -> None:
    assert classify_exception(wrapped(outer, httpx2.ReadTimeout("", request=REQUEST))).kind == "timeout"
    assert classify_exception(wrapped(outer, httpx2.ConnectTimeout("", request=REQUEST))).kind == "server"


def test_refused_connection_is_marked_and_names_the_server_without_credentials() -> None:
    error = classify_exception(httpx2.ConnectError("All connection attempts failed", request=REQUEST))
    assert error.info["refused_connection"] is True
    assert "http://127.0.0.1:9" in error.message
    assert "pw" not in error.message
    assert "is the server running?" in error.message


def test_lost_connection_is_not_marked_as_refused() -> None:
    assert "refused_connection" not in classify_exception(httpx2.ReadError("", request=REQUEST)).info


def test_exceptions_that_carry_an_answer_are_classified_by_it() -> None:
    answer = httpx2.Response(429, headers={"retry-after": "7"}, text=said("slow down"), request=REQUEST)
    hub = huggingface_hub.errors.HfHubHTTPError("429", response=answer)
    other = openai.RateLimitError("429", response=answer, body=None)
    for error in (hub, other):
        failure = classify_exception(error)
        assert (failure.kind, failure.retry_after) == ("rate_limited", 7.0)


def test_answer_that_the_client_did_not_read_is_classified_by_its_status() -> None:
    unread = httpx2.Response(503, stream=httpx2.ByteStream(b"x"), request=REQUEST)
    assert classify_exception(huggingface_hub.errors.HfHubHTTPError("503", response=unread)).kind == "server"


def test_classified_failure_stays_as_it_is() -> None:
    error = GenerationError("refused", "as it was")
    assert classify_exception(error) is error
