"""The ledger of a dataset: every amount that was reserved and spent, a line each, for all of its runs and processes."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from imagetask.crash_points import reach
from imagetask.errors import StorageError

NANO = 1_000_000_000
"""Amounts are whole billionths of a USD, so that they add up exactly."""
_UNKNOWN = "?"
"""Stands in the ledger for an amount that is not known."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
_PIECE = 1 << 20
"""The ledger is read in pieces of so many bytes: it may have millions of lines, nearly all of them alike."""


@dataclass(slots=True)
class Amounts:
    """images: that were, or may have been, paid for. nano: billionths of a USD. unpriced: images of unknown price."""

    images: int = 0
    nano: int = 0
    unpriced: int = 0

    def add(self, images: int, nano: int | None, times: int = 1) -> None:
        """nano: None where it is not known."""
        self.images += times * images
        self.nano += times * (nano or 0)
        self.unpriced += times * images if nano is None else 0


class Ledger:
    """A ledger that is kept; `amounts` is what it counts. Half a line that a kill left is taken off.

    Other processes may write it as well, on this machine or, through a file system that all see, on others: those of
    the same run, and workers that a killed run left. What they wrote is taken in where the ledger is held, and each
    line is written while it is held.
    Raises `StorageError` where it cannot be read or written, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.amounts = Amounts()
        self.size = 0
        self._path = path
        self._file: int | None = None
        with self.held():
            pass

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps others from writing it, with all that they wrote so far taken in."""
        if self._file is not None:
            yield
            return
        with _telling("write", self._path):
            self._file = _held(self._path)
        try:
            self._take_in(self._file)
            yield
        finally:
            os.close(self._file)
            self._file = None

    def add(self, images: int, nano: int | None) -> None:
        """Takes one line more; nano: billionths of a USD, None where it is not known."""
        amount = _UNKNOWN if nano is None else f"{Decimal(nano) / NANO:f}"
        line = f"{images} {amount}\n".encode()
        self.amounts.add(images, nano)
        with self.held(), _telling("write", self._path):
            assert self._file is not None
            _write(self._file, line, self._path)
            self.size += len(line)
        reach("budget: noted")

    def _take_in(self, file: int) -> None:
        """What others wrote since. Half a line at the end is of a process that died: this one holds the ledger."""
        with _telling("read", self._path):
            size = os.fstat(file).st_size
            if size < self.size:
                raise StorageError(f"{self._path} was removed or cut while a run went on: run the same command again")
            if size > self.size:
                self.size = _counted(file, self.size, self.amounts, self._path)
                if self.size < size:
                    os.ftruncate(file, self.size)


def read_amounts(path: Path, amounts: Amounts | None = None) -> int:
    """Adds what a ledger counts to `amounts`; gives the bytes of its whole lines, 0 where there is none.

    In constant memory. Raises `StorageError`.
    """
    amounts = Amounts() if amounts is None else amounts
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StorageError(f"could not read {path}: {error.strerror}") from error
    try:
        with _telling("read", path):
            return _counted(file, 0, amounts, path)
    finally:
        os.close(file)


def _counted(file: int, start: int, amounts: Amounts, path: Path) -> int:
    """Adds the whole lines from byte `start` on; gives where they end."""
    end, half = start, b""
    os.lseek(file, start, os.SEEK_SET)
    while piece := os.read(file, _PIECE):
        whole, newline, half = (half + piece).rpartition(b"\n")
        if newline:
            end += len(whole) + 1
            for line, times in Counter(whole.split(b"\n")).items():
                _add_line(line, times, amounts, path)
    return end


def _add_line(line: bytes, times: int, amounts: Amounts, path: Path) -> None:
    try:
        count, usd = line.decode().split()
        amounts.add(int(count), None if usd == _UNKNOWN else round(Decimal(usd) * NANO), times)
    except (ValueError, OverflowError, InvalidOperation) as error:
        raise StorageError(f"{path} is damaged: remove it, and what was spent so far counts no longer") from error


def _lock(file: int) -> None:
    """Where the system or the file system has no such lock, one process alone should write."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise


def _held(path: Path) -> int:
    """The file, opened and locked; the lock ends with the file's closing, and with the process."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        _lock(file)
    except BaseException:
        os.close(file)
        raise
    return file


def _write(file: int, line: bytes, path: Path) -> None:
    """One line in one write, so that a kill leaves it out rather than in half."""
    written = os.write(file, line)
    if written != len(line):
        os.ftruncate(file, os.fstat(file).st_size - written)  # half a line would spoil the next one
        raise StorageError(f"could not write {path}: the disk is full")


@contextmanager
def _telling(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"could not {doing} {path}: {error.strerror}") from error
