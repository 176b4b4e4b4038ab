"""The little of HTTP/1.1 that a model server needs: Content-Length, kept connections, and ways to break."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, cast
from urllib.parse import unquote

HOST = "127.0.0.1"
BACKLOG = 2048
_DROPS = 20

Ending = Literal["keep", "reset", "hang"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower case, the path is decoded and without its query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: the body in pieces, so that what is shared between answers is never copied ahead of time.

    cut: bytes of the body that are sent, all where None. ending: what becomes of the connection after these; a
    connection that is reset with `cut` 0 has not even sent a status line. over: seconds over which the body drips.
    """

    status: int = 200
    body: Sequence[bytes] = ()
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    ending: Ending = "keep"
    over: float = 0.0


Send = Callable[[Answer], Awaitable[None]]
"""Sends an answer; returns when the kernel has every byte of it, and is cancelled where the client goes away."""

Handler = Callable[[Request, Send], Awaitable[None]]


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, [json.dumps(content).encode()], headers=headers or {})


class HttpConnection(asyncio.Protocol):
    """One connection. Requests on it are served one after the other, each in a task that ends with the connection."""

    def __init__(self, handler: Handler, connections: set[HttpConnection]) -> None:
        self._handler = handler
        self._connections = connections
        self._received = bytearray()
        self._serving: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._serving is not None:
            self._serving.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._serve_next()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def abort(self) -> None:
        """Closes the connection at once, with a reset."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _serve_next(self) -> None:
        if self._serving is None and (request := self._take_request()) is not None:
            self._serving = asyncio.get_running_loop().create_task(self._handle(request))
            self._serving.add_done_callback(self._served)

    async def _handle(self, request: Request) -> None:
        await self._handler(request, self._send)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving = None
        if task.cancelled():
            return
        if task.exception() is not None:
            self.abort()  # the loop's exception handler has the traceback
            task.get_loop().call_exception_handler({"message": "model server", "exception": task.exception()})
            return
        self._serve_next()

    def _take_request(self) -> Request | None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._received[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body_end = end + 4 + int(headers.get("content-length", "0"))
        if len(self._received) < body_end:
            return None
        body = bytes(self._received[end + 4 : body_end])
        del self._received[:body_end]
        method, target, _ = first.split(" ", 2)
        path, _, query = target.partition("?")
        return Request(method, unquote(path), query, headers, body)

    async def _send(self, answer: Answer) -> None:
        if answer.over > 0:
            await self._drip(answer)
        elif answer.cut != 0:
            self._write(_head(answer), *_body(answer))
            if self._drained is not None:
                await self._drained
        if answer.ending == "reset":
            if answer.cut:
                await asyncio.sleep(0.05)  # a reset at once would overtake what was sent
            self.abort()
        elif answer.ending == "hang":
            await asyncio.get_running_loop().create_future()

    async def _drip(self, answer: Answer) -> None:
        """Sends the body in 20 drops, the last of them at the end of the time."""
        body = b"".join(_body(answer))
        size = -(-len(body) // _DROPS)
        self._write(_head(answer))
        for start in range(0, len(body), size or 1):
            await asyncio.sleep(answer.over / _DROPS)
            self._write(body[start : start + size])

    def _write(self, *pieces: bytes) -> None:
        self._transport.write(b"".join(pieces))


def _head(answer: Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {_reason(answer.status)}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {sum(map(len, answer.body))}",
        *(f"{name}: {value}" for name, value in answer.headers.items()),
    ]
    return "\r\n".join((*lines, "\r\n")).encode("latin-1")


def _body(answer: Answer) -> Sequence[bytes]:
    return answer.body if answer.cut is None else [b"".join(answer.body)[: answer.cut]]


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
