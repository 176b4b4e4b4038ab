"""HTTP connections for hundreds of calls at once."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import Any
from urllib.request import getproxies

import httpx2

from imagetask.errors import GenerationError
from imagetask.models.network import AsyncioBackend
from imagetask.models.watched_call import after_answer, before_request
from imagetask.redact import BareUrls

LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
"""No limit here: how many calls are under way is for pacing to say, and nobody waits for a place in a pool."""

CONNECT_TIMEOUT = 20.0
"""How long a server may take to accept a connection (seconds)."""

Hook = Callable[..., Any]
Hooks = Mapping[str, list[Hook]]
"""Functions that an HTTP client calls with each "request" and each "response"."""

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
    """As many connection pools as there are requests under way: each request has one for itself, with its connection.

    A pool looks at each of its connections for every request, with a system call for each that is idle. The pool that
    was given back last is taken first, so few calls at once use few connections.
    """

    def __init__(self) -> None:
        self._pools: list[httpx2.AsyncHTTPTransport] = []
        self._free: list[httpx2.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        pool = self._free.pop() if self._free else self._opened()
        try:
            response = await pool.handle_async_request(request)
        except BaseException:
            self._free.append(pool)
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Lent(response.stream, lambda: self._free.append(pool))
        return response

    def _opened(self) -> httpx2.AsyncHTTPTransport:
        pool = _Pool(verify=_trust(), limits=LIMITS)
        self._pools.append(pool)
        return pool

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class _Pool(httpx2.AsyncHTTPTransport):
    """httpx2's own, with connections straight on asyncio: httpx2 has no option for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pool._network_backend = AsyncioBackend()


class _Lent(httpx2.AsyncByteStream):
    """The body of an answer, which gives its pool back when it is closed."""

    def __init__(self, stream: httpx2.AsyncByteStream, give_back: Callable[[], None]) -> None:
        self._stream = stream
        self._give_back: Callable[[], None] | None = give_back

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            give_back, self._give_back = self._give_back, None
            if give_back is not None:
                give_back()


def timeouts(seconds: float) -> httpx2.Timeout:
    """Up to `seconds` for an answer; less for the connection; no limit on waiting for a place in a pool."""
    return httpx2.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT), pool=None)


def proxied() -> bool:
    """Whether the environment names a proxy; what needs none (NO_PROXY) may stand there alone."""
    return any(scheme != "no" for scheme in getproxies())


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
