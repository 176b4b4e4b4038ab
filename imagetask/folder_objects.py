"""Objects as files in a folder, each of them whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

DEBRIS = re.compile(r"#\d+$")
"""How the name of a file ends that is being written, or that a killed process left so. (As obstore's do, which wrote
folders before.)"""


class FolderObjects:
    """The objects of a store in a folder, by their path in it. Without obstore, which takes three times as long.

    Each method raises `OSError`; `FileNotFoundError` where there is no such object.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._root = str(folder)

    def get(self, path: str) -> bytes:
        with open(f"{self._root}/{path}", "rb") as file:
            return file.read()

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return os.stat(f"{self._root}/{path}").st_size

    def put(self, path: str, data: bytes) -> None:
        """Takes the place of what is there. Does not wait until the disk has it: a machine that dies may lose it."""
        target = f"{self._root}/{path}"
        half = f"{target}#{secrets.randbits(63)}"
        try:
            try:
                _write(half, data)
            except FileNotFoundError:  # the first object of its folder
                os.makedirs(os.path.dirname(target), exist_ok=True)
                _write(half, data)
            os.replace(half, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(half)
            raise

    def delete(self, path: str) -> None:
        os.unlink(f"{self._root}/{path}")


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
