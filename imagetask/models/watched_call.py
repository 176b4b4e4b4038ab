"""What a call of a backend may lead to: how large an answer may be, and where redirects, links and polls may go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2

from imagetask.errors import GenerationError
from imagetask.models.addresses import literal_address, not_public
from imagetask.models.bodies import ACCEPTED_ENCODING, bound

_current: ContextVar[WatchedCall | None] = ContextVar("_current", default=None)


class WatchedCall:
    """One call of a backend, with all that follows from what it answers.

    The first request goes where the settings say. Those that follow (a redirect, a link to the result, a provider's
    polls) go to public addresses only, unless every answer until then came from an address that is not public:
    a server on a private network may give links into it, one on the internet may not. The address is that of the
    connection, looked at before anything is sent over it, so a name that resolves to another address later is no way
    round. Where a proxy makes the connections, it resolves the names, and only addresses written in a URL are looked
    at.

    answers: those of the asynchronous client, in order, with their bodies once they are read.
    lost_link: where a result lay that answered with an error, or None.
    proxied: a proxy of the environment may make the connections.

    Requests are watched by the four hooks below, in the context of `watched`; `asyncio.to_thread` keeps it, so what
    huggingface_hub's providers fetch in threads is watched too. What is not: a connection that other code of the
    process left open in huggingface_hub's own session, to a private address under the name that a link has.
    """

    def __init__(self, proxied: bool) -> None:
        self.answers: list[httpx2.Response] = []
        self.lost_link: httpx2.URL | None = None
        self.deadline = 0.0
        self._proxied = proxied
        self._answered = False
        self._inside = True

    @property
    def succeeded(self) -> bool:
        """Whether the call itself was answered with success; what failed then is what follows on it."""
        return bool(self.answers) and self.answers[-1].is_success

    @contextmanager
    def watched(self, seconds: float) -> Iterator[None]:
        """Requests made within are those of this call; they have so many seconds from now."""
        self.deadline = time.monotonic() + seconds
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def may_send(self, request: httpx2.Request) -> Connecting | None:
        """Prepares a request. Gives what is to look at its connection, or None where it may lead anywhere.

        Raises `GenerationError` of kind "download" for a URL that is not followed.
        """
        request.headers["accept-encoding"] = ACCEPTED_ENCODING
        if not self._answered:
            return None
        url = request.url
        if url.scheme not in ("http", "https"):
            raise GenerationError("download", "not followed: the link to the result is no http(s) URL")
        if self._inside:
            return None
        address = literal_address(_host(url))
        if address is not None:
            _check(url, address)
        return Connecting(url)

    def came(self, response: httpx2.Response) -> None:
        """Takes an answer whose body was not read: puts limits around it, and notes where it came from."""
        inside = self._is_inside(response)
        asynchronous = isinstance(response.stream, httpx2.AsyncByteStream)
        if self._answered and not self._inside and inside and asynchronous:
            _check(response.url, _peer(response) or _host(response.url))
        self._inside = self._inside and inside
        self._answered = True
        bound(response, self.deadline)
        if asynchronous:
            self.answers.append(response)

    def _is_inside(self, response: httpx2.Response) -> bool:
        address = literal_address(_host(response.url)) if self._proxied else _peer(response)
        return address is not None and not_public(address) is not None


class Connecting:
    """Looks at the address of a new connection, before anything is sent over it; takes httpcore2's trace events."""

    def __init__(self, url: httpx2.URL) -> None:
        self._url = url
        self._direct = False

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        try:
            self.see(event, info)
        except GenerationError:
            await info["return_value"].aclose()
            raise

    def trace_blocking(self, event: str, info: dict[str, Any]) -> None:
        try:
            self.see(event, info)
        except GenerationError:
            info["return_value"].close()
            raise

    def see(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            self._direct = info["host"] == _host(self._url)  # else it leads to a proxy
        elif event == "connection.connect_tcp.complete" and self._direct:
            _check(self._url, info["return_value"].get_extra_info("server_addr")[0])


async def before_request(request: httpx2.Request) -> None:
    """Hook of an asynchronous client, for every request; does nothing outside a `WatchedCall`."""
    call = _current.get()
    if call is not None and (connecting := call.may_send(request)) is not None:
        request.extensions["trace"] = connecting.trace


async def after_answer(response: httpx2.Response) -> None:
    """Hook of an asynchronous client, for every answer."""
    call = _current.get()
    if call is not None:
        call.came(response)


def before_blocking_request(request: httpx2.Request) -> None:
    """As `before_request`; also ends the request, or the polls of which it is one, when the time of the call is up."""
    call = _current.get()
    if call is None:
        return
    left = call.deadline - time.monotonic()
    if left <= 0:
        raise GenerationError("timeout", "the result was not there in time")
    if (connecting := call.may_send(request)) is not None:
        request.extensions["trace"] = connecting.trace_blocking
    request.extensions["timeout"] = httpx2.Timeout(left).as_dict()


def after_blocking_answer(response: httpx2.Response) -> None:
    """As `after_answer`. A link to a result, which is asked for without a key, must not answer with an error."""
    call = _current.get()
    if call is None:
        return
    call.came(response)
    if response.status_code >= 400 and "authorization" not in response.request.headers:
        call.lost_link = response.url
        raise GenerationError("download", f"the image was made but could not be fetched: HTTP {response.status_code}")


def _check(url: httpx2.URL, address: str) -> None:
    """Raises `GenerationError` where the address is not public; the message has neither path nor query of the URL."""
    kind = not_public(address)
    if kind is not None:
        place = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
        raise GenerationError(
            "download",
            f"not followed: {place} leads to {address}, which is a {kind} address; "
            "only a server that is itself at such an address may send there",
        )


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii")


def _peer(response: httpx2.Response) -> str | None:
    """The address at the other end of the connection, or None where that is not known."""
    stream = response.extensions.get("network_stream")
    address = None if stream is None else stream.get_extra_info("server_addr")
    return address[0] if isinstance(address, tuple) else None
