"""What an answer says beside a picture: message, codes, how long to wait, whether the output was filtered."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic_core import from_json

from imagetask.images import describe_bytes

_MESSAGES = ("message", "msg", "error", "errors", "detail", "details", "error_description", "title", "reason", "loc")
_CODES = ("code", "type", "param", "innererror", "inner_error", "finish_reason")
"""Where providers put messages and codes. What repeats the request ("input", "prompt") is never looked at: words of
a prompt must not decide what a failure is."""

_FILTER_FLAGS = ("filtered", "nsfw", "nsfw_content_detected", "has_nsfw_concepts")
_READ = 20_000
_LONGEST_TOLD = 366 * 86_400.0
"""What an answer asks to wait is at most a year (seconds): a number that no clock can add is no reason to fail."""

_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,1000})</title>", re.IGNORECASE)
_WAITS = re.compile(
    r"(?:try again|retry|available|wait|resets?)[^.\d]{0,40}?"
    r"((?:\d+(?:\.\d+)?\s*(?:milliseconds?|ms|hours?|h|minutes?|min|m|seconds?|secs?|s)(?![a-z])\s*)+)"
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(milliseconds?|ms|hours?|h|minutes?|min|m|seconds?|secs?|s)")
_RESET = re.compile(r"\br\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """message: for people, unredacted. words: messages and codes, lower case. estimated_time: seconds, or None."""

    message: str
    words: str
    estimated_time: float | None = None


def read_error_body(headers: Mapping[str, str], body: str) -> ErrorBody:
    """What headers and body of an error answer say; JSON in the forms that providers use, HTML, or plain text."""
    noted = " ".join(headers.get(name, "") for name in ("x-error-code", "x-error-message")).strip()
    try:
        value = from_json(body)
    except ValueError:
        text = _plain(body)
        return ErrorBody(text or noted, f"{text} {noted}".lower())
    if isinstance(value, str):
        return ErrorBody(value, f"{value[:_READ]} {noted}".lower())
    message = "; ".join(dict.fromkeys(_texts(value, _MESSAGES)))
    said = " ".join(_texts(value, _MESSAGES + _CODES))
    words = f"{said[:_READ]} {noted}".strip()
    estimated = value.get("estimated_time") if isinstance(value, dict) else None
    if isinstance(estimated, int | float):
        return ErrorBody(message or noted, f"{words} estimated_time".lower(), max(0.0, float(estimated)))
    return ErrorBody(message or noted, words.lower())


def retry_after(headers: Mapping[str, str], said: ErrorBody) -> float | None:
    """Seconds that the answer asks to wait, or None.

    Looked at in this order: `retry-after-ms`, `retry-after` (seconds or a date), an exhausted `ratelimit` header,
    "try again in 6m0s" in the text, `estimated_time`.
    """
    seconds = _told(headers, said)
    return None if seconds is None else min(seconds, _LONGEST_TOLD)


def _told(headers: Mapping[str, str], said: ErrorBody) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after", "")
    seconds = _number(told)
    if seconds is None and told:
        seconds = _until(told)
    if seconds is None and (reset := _RESET.search(headers.get("ratelimit", ""))):
        seconds = float(reset[1])
    if seconds is None and (text := _WAITS.search(said.words)):
        seconds = sum(_in_seconds(number, unit) for number, unit in _PART.findall(text[1]))
    return said.estimated_time if seconds is None else seconds


def filtered(answer: Mapping[str, Any]) -> bool:
    """Whether an answer, or an item of its data, says that the output was filtered, in the ways of several servers."""
    flags = (answer.get(name) for name in _FILTER_FLAGS)
    if any(flag is True or (isinstance(flag, list) and True in flag) for flag in flags):
        return True
    reason = answer.get("finish_reason")
    if isinstance(reason, str) and re.search(r"filter|safety|moderat", reason.lower()):
        return True
    results = answer.get("content_filter_results")
    return isinstance(results, dict) and any(
        isinstance(result, dict) and result.get("filtered") is True for result in results.values()
    )


def _texts(value: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """The texts at `keys`, however deep, in the order of the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value[:10]:
            yield from _texts(item, keys)
    elif isinstance(value, dict):
        for key in keys:
            yield from _texts(value.get(key), keys)


def _plain(body: str) -> str:
    """The title of an HTML page, or the text itself."""
    title = _TITLE.search(body[:_READ])
    if title:
        return title[1].strip()
    if body[:_READ].lstrip()[:1] in ("<", "{", "["):
        return describe_bytes(body.encode("utf-8", "replace"))
    return body[:_READ].strip()


def _number(text: str | None) -> float | None:
    """The number of 0 or more that a header holds, or None."""
    if text is None or not re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", text):
        return None
    return float(text)


def _until(date: str) -> float | None:
    """Seconds from now to an HTTP date; 0 for one that has passed."""
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None


def _in_seconds(number: str, unit: str) -> float:
    if unit == "ms" or unit.startswith("milli"):
        return float(number) / 1000
    return float(number) * _SECONDS[unit[0]]
