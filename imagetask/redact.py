"""What may be shown of a message, a URL or an exception: never a key, a token or a signed URL."""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from urllib.parse import quote

LONGEST_MESSAGE = 300
"""Messages are cut to this (characters)."""

_READ = 20_000
_HIDDEN = "***"
_SHORTEST_SPELT = 8
"""Secrets shorter than this are looked for as they are; their base64 would be found in harmless words."""
_URL_SAFE = str.maketrans("+/", "-_")
_URL = re.compile(r"(\w{1,20}://)(?:[^\s/?#'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?")
_HEADERS = re.compile(r"\[\(b['\"].*\)\]", re.DOTALL)
"""As httpcore2 writes them: a list of pairs of bytes."""
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
    """The text without `secrets` in any spelling, without what looks like a key, and with bare URLs."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
            if len(secret) >= _SHORTEST_SPELT:
                text = _spellings(secret).sub(_HIDDEN, text)
    text = _URL.sub(r"\1\2", text)
    for pattern in _KEYS:
        text = pattern.sub(_HIDDEN, text)
    return text


def _spellings(secret: str) -> re.Pattern[str]:
    """What a server that repeats a secret may make of it: in a URL, in JSON, in hex, in base64 at any offset.

    Of base64 the whole word is meant, with what stands beside the secret in it.
    """
    data = secret.encode()
    others = [quote(secret, safe=""), quote(secret), secret.replace("/", "\\/"), data.hex()]
    words = [b64encode(b" " * before + data)[4 if before else 0 : -4].decode() for before in range(3)]
    words += [word.translate(_URL_SAFE) for word in words]
    in_base64 = "|".join(re.escape(word) for word in words)
    return re.compile(rf"(?i:{'|'.join(map(re.escape, others))})|[\w+/-]*(?:{in_base64})[\w+/=-]*")


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
    """Takes out of what clients write to the log: queries and credentials of URLs, and the headers of answers."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # what it is to be filled with does not fit; a filter must not fail a call
            text = "[a message that cannot be shown]"
        record.msg, record.args = _URL.sub(r"\1\2", _HEADERS.sub("[headers]", text)), ()
        return True
