"""How HTTP answers and exceptions become kinds of failure."""

from __future__ import annotations

import inspect
import json
import time
from email.utils import formatdate
from types import ModuleType
from typing import Any

import httpx2
import huggingface_hub.errors
import openai
import pytest

from imagetask.errors import ErrorKind, GenerationError
from imagetask.models.classify import EXCEPTIONS, classify_exception, classify_response
from imagetask.models.redact import bare_url, redact, safe_cause
from tests.model_server.faults import FAILURES

KEY = "sk-proj-AbCdEf0123456789"


def said(message: str, code: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "code": code, "type": None, "param": None}})


BILLING_TEXT = "You exceeded your current quota, please check your plan and billing details."
SAFETY_TEXT = "Your request was rejected as a result of our safety system."
BLOCKED_TEXT = "Your resource has been temporarily blocked because of behavior that may violate our content policy."

ANSWERS: list[tuple[int, str, ErrorKind]] = [
    (401, said("Incorrect API key provided", "invalid_api_key"), "auth"),
    (401, '{"error": "Invalid credentials in Authorization header"}', "auth"),
    (403, said("Your organization must be verified to use the model `gpt-image-2`."), "auth"),
    (403, '{"error": "This token has no sufficient permissions to call Inference Providers"}', "auth"),
    (400, '{"error": {"message": "API key not valid. Please pass a valid API key."}}', "auth"),
    (402, "", "billing"),
    (429, said(BILLING_TEXT, "insufficient_quota"), "billing"),
    (400, said("Billing hard limit has been reached", "billing_hard_limit_reached"), "billing"),
    (403, '{"detail": "User is locked. Reason: Exhausted balance."}', "billing"),
    (403, said(BLOCKED_TEXT), "account_blocked"),
    (422, said(BLOCKED_TEXT), "account_blocked"),
    (401, said("The account was closed", "account_deactivated"), "account_blocked"),
    (429, said("Rate limit reached for images per min.", "rate_limit_exceeded"), "rate_limited"),
    (429, "", "rate_limited"),
    (503, '{"error": "Model x is currently loading", "estimated_time": 20.0}', "loading"),
    (503, '{"error": "Service Unavailable", "estimated_time": 20.0}', "loading"),
    (503, said("the endpoint is scaled to zero and is starting"), "loading"),
    (400, '{"error": "Bad Request: Invalid state: endpoint is paused"}', "loading"),
    (500, said("The server had an error"), "server"),
    (502, "<html><head><title>502 Bad Gateway</title></head></html>", "server"),
    (503, said("The engine is currently overloaded, please try again later"), "server"),
    (504, "", "server"),
    (524, "", "server"),
    (400, said(SAFETY_TEXT, "moderation_blocked"), "refused"),
    (400, said("rejected", "content_policy_violation"), "refused"),
    (400, json.dumps({"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}), "refused"),
    (400, said("Unknown parameter: 'seed'.", "unknown_parameter"), "config"),
    (422, json.dumps({"detail": [{"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}]}), "config"),
    (404, said("The model `x` does not exist", "model_not_found"), "config"),
    (410, "", "config"),
    (307, "", "config"),
    (413, "", "invalid_input"),
    (422, '{"error": "Input validation error"}', "invalid_input"),
    (400, said("Invalid 'prompt': string too long", "string_above_max_length"), "invalid_input"),
    (418, said("I'm a teapot"), "unknown"),
]


@pytest.mark.parametrize(("status", "body", "kind"), ANSWERS)
def test_answer_is_classified_by_its_body_before_its_status(status: int, body: str, kind: ErrorKind) -> None:
    assert classify_response(status, {}, body).kind == kind


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


NOT_RAISED = {
    # A warning, and misuse of a client's own objects, which our calls do not do.
    "httpx2.CookieConflict": "cookies are not read",
    "httpx2.StreamError": "answers are read whole",
    "httpx2.StreamConsumed": "answers are read whole",
    "httpx2.StreamClosed": "answers are read whole",
    "httpx2.RequestNotRead": "requests are not streamed",
    "httpx2.ResponseNotRead": "answers are read whole",
    # Chat, webhooks, web sockets.
    "openai.InvalidWebhookSignatureError": "no webhooks",
}
"""Exceptions that an image call cannot raise, each with the reason."""

NOT_OF_INFERENCE = [
    "CacheNotFound",
    "CorruptedCacheException",
    "CachedRepoTreeNotFoundError",
    "SafetensorsParsingError",
    "NotASafetensorsRepoError",
    "HfUriError",
    "DryRunError",
    "FileMetadataError",
    "RevisionResolutionError",
    "EntryNotFoundError",
    "LocalEntryNotFoundError",
    "IncompleteSnapshotError",
    "DDUFError",
    "DDUFCorruptedFileError",
    "DDUFExportError",
    "DDUFInvalidEntryNameError",
    "StrictDataclassError",
    "StrictDataclassDefinitionError",
    "StrictDataclassFieldValidationError",
    "StrictDataclassClassValidationError",
    "XetDownloadError",
    "FileDuplicationError",
    "CLIError",
    "ConfirmationError",
    "CLIExtensionInstallError",
    "SandboxError",
    "SandboxCommandError",
]
"""Of huggingface_hub: files, caches, sandboxes and its command line, none of which an image call touches."""

GENERAL = {"builtins.BaseException", "builtins.ValueError"}


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    found = [item for _, item in inspect.getmembers(module, inspect.isclass) if issubclass(item, Exception)]
    return [item for item in found if not issubclass(item, Warning)]


def not_raised(kind: type[Exception]) -> bool:
    if kind.__module__ == "huggingface_hub.errors":
        return kind.__name__ in NOT_OF_INFERENCE
    return f"{kind.__module__}.{kind.__qualname__}" in NOT_RAISED


RAISED = [
    kind
    for module in (httpx2, huggingface_hub.errors, openai)
    for kind in exceptions_of(module)
    if kind.__module__.split(".")[0] == module.__name__.split(".")[0] and not not_raised(kind)
]


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_exception_of_the_client_libraries_has_a_row_of_its_own_or_of_its_library(kind: type[Exception]) -> None:
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    rows = [row.exception for row in EXCEPTIONS if row.exception in names and not row.says]
    assert rows[0] not in GENERAL
    assert rows[0].split(".")[0] in {"httpx2", "huggingface_hub", "openai"}


def test_every_row_of_the_exception_table_names_an_exception_that_exists() -> None:
    known = {f"{kind.__module__}.{kind.__qualname__}" for kind in _all_exceptions(BaseException)}
    assert {row.exception for row in EXCEPTIONS} <= known


def _all_exceptions(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind, *(found for below in kind.__subclasses__() for found in _all_exceptions(below))}


REQUEST = httpx2.Request("POST", "http://user:pw@127.0.0.1:9/v1/images/generations?sig=1")
ATTEMPTS: list[tuple[BaseException, ErrorKind]] = [
    (httpx2.ReadTimeout("", request=REQUEST), "timeout"),
    (TimeoutError(), "timeout"),
    (httpx2.ConnectTimeout("", request=REQUEST), "server"),
    (httpx2.PoolTimeout("", request=REQUEST), "server"),
    (httpx2.ConnectError("All connection attempts failed", request=REQUEST), "server"),
    (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", request=REQUEST), "config"),
    (httpx2.ReadError("", request=REQUEST), "server"),
    (httpx2.RemoteProtocolError("Server disconnected", request=REQUEST), "server"),
    (httpx2.UnsupportedProtocol("no scheme", request=REQUEST), "config"),
    (StopIteration(), "config"),
    (RuntimeError("coroutine raised StopIteration"), "config"),
    (RuntimeError("something else"), "unknown"),
    (ValueError("WaveSpeed AI task failed: out of memory"), "server"),
    (ValueError("WaveSpeed AI task failed: content flagged as potentially sensitive"), "refused"),
    (KeyError("images"), "unknown"),
    (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "config"),
    (openai.APITimeoutError(REQUEST), "timeout"),
    (openai.APIConnectionError(request=REQUEST), "server"),
]


@pytest.mark.parametrize(("error", "kind"), ATTEMPTS, ids=lambda value: repr(value)[:60])
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
