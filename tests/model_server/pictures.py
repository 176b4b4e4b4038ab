"""Pictures by the thousand: no two have the same bytes, and equal calls always give equal bytes.

A small picture is painted from the hash of what it belongs to. A large one is painted and encoded once for all calls,
and made unique by a comment inside the file; its shared part is kept as base64 too. So an answer of 100 KiB costs
little more than its hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageChops

ImageFormat = Literal["png", "jpeg", "webp"]
FORMATS: tuple[ImageFormat, ...] = ("png", "jpeg", "webp")

_COMMENT_BYTES = 240
_PAINTED_EACH_TIME = 128 * 128
_MAX_SIDE = 4096
_NOISE = (255, 180, 128, 90, 64, 45, 32, 22, 16, 11, 8, 5, 3, 0)


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded picture in two pieces: the first is its own, the second may be shared with others."""

    format: ImageFormat
    head: bytes
    tail: bytes
    tail_base64: bytes

    @property
    def data(self) -> bytes:
        return self.head + self.tail

    @property
    def base64(self) -> tuple[bytes, bytes]:
        """Two pieces of base64 text that make one when put together: the head's length is a multiple of 3."""
        return base64.b64encode(self.head), self.tail_base64

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(self.head)
        digest.update(self.tail)
        return digest.hexdigest()


class PictureMaker:
    """Makes pictures.

    size: px, where a call does not ask for one. kib: what every file should weigh (KiB); None for as small as it gets.
    """

    def __init__(self, size: tuple[int, int], kib: int | None) -> None:
        self.size = size
        self.kib = kib

    def make(self, format: ImageFormat, size: tuple[int, int] | None, identity: tuple[object, ...]) -> Picture:
        """The picture of what `identity` names: its parts are JSON-able, and a change in any changes the bytes."""
        width, height = size if size and all(0 < side <= _MAX_SIDE for side in size) else self.size
        text = json.dumps(identity)
        digest = hashlib.blake2b(text.encode(), digest_size=48).digest()
        if self.kib is None and width * height <= _PAINTED_EACH_TIME:
            stem = _Stem(format, _encode(_blocks(digest, width, height), format), None)
        else:
            stem = _shared_stem(format, width, height, self.kib)
        return stem.picture(f"{digest.hex()} {text}")

    def blank(self, format: ImageFormat, size: tuple[int, int] | None) -> Picture:
        """All black: the same bytes each time."""
        return _Stem(format, _encode(Image.new("RGB", size or self.size), format), None).picture("")


class _Stem:
    """An encoded picture, cut where a comment goes in."""

    def __init__(self, format: ImageFormat, encoded: bytes, kib: int | None) -> None:
        self._format = format
        at = {"png": 33, "jpeg": 4 + int.from_bytes(encoded[4:6]), "webp": 30}[format]
        self._start, tail = encoded[:at], encoded[at:]
        missing = (kib or 0) * 1024 - len(encoded) - _COMMENT_BYTES
        while missing > 64:
            chunk = _comment(format, b" " * (min(missing, 60_000) & ~1))
            tail = chunk + tail
            missing -= len(chunk)
        self._tail = tail
        self._comment_bytes = next(
            size
            for size in range(_COMMENT_BYTES, _COMMENT_BYTES + 6, 2)
            if (at + len(_comment(format, b"x" * size))) % 3 == 0
        )
        if format == "webp":
            weight = at + len(_comment(format, b"x" * self._comment_bytes)) + len(tail) - 8
            self._start = self._start[:4] + struct.pack("<I", weight) + self._start[8:]
        self._tail_base64 = base64.b64encode(tail)

    def picture(self, comment: str) -> Picture:
        text = comment.encode("ascii")[: self._comment_bytes].ljust(self._comment_bytes)
        return Picture(self._format, self._start + _comment(self._format, text), self._tail, self._tail_base64)


@lru_cache(maxsize=64)
def _shared_stem(format: ImageFormat, width: int, height: int, kib: int | None) -> _Stem:
    picture = _blocks(hashlib.blake2b(b"shared", digest_size=48).digest(), width, height)
    if kib is None:
        return _Stem(format, _encode(picture, format), None)
    noise = Image.frombytes("RGB", (width, height), random.Random(0).randbytes(width * height * 3))
    for strength in _NOISE:
        dimmed = noise.point([value * strength // 255 for value in range(256)] * 3)
        encoded = _encode(ImageChops.add(picture, dimmed), format)
        if len(encoded) + 2 * _COMMENT_BYTES <= kib * 1024:
            break
    return _Stem(format, encoded, kib)


def _blocks(digest: bytes, width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (4, 4), digest).resize((width, height), Image.Resampling.NEAREST)


def _encode(picture: Image.Image, format: ImageFormat) -> bytes:
    buffer = io.BytesIO()
    if format == "png":
        picture.save(buffer, "PNG", compress_level=1)
    elif format == "jpeg":
        picture.save(buffer, "JPEG", quality=90)
    else:
        picture.save(buffer, "WEBP", quality=80, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")  # extended layout
    return buffer.getvalue()


def _comment(format: ImageFormat, text: bytes) -> bytes:
    if format == "jpeg":
        return b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
    if format == "webp":
        return b"note" + struct.pack("<I", len(text)) + text
    chunk = b"tEXtComment\0" + text
    return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
