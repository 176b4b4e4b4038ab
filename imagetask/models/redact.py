"""What may be shown of a message, a URL or an exception: never a key, a token or a signed URL."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

import httpx2

LONGEST_MESSAGE = 300
"""Messages are cut to this (characters)."""

_READ = 20_000
_HIDDEN = "***"
_URL = re.compile(r"(\w{1,20}://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?")
_KEYS = (
    re.compile(r"(?i)\b(?:bearer|basic|key|token)\s+[\w.~+/*=-]{12,}"),
    re.compile(r"(?i)\b(?:bearer|basic)\s+\S+"),
    re.compile(r"\b(?:sk|pk|rk|fal|key)-[\w*.-]{4,}"),
    re.compile(r"\b(?:hf|r8|gsk|api)_[A-Za-z0-9*]{4,}"),
)


def bare_url(url: str) -> str:
    """The URL without user name, password, query and fragment, and without a slash at its end."""
    return _URL.sub(r"\1\2", url).rstrip("/")


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """The text without `secrets`, without what looks like a key, and with bare URLs."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    text = _URL.sub(r"\1\2", text)
    for pattern in _KEYS:
        text = pattern.sub(_HIDDEN, text)
    return text


def one_line(text: str, secrets: Sequence[str] = (), longest: int = LONGEST_MESSAGE) -> str:
    """The text fit for a message: redacted, and short as by `short_line`."""
    return short_line(redact(text[:_READ], secrets), longest)


def short_line(text: str, longest: int) -> str:
    """The text on one line, printable, cut to `longest` characters."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def told(error: BaseException) -> str:
    """Kind and message of an exception, as one line that is fit for a message."""
    return one_line(f"{type(error).__name__}: {error}")


def safe_cause(error: BaseException, secrets: Sequence[str] = ()) -> BaseException | None:
    """The exception, to be raised from; None where it, or one behind it, says what must not be shown."""
    if all(redact(str(link), secrets) == str(link) for link in _chain(error)):
        return error
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class BareUrls(logging.Filter):
    """Takes queries and credentials out of the URLs that the HTTP client writes to the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(bare_url(str(a)) if isinstance(a, httpx2.URL) else a for a in record.args)
        return True
