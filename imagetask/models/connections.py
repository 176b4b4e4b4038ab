"""HTTP connections for hundreds of calls at once."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from urllib.request import getproxies

import httpx2

from imagetask.errors import GenerationError
from imagetask.models.redact import BareUrls
from imagetask.models.watched_call import after_answer, before_request

LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
"""No limit here: how many calls are under way is for pacing to say, and nobody waits for a place in a pool."""

CONNECT_TIMEOUT = 20.0
"""How long a server may take to accept a connection (seconds)."""

Hook = Callable[..., Any]
Hooks = Mapping[str, list[Hook]]
"""Functions that an HTTP client calls with each "request" and each "response"."""

_POOLS = 16
_BARE_URLS = BareUrls()
_TALKATIVE = (
    "httpx2",
    "huggingface_hub.utils._http",
    "openai._base_client",
    *(f"httpcore2.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")),
)
"""Loggers that write URLs, or headers of answers, at some level."""


@cache
def _trust() -> ssl.SSLContext:
    """The certificates that are trusted, read once a process: that takes 50 ms."""
    return httpx2.create_ssl_context()


class SpreadTransport(httpx2.AsyncBaseTransport):
    """Several connection pools as one: each request goes to the least busy pool.

    A pool looks at each of its connections for every request; at 256 calls at once one pool costs 2.5 ms of CPU a
    call, 16 cost 0.8 ms (httpx2 2.16, measured). Few calls at once use few pools, so connections are used again.
    """

    def __init__(self) -> None:
        self._pools = [httpx2.AsyncHTTPTransport(verify=_trust(), limits=LIMITS) for _ in range(_POOLS)]
        self._busy = [0] * _POOLS

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        place = self._busy.index(min(self._busy))
        self._busy[place] += 1
        try:
            return await self._pools[place].handle_async_request(request)
        finally:
            self._busy[place] -= 1

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


def timeouts(seconds: float) -> httpx2.Timeout:
    """Up to `seconds` for an answer; less for the connection; no limit on waiting for a place in a pool."""
    return httpx2.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT), pool=None)


def proxied() -> bool:
    """Whether the environment names a proxy."""
    return bool(getproxies())


def open_client(event_hooks: Hooks | None = None, **options: Any) -> httpx2.AsyncClient:
    """A client for hundreds of calls at once, which follows redirects and keeps secrets out of the log.

    Requests within a `WatchedCall` are watched. options: those of `httpx2.AsyncClient`. Where the environment names a
    proxy, it is the plain client with wide limits, since a transport of one's own would go past the proxy.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_BARE_URLS)
    hooks = with_hooks(event_hooks or {}, before_request, after_answer)
    if proxied():
        return httpx2.AsyncClient(limits=LIMITS, follow_redirects=True, event_hooks=hooks, **options)
    return httpx2.AsyncClient(transport=SpreadTransport(), follow_redirects=True, event_hooks=hooks, **options)


def with_hooks(hooks: Hooks, before: Hook, after: Hook) -> dict[str, list[Hook]]:
    """The hooks with one for requests at their end and one for answers at their start; neither twice."""
    requests, responses = hooks.get("request", []), hooks.get("response", [])
    return {
        "request": [*(hook for hook in requests if hook is not before), before],
        "response": [after, *(hook for hook in responses if hook is not after)],
    }


def checked_url(url: str | None) -> str | None:
    """The URL as given. Raises `ValueError` for what is no http(s) URL, and for one that holds credentials."""
    if url is None:
        return None
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError("base_url is no URL") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError("base_url must start with http:// or https:// and name a host")
    if parts.userinfo:
        raise ValueError("base_url must not hold a user name or password: give the key as api_key")
    return url


def checked_key(key: str | None, key_variable: str) -> str:
    """The key without white space around it, "" for none. Raises `GenerationError` for what cannot be sent."""
    key = (key or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise GenerationError("auth", f"the API key holds characters that no key has: see to {key_variable}")
    return key
