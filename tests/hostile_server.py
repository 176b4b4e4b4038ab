"""A server that answers as no server should: without end, far too much, packed, or with a way somewhere else."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

MEGABYTE = bytes(1_000_000)
HEADER_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; the path is as it was sent, header names are lower case."""

    path: str
    headers: Mapping[str, str]


Parts = Callable[[], Iterator[bytes]]


class HostileServer:
    """Answers every request by the route whose name ends its path; to a proxy's request as to its own.

    sent: bytes of bodies that clients took, until they went away.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.sent = 0
        self._routes: dict[str, Parts] = {}
        self._server = _Server(("0.0.0.0", 0), _Connection)
        self._server.hostile = self

    def __enter__(self) -> HostileServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def route(self, path: str, parts: Parts) -> str:
        """Takes what to send for a path, the head first; gives the URL."""
        self._routes[path] = parts
        return self.url + path

    def answer(self, path: str, body: bytes, kind: str = "application/json", status: int = 200, **more: str) -> str:
        """One whole answer. more: headers, with `_` for `-`."""
        headers = {"content-type": kind, "content-length": str(len(body))}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return self.route(path, lambda: iter([head(status, headers), body]))

    def links(self, path: str, url: str) -> str:
        """An answer of OpenAI's wire whose picture lies at `url`."""
        return self.answer(path, json.dumps({"data": [{"url": url}]}).encode())

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def parts(self, path: str) -> Iterator[bytes]:
        name = next((name for name in self._routes if path.partition("?")[0].endswith(name)), None)
        return self._routes[name]() if name else iter([head(404, {"content-length": "0"})])


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    hostile: HostileServer


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        try:
            while self._one():
                pass
        except OSError:
            return  # the client had enough

    def _one(self) -> bool:
        line = self.rfile.readline().decode("latin-1").split()
        if len(line) < 2:
            return False
        headers: dict[str, str] = {}
        while text := self.rfile.readline().decode("latin-1").strip():
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        self.rfile.read(int(headers.get("content-length", 0)))
        self.server.hostile.asked.append(Asked(line[1], headers))
        for number, part in enumerate(self.server.hostile.parts(line[1])):
            self.wfile.write(part)
            self.server.hostile.sent += len(part) if number else 0
        return True


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {status} Any", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + HEADER_END


def chunked(parts: Iterator[bytes], **more: str) -> Iterator[bytes]:
    """An answer in chunks. more: headers, with `_` for `-`."""
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    yield head(200, headers | {name.replace("_", "-"): value for name, value in more.items()})
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def endless() -> Iterator[bytes]:
    while True:
        yield MEGABYTE


def drip() -> Iterator[bytes]:
    while True:
        time.sleep(0.05)
        yield b" "


def packed(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The parts as gzip."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    for part in parts:
        if piece := packer.compress(part):
            yield piece
    yield packer.flush()


def zeros(gigabytes: int) -> Iterator[bytes]:
    for _ in range(1000 * gigabytes):
        yield MEGABYTE


def picture_answer(picture: bytes) -> bytes:
    """A good answer of OpenAI's wire."""
    content: dict[str, Any] = {"data": [{"b64_json": base64.b64encode(picture).decode()}]}
    return json.dumps(content).encode()
