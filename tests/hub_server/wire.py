"""HTTP/1.1 for the Hub's two origins: kept connections, bodies that are read and sent in pieces, and ways to break."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

from tests.hub_server.refusals import Refused

HOST = "127.0.0.1"
_PIECE = 1 << 20
_SECONDS_TO_CLOSE = 10


class Body:
    """The body of a request, which can be read once."""

    def __init__(self, source: BinaryIO, headers: Mapping[str, str]) -> None:
        self._source = source
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self.size = int(headers.get("Content-Length") or 0)
        self._left = self.size

    def pieces(self, at_most: int | None = None) -> Iterator[bytes]:
        """What is left of it, in pieces. Raises `ConnectionError` where the client goes away before its end.

        at_most: bytes, of a body whose size was told.
        """
        if self._chunked:
            yield from self._chunks()
        until = 0 if at_most is None else max(self._left - at_most, 0)
        while self._left > until:
            piece = self._source.read(min(_PIECE, self._left - until))
            if not piece:
                raise ConnectionAbortedError("the client went away")
            self._left -= len(piece)
            yield piece

    def read(self) -> bytes:
        return b"".join(self.pieces())

    def json(self) -> dict[str, Any]:
        """Its JSON object; refuses anything else."""
        try:
            content = json.loads(self.read() or b"{}")
        except ValueError as error:
            raise Refused(400, f"The body is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise Refused(400, "The body is no JSON object")
        return content

    def drop(self, at_most: int | None = None) -> None:
        """Reads it, or so many bytes of it, and keeps nothing."""
        for _ in self.pieces(at_most):
            pass

    def _chunks(self) -> Iterator[bytes]:
        self._chunked = False
        while size := int(self._line().partition(b";")[0], 16):
            self._left = size
            yield from self.pieces()
            self._line()
        while self._line() not in (b"\r\n", b"\n"):
            pass

    def _line(self) -> bytes:
        line = self._source.readline(_PIECE)
        if not line:
            raise ConnectionAbortedError("the client went away")
        return line


@dataclass(slots=True)
class Request:
    """One request. path: as it was sent, so that quoted slashes can be told. names: what the route took from it."""

    origin: str
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Body
    names: dict[str, str] = field(default_factory=dict)

    def asked(self, name: str, otherwise: str = "") -> str:
        """A value of the query."""
        return self.query.get(name, [otherwise])[-1]

    def wants(self, name: str) -> bool:
        """A switch of the query."""
        return self.asked(name).lower() in ("1", "true")


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file, from `start` on."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent. cut: only half of the body is, then the connection closes."""

    status: int = 200
    body: bytes | Part = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False

    @property
    def size(self) -> int:
        return self.body.size if isinstance(self.body, Part) else len(self.body)


class Lost(Exception):
    """The connection is to be closed, and nothing sent."""


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


Respond = Callable[[Request], Answer]


class Origin(ThreadingHTTPServer):
    """One origin, served by a thread for each connection. name: goes into every request."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, name: str, port: int, respond: Respond) -> None:
        super().__init__((HOST, port), _Connection)
        self.name = name
        self.respond = respond
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name=f"hub-{name}", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Closes the port and every connection."""
        self.shutdown()
        self._thread.join(_SECONDS_TO_CLOSE)
        self.server_close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # its client went away first
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, _SECONDS_TO_CLOSE)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._open.discard(request)
            super().shutdown_request(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints what went wrong, but for a connection that broke."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        origin = cast(Origin, self.server)
        target = urlsplit(self.path)
        headers = cast(Mapping[str, str], self.headers)
        body = Body(cast(BinaryIO, self.rfile), headers)
        query = parse_qs(target.query, keep_blank_values=True)
        try:
            answer = origin.respond(Request(origin.name, self.command, target.path, query, headers, body))
            self._send(answer)
        except (Lost, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.size))
        self.end_headers()
        size = answer.size // 2 if answer.cut else answer.size
        if self.command == "HEAD" or not size:
            pass
        elif isinstance(answer.body, Part):
            with answer.body.path.open("rb") as file:
                self.connection.sendfile(file, answer.body.start, size)
        else:
            self.wfile.write(answer.body[:size])
        if answer.cut:
            raise Lost

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""
