"""The content of files, on disk under its SHA-256; what comes in is written as it comes, never held in memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.hub_server.refusals import Refused


class ObjectStore:
    """Objects in a folder, each under its SHA-256 as hex (its `oid`)."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        self._objects.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)

    def path(self, oid: str) -> Path:
        return self._objects / oid

    def has(self, oid: str) -> bool:
        return self.path(oid).exists()

    def add(self, content: bytes) -> str:
        """Stores content; gives its oid."""
        oid = hashlib.sha256(content).hexdigest()
        self.receive(oid, [content])
        return oid

    def receive(self, oid: str, pieces: Iterable[bytes]) -> int:
        """Stores what comes; gives its size (bytes). Refuses content of another SHA-256, of which nothing is kept."""
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with open(handle, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
                size = file.tell()
            self._keep(Path(name), oid, digest.hexdigest())
        finally:
            Path(name).unlink(missing_ok=True)
        return size

    def receive_part(self, oid: str, number: int, pieces: Iterable[bytes]) -> str:
        """Stores one part of an object, from 1; gives its ETag."""
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with open(handle, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            os.replace(name, self._part(oid, number))
        finally:
            Path(name).unlink(missing_ok=True)
        return digest.hexdigest()

    def complete(self, oid: str, parts: int) -> int:
        """Joins parts 1 to `parts` into the object; gives its size (bytes). Refuses as `receive`."""
        whole = self._part(oid, 1)
        missing = [number for number in range(1, parts + 1) if not self._part(oid, number).exists()]
        if missing or not parts:
            raise Refused(400, f"these parts are missing: {missing}")
        with whole.open("ab") as file:
            for number in range(2, parts + 1):
                with self._part(oid, number).open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)
                self._part(oid, number).unlink()
        size = whole.stat().st_size
        try:
            with whole.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            self._keep(whole, oid, found)
        finally:
            whole.unlink(missing_ok=True)
        return size

    def _part(self, oid: str, number: int) -> Path:
        return self._incoming / f"{oid}.{number}"

    def _keep(self, file: Path, oid: str, found: str) -> None:
        if found != oid:
            raise Refused(400, f"The content has the SHA-256 {found}, not {oid}")
        os.replace(file, self.path(oid))
