"""Connections straight on asyncio, beneath httpx2's client: real servers on loopback."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from imagetask.models import connections
from imagetask.models.connections import open_client
from imagetask.models.network import AsyncioBackend, Stream

HOST = "127.0.0.1"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer_always(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(ANSWER)


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Then closes the connection, which a client may not expect."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER)
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


def with_server(
    answering: Answering, work: Callable[[int], Awaitable[Any]], tls: ssl.SSLContext | None = None
) -> tuple[Any, int]:
    """What `work` gives, which is called with the server's port; and how many connections were opened."""
    opened = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        try:
            await answering(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def run() -> Any:
        server = await asyncio.start_server(counted, HOST, 0, ssl=tls)
        try:
            return await work(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    return asyncio.run(run()), opened


async def get_three(port: int, scheme: str = "http") -> list[tuple[str, type]]:
    """Body and kind of connection of three answers, one after the other."""
    found = []
    async with open_client(timeout=10) as client:
        for _ in range(3):
            answer = await client.get(f"{scheme}://{HOST}:{port}/")
            stream = answer.extensions["network_stream"]
            found.append((answer.text, type(getattr(stream, "_stream", stream))))
            await asyncio.sleep(0.2)
    return found


def test_requests_one_after_the_other_use_one_connection_of_ours() -> None:
    assert with_server(answer_always, get_three) == ([("hello", Stream)] * 3, 1)


def test_idle_connection_that_the_server_closed_is_not_used_again() -> None:
    assert with_server(answer_once, get_three) == ([("hello", Stream)] * 3, 3)


def test_connection_that_was_closed_while_the_loop_was_busy_is_not_used_again() -> None:
    def answer(listening: socket.socket) -> None:
        for _ in range(3):
            connection, _address = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(ANSWER)

    async def get(port: int) -> list[str]:
        async with open_client(timeout=10) as client:
            found = []
            for _ in range(3):
                found.append((await client.get(f"http://{HOST}:{port}/")).text)
                time.sleep(0.1)  # nothing else runs on the loop meanwhile
            return found

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        assert asyncio.run(get(listening.getsockname()[1])) == ["hello"] * 3
        thread.join()


def test_server_that_needs_no_proxy_is_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's embedded server is named so: calls would go through one pool, at twice the CPU of all of theirs."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", HOST)
    assert with_server(answer_always, get_three) == ([("hello", Stream)] * 3, 1)


def test_as_many_connections_as_requests_under_way_and_no_more() -> None:
    async def work(port: int) -> None:
        async with open_client(timeout=10) as client:
            for _ in range(5):
                await asyncio.gather(*(client.get(f"http://{HOST}:{port}/") for _ in range(20)))

    assert with_server(answer_always, work) == (None, 20)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server of this test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls_is_spoken_with_a_server_whose_certificate_is_trusted_and_no_other(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)

    async def get(port: int) -> list[tuple[str, type]]:
        return await get_three(port, "https")

    with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        with_server(answer_always, get, ours)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(connections, "_trust", lambda: trusting)
    assert with_server(answer_always, get, ours) == ([("hello", Stream)] * 3, 1)


def connected(answering: Answering, work: Callable[[Stream], Awaitable[Any]]) -> Any:
    """What `work` gives, which is called with a connection to a server."""

    async def run(port: int) -> Any:
        stream = await AsyncioBackend().connect_tcp(HOST, port, timeout=5)
        assert isinstance(stream, Stream)
        try:
            return await work(stream)
        finally:
            await stream.aclose()

    return with_server(answering, run)[0]


def test_server_that_sends_more_than_is_taken_has_to_wait() -> None:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(256):
            writer.write(bytes([number]) * 65536)
            await writer.drain()

    async def take(stream: Stream) -> None:
        await asyncio.sleep(0.3)
        assert stream._num_unread < 2**20, "of 16 MB"
        came = b""
        while piece := await stream.read(65536, timeout=5):
            came += piece
        assert came == b"".join(bytes([number]) * 65536 for number in range(256))

    connected(send, take)


def test_times_are_up_as_httpcore2_tells_them() -> None:
    async def read(stream: Stream) -> None:
        with pytest.raises(httpcore2.ReadTimeout):
            await stream.read(65536, timeout=0.05)

    async def write(stream: Stream) -> None:
        with pytest.raises(httpcore2.WriteTimeout):
            await stream.write(bytes(2**26), timeout=0.05)
        sock = stream.get_extra_info("socket")
        await stream.aclose()
        await asyncio.sleep(0.05)
        assert sock.fileno() == -1, "what was not sent holds it no longer"

    connected(say_nothing, read)
    connected(say_nothing, write)


def test_connection_that_breaks_or_is_not_made_is_told_as_httpcore2_does() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(b"half")
        await writer.drain()
        await reader.read(1)
        writer.transport.abort()

    async def read(stream: Stream) -> None:
        assert await stream.read(65536, timeout=5) == b"half"
        assert not stream.get_extra_info("is_readable")
        await stream.write(b"more than the server reads" * 100)
        with pytest.raises(httpcore2.ReadError):
            await stream.read(65536, timeout=5)
        assert stream.get_extra_info("is_readable")
        with pytest.raises(httpcore2.WriteError):
            await stream.write(b"x")

    connected(reset, read)
    with pytest.raises(httpcore2.ConnectError):
        asyncio.run(AsyncioBackend().connect_tcp(HOST, 9, timeout=5))
