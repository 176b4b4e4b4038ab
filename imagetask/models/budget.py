"""Budgets: how many images a dataset may cost, and how much money; reserved before each call, kept over runs."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from imagetask.crash_points import reach
from imagetask.errors import StorageError

_NANO = 1_000_000_000
"""Amounts are whole billionths of a USD, so that they add up exactly."""
_UNKNOWN = "?"
"""Stands in the ledger for an amount that is not known."""


class BudgetReached(Exception):
    """No further call may be made: with it, more than the budget might be spent."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Of one call. nano: billionths of a USD that it may cost; None where its price is not known."""

    nano: int | None

    @property
    def usd(self) -> float | None:
        return None if self.nano is None else self.nano / _NANO


class Spent(NamedTuple):
    """What a dataset cost: images that were or may have been paid for, USD, and images of unknown price among them."""

    images: int
    usd: float
    unpriced: int


class Budget:
    """What a dataset may cost, for all models of a run in a process; lives on one event loop.

    max_images: images that were, or may have been, paid for. max_cost: USD. None for no limit.
    ledger: a file of the dataset to which every amount is appended before and after its call, so that what earlier
    runs spent counts, killed ones too: what was reserved and never settled counts as spent. None keeps no account.
    Raises `StorageError` where the ledger cannot be read or written.
    """

    def __init__(
        self, *, max_images: int | None = None, max_cost: float | None = None, ledger: Path | None = None
    ) -> None:
        self.max_images = max_images
        self.max_cost = max_cost
        self._ledger = ledger
        self._most = None if max_cost is None else _nano(max_cost)
        self._images, self._spent, self._unpriced = (0, 0, 0) if ledger is None else _opened(ledger)
        self._reserved = 0
        self._changed = asyncio.Event()
        self.reached = False

    @property
    def images(self) -> int:
        """Images spent so far, by all runs, with what is reserved."""
        return self._images

    async def reserve(self, price: float | None) -> Reservation:
        """Takes the price of one image (USD) out of the budget, before its call; None where it is not known.

        Images that were paid for at an unknown price count with this one.
        Where what is left is reserved by other calls, it waits for them: they may fail, and cost nothing.
        Raises `BudgetReached`.
        """
        nano = None if price is None else _nano(price)
        while not self._fits(nano):
            if not self._reserved:
                self.reached = True
                raise BudgetReached
            self._changed.clear()
            await self._changed.wait()
        self._add(1, nano)
        self._reserved += 1
        return Reservation(nano)

    def settle(self, reservation: Reservation, usd: float | None) -> None:
        """An image came, or may have been made and lost: this is what it cost; None where that is not known."""
        nano = None if usd is None else _nano(usd)
        if nano is None or nano == reservation.nano:
            self._end()
        elif reservation.nano is None:
            self._end((-1, None), (1, nano))
        else:
            self._end((0, nano - reservation.nano))

    def release(self, reservation: Reservation) -> None:
        """No image was made."""
        self._end((-1, None if reservation.nano is None else -reservation.nano))

    def _end(self, *changes: tuple[int, int | None]) -> None:
        """Of a reservation; those who wait go on also where the ledger cannot be written."""
        self._reserved -= 1
        self._changed.set()
        for images, nano in changes:
            self._add(images, nano)

    def _fits(self, nano: int | None) -> bool:
        if self.max_images is not None and self._images >= self.max_images:
            return False
        return self._most is None or self._spent + (1 + self._unpriced) * (nano or 0) <= self._most

    def _add(self, images: int, nano: int | None) -> None:
        self._images += images
        self._spent += nano or 0
        self._unpriced += images if nano is None else 0
        if self._ledger is not None:
            amount = _UNKNOWN if nano is None else f"{Decimal(nano) / _NANO:f}"
            _append(self._ledger, f"{images} {amount}\n".encode())
            reach("budget: noted")


def spent(ledger: Path) -> Spent:
    """What a ledger counts. Raises `StorageError`."""
    images, nano, unpriced = _read(ledger)
    return Spent(images, nano / _NANO, unpriced)


def _nano(usd: float) -> int:
    return round(Decimal(repr(float(usd))) * _NANO)


def _append(ledger: Path, line: bytes) -> None:
    """One line in one write, so that a kill leaves it out rather than in half."""
    try:
        file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            written = os.write(file, line)
            if written != len(line):
                os.ftruncate(file, os.fstat(file).st_size - written)  # half a line would spoil the next one
                raise StorageError(f"could not write {ledger}: the disk is full")
        finally:
            os.close(file)
    except OSError as error:
        raise StorageError(f"could not write {ledger}: {error.strerror}") from error


def _opened(ledger: Path) -> tuple[int, int, int]:
    """What the ledger counts; half a line that a kill left is taken off, so that the next one starts on its own."""
    counted = _read(ledger)
    try:
        text = ledger.read_bytes()
        if not text.endswith(b"\n"):
            os.truncate(ledger, text.rfind(b"\n") + 1)
    except FileNotFoundError:
        return counted
    except OSError as error:
        raise StorageError(f"could not write {ledger}: {error.strerror}") from error
    return counted


def _read(ledger: Path) -> tuple[int, int, int]:
    try:
        text = ledger.read_bytes()
    except FileNotFoundError:
        return 0, 0, 0
    except OSError as error:
        raise StorageError(f"could not read {ledger}: {error.strerror}") from error
    images = nano = unpriced = 0
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        try:
            count, usd = line.decode().split()
            images += int(count)
            unpriced += int(count) if usd == _UNKNOWN else 0
            nano += 0 if usd == _UNKNOWN else round(Decimal(usd) * _NANO)
        except (ValueError, InvalidOperation) as error:
            raise StorageError(f"{ledger} is damaged: remove it, and what was spent so far counts no longer") from error
    return images, nano, unpriced
