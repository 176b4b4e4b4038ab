"""Budgets: how many images a dataset may cost, and how much money; reserved before each call, kept over runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from imagetask.models.ledger import NANO, Amounts, Ledger, read_amounts

_LOOK_AGAIN = 0.5
"""How long a call waits for what other processes have reserved before it looks again (seconds)."""


class BudgetReached(Exception):
    """No further call may be made: with it, more than the budget might be spent."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Of one call. nano: billionths of a USD that it may cost; None where its price is not known."""

    nano: int | None

    @property
    def usd(self) -> float | None:
        return None if self.nano is None else self.nano / NANO


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
    shared: other processes of the run spend of it at the same time, by the same ledger; `note_elsewhere` is called
    about once a second then.
    Raises `StorageError` where the ledger cannot be read or written.
    """

    def __init__(
        self,
        *,
        max_images: int | None = None,
        max_cost: float | None = None,
        ledger: Path | None = None,
        shared: bool = False,
    ) -> None:
        self.max_images = max_images
        self.max_cost = max_cost
        self._most = None if max_cost is None else _nano(max_cost)
        self._ledger = None if ledger is None else Ledger(ledger)
        self._amounts = Amounts() if self._ledger is None else self._ledger.amounts
        self._elsewhere = _Elsewhere() if shared else None
        self._reserved = 0
        self._changed = asyncio.Event()
        self._stopped: Callable[[], BaseException] | None = None
        self.reached = False

    @property
    def images(self) -> int:
        """Images spent so far, by all runs, with what is reserved."""
        return self._amounts.images

    @property
    def reserved(self) -> int:
        """Calls of this process that are under way."""
        return self._reserved

    async def reserve(self, price: float | None) -> Reservation:
        """Takes the price of one image (USD) out of the budget, before its call; None where it is not known.

        Images that were paid for at an unknown price count with this one.
        Where what is left is reserved by other calls, here or in other processes, it waits for them: they may fail, and
        cost nothing. Raises `BudgetReached`, and the error of `stop`.
        """
        nano = None if price is None else _nano(price)
        while not self._taken(nano):
            if not self._reserved and (self._elsewhere is None or self._elsewhere.settled(self._size)):
                self.reached = True
                raise BudgetReached
            await self._change()
            if self._stopped is not None:
                raise self._stopped()
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

    def stop(self, error: Callable[[], BaseException]) -> None:
        """Who waits for what others have reserved, now or later, gets the error. From any thread."""
        self._stopped = error

    def note_elsewhere(self, reserved: int) -> None:
        """How many calls other processes of the run have under way, as was just asked of them. From any thread."""
        assert self._elsewhere is not None
        self._elsewhere.note(reserved)

    def _taken(self, nano: int | None) -> bool:
        """Whether there was room, which is reserved then."""
        with nullcontext() if self._ledger is None else self._ledger.held():
            if not self._fits(nano):
                return False
            self._add(1, nano)
        self._reserved += 1
        return True

    @property
    def _size(self) -> int:
        return 0 if self._ledger is None else self._ledger.size

    async def _change(self) -> None:
        """Waits until a call of this process ends; what others do is looked at again after a while."""
        self._changed.clear()
        if self._elsewhere is None:
            await self._changed.wait()
            return
        try:
            await asyncio.wait_for(self._changed.wait(), _LOOK_AGAIN)
        except TimeoutError:
            return

    def _end(self, *changes: tuple[int, int | None]) -> None:
        """Of a reservation; those who wait go on also where the ledger cannot be written."""
        self._reserved -= 1
        self._changed.set()
        for images, nano in changes:
            self._add(images, nano)

    def _fits(self, nano: int | None) -> bool:
        known = self._amounts
        if self.max_images is not None and known.images >= self.max_images:
            return False
        return self._most is None or known.nano + (1 + known.unpriced) * (nano or 0) <= self._most

    def _add(self, images: int, nano: int | None) -> None:
        if self._ledger is not None:
            self._ledger.add(images, nano)
        else:
            self._amounts.add(images, nano)


class _Elsewhere:
    """Whether other processes have calls under way that may yet be given back.

    They tell how many a moment ago: what is noted was asked one round before, and what was asked in a round that was
    under way then may be as old. So they have none for good where three notes say so, and nobody wrote into the ledger
    meanwhile.
    """

    def __init__(self) -> None:
        self._notes, self._reserved = 0, 0
        self._size = -1
        self._since = 0

    def note(self, reserved: int) -> None:
        if reserved:
            self._size = -1
        self._reserved = reserved
        self._notes += 1

    def settled(self, size: int) -> bool:
        """size: bytes of the ledger, as just read."""
        if size != self._size or self._reserved:
            self._size, self._since = size, self._notes
            return False
        return self._notes >= self._since + 3


def spent(ledger: Path) -> Spent:
    """What a ledger counts. Raises `StorageError`."""
    amounts = Amounts()
    read_amounts(ledger, amounts)
    return Spent(amounts.images, amounts.nano / NANO, amounts.unpriced)


def _nano(usd: float) -> int:
    return round(Decimal(repr(float(usd))) * NANO)
