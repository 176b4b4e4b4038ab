"""Bodies of answers, cut off while they are read: no answer fills the memory, and none goes on for ever."""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator

import httpx2

from imagetask.errors import GenerationError

MAX_IMAGE_BYTES = 100_000_000
"""The largest encoded image that is taken from a backend (bytes)."""

MAX_ANSWER_BYTES = 140_000_000
"""The largest answer in JSON (bytes): an image of `MAX_IMAGE_BYTES` as base64, and what stands around it."""

MAX_ERROR_BYTES = 1_000_000
"""So much is read of an answer that is an error or a redirect; what comes after it is left (bytes)."""

ACCEPTED_ENCODING = "gzip"
"""The one content encoding that is asked for and read; an answer in another is taken as the bytes it is."""

_PIECE = 1 << 20


class Body:
    """What has come of one body. The limit is on the bytes as they come and on the bytes they are unpacked to.

    deadline: when the body must be there, by `time.monotonic`. Raises `GenerationError` of kind "corrupt_image" where
    the body is over its limit or is no gzip, "timeout" where it is not there in time. An error's body is cut instead.
    """

    def __init__(self, response: httpx2.Response, deadline: float) -> None:
        self.full = False
        self._is_error = response.status_code >= 300
        self._limit = _limit_of(response)
        self._deadline = deadline
        self._came = self._unpacked = 0
        self.is_packed = response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip")
        self._unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if self.is_packed else None
        told = response.headers.get("content-length", "")
        if not self._is_error and told.isdecimal() and int(told) > self._limit:
            raise self._too_large()

    def count(self, part: bytes) -> None:
        """Takes a part as it came. Of a body that is not packed this is all that there is to do."""
        self._came += len(part)
        if time.monotonic() > self._deadline:
            raise GenerationError("timeout", "the answer did not end in time")
        if self._came > self._limit:
            self._over_the_limit()

    def unpacked(self, part: bytes) -> Iterator[bytes]:
        """What is in a part that was counted, in pieces of at most 1 MiB."""
        for piece in self._pieces(part):
            self._unpacked += len(piece)
            if self._unpacked > self._limit:
                self._over_the_limit()
            yield piece
            if self.full:
                return

    def _over_the_limit(self) -> None:
        if not self._is_error:
            raise self._too_large()
        self.full = True

    def end(self) -> None:
        """Raises `GenerationError` where the body ended before what was packed in it did."""
        if self._unpack is not None and self._came and not self._unpack.eof and not self._is_error:
            raise GenerationError("corrupt_image", "the answer was cut short: its gzip encoding does not end")

    def _pieces(self, part: bytes) -> Iterator[bytes]:
        """What follows on the end of the packed bytes is left: zlib would gather it."""
        assert self._unpack is not None
        if self._unpack.eof:
            return
        try:
            piece = self._unpack.decompress(part, _PIECE)
            while piece:
                yield piece
                piece = self._unpack.decompress(self._unpack.unconsumed_tail, _PIECE)
        except zlib.error as error:
            if not self._is_error:
                raise GenerationError("corrupt_image", "the answer says that it is gzip, and is not") from error

    def _too_large(self) -> GenerationError:
        return GenerationError("corrupt_image", f"the answer is larger than the {self._limit // 10**6} MB allowed")


class BoundedAsyncStream(httpx2.AsyncByteStream):
    """A body that is read by the rules of `Body`."""

    def __init__(self, stream: httpx2.AsyncByteStream, body: Body) -> None:
        self._stream = stream
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, parts = self._body, aiter(self._stream)
        try:
            async for part in parts:
                body.count(part)
                if not body.is_packed:
                    yield part
                else:
                    for piece in body.unpacked(part):
                        yield piece
                if body.full:
                    return
            body.end()
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()

    async def aclose(self) -> None:
        await self._stream.aclose()


class BoundedStream(httpx2.SyncByteStream):
    """As `BoundedAsyncStream`, for clients that block."""

    def __init__(self, stream: httpx2.SyncByteStream, body: Body) -> None:
        self._stream = stream
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        body, parts = self._body, iter(self._stream)
        try:
            for part in parts:
                body.count(part)
                yield from body.unpacked(part) if body.is_packed else (part,)
                if body.full:
                    return
            body.end()
        finally:
            if isinstance(parts, Generator):
                parts.close()

    def close(self) -> None:
        self._stream.close()


def bound(response: httpx2.Response, deadline: float) -> None:
    """Puts the rules of `Body` around the body of an answer that was not read yet."""
    body = Body(response, deadline)
    if "content-encoding" in response.headers:
        del response.headers["content-encoding"]
    stream = response.stream
    if isinstance(stream, httpx2.AsyncByteStream):
        response.stream = BoundedAsyncStream(stream, body)
    elif isinstance(stream, httpx2.SyncByteStream):
        response.stream = BoundedStream(stream, body)


def _limit_of(response: httpx2.Response) -> int:
    if response.status_code >= 300:
        return MAX_ERROR_BYTES
    return MAX_ANSWER_BYTES if "json" in response.headers.get("content-type", "") else MAX_IMAGE_BYTES
