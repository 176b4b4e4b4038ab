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
    link: where a provider's code fetched a result from, or tried to; None before that.
    routes: those of the clients that make the call.

    Requests are watched by the four hooks below, in the context of `watched`; `asyncio.to_thread` keeps it, so what
    huggingface_hub's providers fetch in threads is watched too. What is not: a connection that other code of the
    process left open in huggingface_hub's own session, to a private address under the name that a link has.
    """

    def __init__(self, routes: Routes) -> None:
        self.answers: list[httpx2.Response] = []
        self.link: httpx2.URL | None = None
        self.deadline = 0.0
        self._routes = routes
        self._answered = False
        self._inside = True
        self._redirected = False

    @property
    def succeeded(self) -> bool:
        """Whether the call itself was answered with success; what failed then is what follows on it."""
        return bool(self.answers) and self.answers[-1].is_success

    def forget_answers(self) -> None:
        """Of a call that is over: asyncio keeps its context, and so this, as long as its timers and connections."""
        self.answers = []

    def following(self) -> WatchedCall:
        """A call that takes the result of this one once more: it has its answers, and may go where it may."""
        call = WatchedCall(self._routes)
        call.answers, call._answered, call._inside = self.answers, self._answered, self._inside
        return call

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
        """Prepares a request. Gives what is to look at its connection, or None where nothing is to be learned from it.

        Raises `GenerationError` of kind "download" for a URL that is not followed.
        """
        request.headers["accept-encoding"] = ACCEPTED_ENCODING
        url = request.url
        if self._answered and url.scheme not in ("http", "https"):
            raise GenerationError("download", "not followed: the link to the result is no http(s) URL")
        if self._inside:
            return Connecting(url, self._routes, public_only=False) if self._routes.proxied else None
        address = literal_address(_host(url))
        if address is not None:
            _check(url, address)
        return Connecting(url, self._routes, public_only=True)

    def note_link(self, request: httpx2.Request) -> None:
        """Takes a request of a provider's code: one without a key, that no redirect led to, is for the result."""
        if not self._redirected and "authorization" not in request.headers:
            self.link = request.url

    def came(self, response: httpx2.Response) -> None:
        """Takes an answer whose body was not read: puts limits around it, and notes where it came from."""
        inside = self._is_inside(response)
        asynchronous = isinstance(response.stream, httpx2.AsyncByteStream)
        if self._answered and not self._inside and inside and asynchronous:
            _check(response.url, _peer(response) or _host(response.url))
        self._inside = self._inside and inside
        self._answered = True
        self._redirected = response.has_redirect_location
        bound(response, self.deadline)
        if asynchronous:
            self.answers.append(response)

    def _is_inside(self, response: httpx2.Response) -> bool:
        direct = self._routes.is_direct(response.url)
        address = _peer(response) if direct else literal_address(_host(response.url))
        return address is not None and not_public(address) is not None


class Routes:
    """What is known of where the connections of a model's clients lead. Belongs to them: they may use one again.

    proxied: a proxy of the environment may make the connections. Which servers it is not asked for (NO_PROXY) is for
    the clients to say, so it is seen when they connect; of servers on the internet it does not matter.
    """

    def __init__(self, proxied: bool) -> None:
        self.proxied = proxied
        self._direct: set[tuple[str, str, int]] = set()

    def is_direct(self, url: httpx2.URL) -> bool:
        """Whether the other end of a connection for this URL is the server itself, as far as that is known."""
        return not self.proxied or _origin(url) in self._direct

    def note_direct(self, url: httpx2.URL, address: str) -> None:
        if self.proxied and not_public(address) is not None:
            self._direct.add(_origin(url))


class Connecting:
    """Looks at the address of a new connection, before anything is sent over it; takes httpcore2's trace events."""

    def __init__(self, url: httpx2.URL, routes: Routes, *, public_only: bool) -> None:
        self._url = url
        self._routes = routes
        self._public_only = public_only
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
            self._direct = (info["host"], info["port"]) == _origin(self._url)[1:]  # else it leads to a proxy
        elif event == "connection.connect_tcp.complete" and self._direct:
            address = info["return_value"].get_extra_info("server_addr")[0]
            if self._public_only:
                _check(self._url, address)
            self._routes.note_direct(self._url, address)


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
    call.note_link(request)
    left = call.deadline - time.monotonic()
    if left <= 0:
        raise GenerationError("timeout", "the result was not there in time")
    if (connecting := call.may_send(request)) is not None:
        request.extensions["trace"] = connecting.trace_blocking
    request.extensions["timeout"] = httpx2.Timeout(left).as_dict()


def after_blocking_answer(response: httpx2.Response) -> None:
    """As `after_answer`. Raises `httpx2.HTTPStatusError` where the link to a result answers with an error."""
    call = _current.get()
    if call is None:
        return
    call.came(response)
    if response.status_code >= 400 and call.link is not None:
        told = f"HTTP {response.status_code}"
        raise httpx2.HTTPStatusError(told, request=response.request, response=response)


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


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, _host(url), url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii")


def _peer(response: httpx2.Response) -> str | None:
    """The address at the other end of the connection, or None where that is not known."""
    stream = response.extensions.get("network_stream")
    address = None if stream is None else stream.get_extra_info("server_addr")
    return address[0] if isinstance(address, tuple) else None
