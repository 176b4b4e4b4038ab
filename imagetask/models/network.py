"""TCP and TLS connections for httpcore2's pools, straight on asyncio.

httpcore2's own go through anyio, at 0.35 ms of CPU a call.
"""

from __future__ import annotations

import asyncio
import selectors
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2

from imagetask.models.addresses import literal_address

_MOST_UNREAD = 1 << 18
"""A connection is read no further while more than so many bytes of it wait to be taken."""
_NEXT_ADDRESS_AFTER = 0.25
"""How long one address of a server is waited for before another is tried beside it (seconds)."""
_QUIET = 0.01
"""A connection that was heard of so many seconds ago is open: to ask the kernel gives up the interpreter."""
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
_EXTRA_INFO = {"client_addr": "sockname", "server_addr": "peername"}
"""httpcore2's word → asyncio's."""


class AsyncioBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        connecting = asyncio.get_running_loop().create_connection
        delay = None if literal_address(host) else _NEXT_ADDRESS_AFTER
        local = None if local_address is None else (local_address, 0)
        with _mapped(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                _, stream = await connecting(Stream, host, port, local_addr=local, happy_eyeballs_delay=delay)
            if stream.get_extra_info("server_addr") is None:
                await stream.aclose()
                raise ConnectionResetError("the server closed the connection at once")
            for option in socket_options or ():
                stream.get_extra_info("socket").setsockopt(*option)
        return stream

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Stream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """A connection. What comes while nobody reads is kept, so that an idle connection knows when it was closed."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._unread: list[bytes] = []
        self._num_unread = 0
        self._heard = 0.0
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread.append(data)
        self._heard = time.monotonic()
        self._num_unread += len(data)
        if self._num_unread > _MOST_UNREAD:
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._ended = True
        _wake(self._reader)

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._error = error
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._writer)
        self._writer = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """All that has come, b"" at the end of the connection. max_bytes: not heeded, HTTP has no use for it."""
        with _mapped(httpcore2.ReadTimeout, httpcore2.ReadError):
            if not self._unread and not self._ended:
                self._reader = asyncio.get_running_loop().create_future()
                async with asyncio.timeout(timeout):
                    await self._reader
            if not self._unread and self._error is not None:
                raise self._error
        data = b"".join(self._unread)
        self._unread.clear()
        if self._num_unread > _MOST_UNREAD:
            self._transport.resume_reading()
        self._num_unread = 0
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        with _mapped(httpcore2.WriteTimeout, httpcore2.WriteError):
            if self._transport.is_closing():
                raise self._error or ConnectionResetError("the server closed the connection")
            self._transport.write(buffer)
            if self._writer is not None:
                async with asyncio.timeout(timeout):
                    await self._writer

    async def aclose(self) -> None:
        """At once: neither what was not sent nor the other side's goodbye is waited for."""
        self._transport.close()
        try:
            await asyncio.sleep(0)
        finally:
            self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        stream, starting = Stream(), asyncio.get_running_loop().start_tls
        with _mapped(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                transport = await starting(self._transport, stream, ssl_context, server_hostname=server_hostname)
            if transport is None:
                raise ConnectionResetError("the server closed the connection at once")
        stream.connection_made(transport)
        return stream

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            known = bool(self._unread) or self._ended or self._transport.is_closing()
            quiet = time.monotonic() - self._heard > _QUIET
            return known or (quiet and _is_readable(self._transport.get_extra_info("socket")))
        return self._transport.get_extra_info(_EXTRA_INFO.get(info, info))


def _is_readable(sock: Any) -> bool:
    """Whether the kernel has something of it that the event loop has not taken yet, such as its end."""
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


@contextmanager
def _mapped(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # as are those of TLS, and a time that is up; one with a number is the kernel's
        if isinstance(error, TimeoutError) and error.errno is None:
            raise timed_out(str(error)) from error
        raise failed(str(error)) from error
