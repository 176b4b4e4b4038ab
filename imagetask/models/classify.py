"""What a failure is: HTTP answers and exceptions → `GenerationError`, by two tables read from top to bottom.

What then happens is decided in `imagetask.models.treatments`. No client library is imported here: exceptions are
known by their name, so that a backend's library may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from imagetask.errors import ErrorKind, GenerationError
from imagetask.models.error_body import read_error_body, retry_after
from imagetask.redact import LONGEST_MESSAGE, bare_url, one_line

_REFUSED = (
    r"moderation_blocked|content_policy_violation|content_?filter|responsibleai|content policy|safety system"
    r"|safety filter|content moderation|moderation system|flagged (?:as|by|for)|\bnsfw\b|sensitive content"
)
_STARTING = (
    r"\bloading\b|scaled?[ -]to[ -]zero|warming up|cold start|starting up|still starting|initiali[sz]ing"
    r"|estimated_time|booting|spinning up"
)
_ANY = range(100, 600)


@dataclass(frozen=True, slots=True)
class Answer:
    """A row of `ANSWERS`. says: a pattern for what the body says (codes and messages, lower case); "" for any body."""

    kind: ErrorKind
    statuses: Iterable[int]
    says: str = ""
    fatal: bool = False


ANSWERS: tuple[Answer, ...] = (
    # What the body says comes before the status.
    Answer(
        "billing",
        _ANY,
        r"insufficient_?quota|billing_hard_limit|billing hard limit|billing_not_active|exceeded your current quota"
        r"|exhausted balance|insufficient[ _](?:funds|credits?|balance)|monthly included credits|payment required",
    ),
    Answer(
        "account_blocked",
        (400, 401, 403, 422, 429),
        r"account_(?:deactivated|blocked|suspended)"
        r"|\b(?:account|resource|subscription|organi[sz]ation)\b[^.]{0,60}\b(?:blocked|suspended|deactivated|banned)",
    ),
    Answer("refused", (200, 400, 403, 422, 451), _REFUSED),
    Answer("loading", range(400, 600), r"\b(?:endpoint|model|service)\b[^.]{0,40}\bpaused\b", fatal=True),
    Answer("loading", (502, 503, 504), _STARTING),
    Answer("auth", (400, 401, 403), r"invalid[ _]api[ _]key|incorrect api key|api key not valid|must be verified"),
    Answer("rate_limited", (400, 403), r"rate_limit_exceeded|rate limit|too many requests"),
    Answer(
        "invalid_input",
        (400, 413, 422),
        r"string_above_max_length|string_too_(?:long|short)|context_length_exceeded|\btoo long\b|maximum length"
        r"|maximum context length|prompt[^.]{0,30}\bempty\b",
    ),
    Answer(
        "config",
        (400, 401, 403, 404, 422),
        r"unknown_parameter|unsupported_parameter|extra_forbidden|unrecognized|extra inputs|unexpected keyword"
        r"|model_not_found|repo_?not_?found|repository not found|this resource is disabled",
    ),
    # What the status says.
    Answer("auth", (401, 403)),
    Answer("billing", (402,)),
    Answer("rate_limited", (429,)),
    Answer("invalid_input", (413, 422)),
    Answer("refused", (451,)),
    Answer("config", (*range(300, 400), 400, 404, 405, 406, 407, 410, 411, 415, 421, 426, 431, 501)),
    Answer("server", (408, 409, 425, *range(500, 600))),
    Answer("unknown", _ANY),
)
"""How an HTTP answer is classified: by the first row that fits."""

ByItsAnswer = Literal["answer"]


@dataclass(frozen=True, slots=True)
class Raised:
    """A row of `EXCEPTIONS`. kind "answer": by the HTTP answer that it carries. says: a pattern for its text."""

    exception: str
    kind: ErrorKind | ByItsAnswer
    says: str = ""
    unreachable: bool = False


EXCEPTIONS: tuple[Raised, ...] = (
    # The two clients. What they wrap (a time-out, a lost connection) is looked at first: see `_innermost`.
    Raised("openai.APIResponseValidationError", "corrupt_image"),
    Raised("openai.APIStatusError", "answer"),
    Raised("openai.APITimeoutError", "timeout"),
    Raised("openai.APIError", "server"),
    Raised("openai.ContentFilterFinishReasonError", "refused"),
    Raised("openai._exceptions.SubjectTokenProviderError", "auth"),
    Raised("openai.OpenAIError", "config"),
    Raised("huggingface_hub.errors.OfflineModeIsEnabled", "config"),
    Raised("huggingface_hub.errors.HfHubHTTPError", "answer"),
    Raised("huggingface_hub.errors.InferenceTimeoutError", "timeout"),
    Raised("huggingface_hub.errors.InferenceEndpointTimeoutError", "loading"),
    Raised("huggingface_hub.errors.InferenceEndpointError", "config"),
    Raised("huggingface_hub.errors.HFValidationError", "config"),
    Raised("huggingface_hub.errors.LocalTokenNotFoundError", "auth"),
    Raised("huggingface_hub.errors.OIDCError", "auth"),
    Raised("huggingface_hub.errors.DeviceCodeError", "auth"),
    # What both speak through.
    Raised("httpx2.HTTPStatusError", "answer"),
    Raised("httpx2.ConnectError", "config", says=r"certificate_verify_failed|wrong_version_number"),
    Raised("httpx2.ConnectError", "server", unreachable=True),
    Raised("httpx2.ConnectTimeout", "server", unreachable=True),
    Raised("httpx2.PoolTimeout", "server"),
    Raised("httpx2.WriteTimeout", "server"),
    Raised("httpx2.TimeoutException", "timeout"),
    Raised("httpx2.UnsupportedProtocol", "config"),
    Raised("httpx2.LocalProtocolError", "config"),
    Raised("httpx2.TooManyRedirects", "config"),
    Raised("httpx2.DecodingError", "corrupt_image"),
    Raised("httpx2.HTTPError", "server"),
    Raised("httpx2.InvalidURL", "config"),
    # Python, Pillow, and what a provider's code in huggingface_hub raises.
    Raised("imagetask.errors.ImageError", "corrupt_image"),
    Raised("PIL.UnidentifiedImageError", "corrupt_image"),
    Raised("PIL.Image.DecompressionBombError", "corrupt_image"),
    Raised("PIL.Image.DecompressionBombWarning", "corrupt_image"),
    Raised("json.decoder.JSONDecodeError", "corrupt_image"),
    Raised("binascii.Error", "corrupt_image"),
    Raised("builtins.StopIteration", "config"),
    Raised("builtins.RuntimeError", "config", says=r"raised stopiteration"),
    Raised("builtins.TimeoutError", "timeout"),
    Raised("builtins.ConnectionRefusedError", "server", unreachable=True),
    Raised("builtins.ConnectionError", "server"),
    Raised("builtins.UnicodeEncodeError", "config"),
    Raised("builtins.ValueError", "refused", says=_REFUSED),
    Raised("builtins.ValueError", "refused", says=r"^no (?:image_result|image url|output url)\b"),
    Raised("builtins.ValueError", "server", says=r"failed for request|task failed|timed out while waiting"),
    Raised("builtins.BaseException", "unknown"),
)
"""How an exception is classified: by the first row that names its class, or one that it inherits from."""

_UNREADABLE = Raised("builtins.BaseException", "corrupt_image")

ADVICE: Mapping[ErrorKind, str] = {
    "auth": "{key_from}, with a key that may use this model",
    "billing": "see to the account's plan or credits with the provider",
    "account_blocked": "the provider has blocked the account: talk to its support before any further call",
    "loading": "resume the endpoint, then start again",
}
"""What a person is to do about a kind that stops the run; for "loading" only where the endpoint is paused."""


def classify_response(
    status: int,
    headers: Mapping[str, str],
    body: str,
    *,
    secrets: Sequence[str] = (),
    key_variable: str | None = "the API key",
) -> GenerationError:
    """The failure that an HTTP answer is.

    secrets: what must not be in the message besides what looks like a key. key_variable: the environment variable
    that holds the key, for the advice; None where it was given otherwise. The message is one line of at most 300
    characters: status, then what the provider said, then what to do. `retry_after` is what headers or body ask for, in
    seconds.
    """
    said = read_error_body(headers, body)
    row = next(row for row in ANSWERS if status in row.statuses and re.search(row.says, said.words))
    advice = _advice(row.kind, row.fatal, key_variable)
    return GenerationError(
        row.kind,
        _message(f"HTTP {status}", said.message or _phrase(status), advice, secrets),
        retry_after=retry_after(headers, said),
        fatal=row.fatal,
        info={"http_status": status},
    )


def classify_exception(
    error: BaseException, *, secrets: Sequence[str] = (), key_variable: str | None = "the API key"
) -> GenerationError:
    """The failure that an exception is; a `GenerationError` is its own. Arguments as in `classify_response`.

    `info["refused_connection"]` is true where the server was never reached.
    """
    if isinstance(error, GenerationError):
        return error
    inner = _innermost(error)
    if isinstance(inner, GenerationError):
        return inner
    text = str(inner)
    row = _row_of(inner, text.lower())
    if row.kind == "answer":
        response = getattr(inner, "response", None)
        if response is not None:
            return _classify_carried(response, secrets, key_variable)
        return GenerationError("unknown", _message(_name(inner), text, "", secrets))
    return GenerationError(
        row.kind,
        _message(_name(inner), _text_of(inner, text, row), _advice(row.kind, False, key_variable), secrets),
        info={"refused_connection": True} if row.unreachable else None,
    )


def _innermost(error: BaseException) -> BaseException:
    """What a client's connection error wraps; they wrap whatever was raised while a request was made."""
    wrappers = ("openai.APIConnectionError", "huggingface_hub.errors.InferenceTimeoutError")
    while error.__cause__ is not None and any(name in wrappers for name in _names(error)):
        error = error.__cause__
    return error


def _row_of(error: BaseException, text: str) -> Raised:
    names = _names(error)
    row = next(row for row in EXCEPTIONS if row.exception in names and re.search(row.says, text))
    return _UNREADABLE if row.kind == "unknown" and _raised_by_pillow(error) else row


def _raised_by_pillow(error: BaseException) -> bool:
    """Whether Pillow's code raised it: on bytes that are no image, it raises whatever goes wrong."""
    link = error.__traceback__
    while link is not None and link.tb_next is not None:
        link = link.tb_next
    return link is not None and str(link.tb_frame.f_globals.get("__name__")).startswith("PIL.")


def _names(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _name(error: BaseException) -> str:
    return type(error).__name__


def _classify_carried(response: Any, secrets: Sequence[str], key_variable: str | None) -> GenerationError:
    """The failure that a client's exception carries an httpx2 response of."""
    try:
        body = response.text
    except RuntimeError:  # httpx2.ResponseNotRead: too long for the client to have read it
        body = ""
    return classify_response(response.status_code, response.headers, body, secrets=secrets, key_variable=key_variable)


def _text_of(error: BaseException, text: str, row: Raised) -> str:
    if row.unreachable:
        return f"cannot connect to {_address(error)} ({text or 'no answer'}): is the server running?"
    if row.kind == "timeout":
        return text or "no answer in time"
    if _name(error) in ("LocalProtocolError", "UnicodeEncodeError"):
        return "the request cannot be sent: look for stray characters in the key and the URL"
    if "stopiteration" in f"{_name(error)} {text}".lower():
        return "no inference provider serves this model for text-to-image: choose another model or provider"
    return text


def _address(error: BaseException) -> str:
    try:
        url = error.request.url  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx2 raises RuntimeError where no request was set
        return "the server"
    return bare_url(f"{url.scheme}://{url.netloc.decode('ascii')}")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"


def _advice(kind: ErrorKind, paused: bool, key_variable: str | None) -> str:
    if kind == "loading" and not paused:
        return ""
    given = "mend the credentials block, or the api_key that was given"
    key_from = f"set {key_variable}, or name a credentials block" if key_variable else given
    return ADVICE.get(kind, "").format(key_from=key_from)


def _message(source: str, text: str, advice: str, secrets: Sequence[str]) -> str:
    """`source: text; advice`, where only the text is cut."""
    end = f"; {advice}" if advice else ""
    start = f"{source}: " if text else source
    return start + one_line(text, secrets, LONGEST_MESSAGE - len(start) - len(end)).rstrip(".;") + end
