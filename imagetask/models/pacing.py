"""How many calls at once, and how soon one after another: one pace for all callers of a backend in a process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_FIRST_PLACES = 4
_QUADRUPLE, _DOUBLE = 3.0, 1.0
_QUADRUPLE_UNTIL = 16
_CAREFUL, _MOST_CAREFUL = 4.0, 32.0


class Pace:
    """Hands out places for calls; lives on one event loop.

    The number of places starts at 4 and grows fourfold a round of answers, from 16 on twofold, until
    `max_concurrency`, or until the backend rejects calls. Then it falls to what the backend was seen to admit, at
    most by half a time, and grows by one in 4 rounds of answers. A further refusal at the level that was refused
    confirms it, and makes that twice as many rounds (up to 32); one below it came by chance, and makes it half as many.
    Once it is past that level, the limit was a passing one, and it doubles each round again. Only answers that come
    while all places are taken let it grow.

    requests_per_minute: calls are spaced evenly, 60 / requests_per_minute seconds apart.
    """

    def __init__(self, max_concurrency: int, requests_per_minute: float | None = None) -> None:
        self.max_concurrency = max_concurrency
        self.limit = float(min(max_concurrency, _FIRST_PLACES))
        self.in_flight = 0
        self.paused_until = 0.0
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_slot = 0.0
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tickets = 0
        self._slowed_at = 0
        self._cut_at = 0
        self._floor = 1.0
        self._refused_level: float | None = None
        self._care = _CAREFUL
        self._answered_since_cut = True
        self._stopped: Callable[[], BaseException] | None = None

    def change(self, max_concurrency: int, requests_per_minute: float | None = None) -> None:
        """Other limits from here on. More calls than they allow end as they would have, and none takes their place."""
        self.max_concurrency = max_concurrency
        self.limit = min(self.limit, float(max_concurrency))
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._hand_out()

    async def acquire(self, *, again: bool = False) -> int:
        """Waits for a place; gives the call's ticket, a number that grows with each call.

        again: a further attempt goes before first ones, so that what fails is known soon.
        Raises the error of `stop`, also where a place was given just before it.
        """
        if self._stopped:
            raise self._stopped()
        place: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if again else self._waiting.append)(place)
        self._hand_out()
        try:
            ticket = await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.release()
            raise
        if self._stopped:
            self.release()
            raise self._stopped()
        return ticket

    def check(self) -> None:
        """Raises the error of `stop`, once it was called."""
        if self._stopped:
            raise self._stopped()

    def unused(self) -> None:
        """Gives a place back for which no call was made: the next call need not wait for its turn after it."""
        self._next_slot -= self._interval
        self.release()

    def release(self) -> None:
        """Gives a place back, after a failure that says nothing about the load."""
        self.in_flight -= 1
        self._hand_out()

    def answered(self) -> None:
        """Gives a place back after a call that was answered: the number of places may grow."""
        self._answered_since_cut = True
        if self.is_full:
            self.grow()
        self.release()

    @property
    def is_full(self) -> bool:
        """Whether all places are taken, and there may be more."""
        return self.in_flight >= int(self.limit) < self.max_concurrency

    def grow(self) -> None:
        """More places, for an answer that came while all of them were taken."""
        self.limit = min(float(self.max_concurrency), self.limit + self._growth())
        self._hand_out()

    def rejected(self, ticket: int, wait: float) -> None:
        """Gives a place back after a call that was rejected (429): the number of places falls.

        Calls that were under way when the number fell say nothing new, and cut no further than what was admitted then.
        Rejected again without an answer between: all callers pause for `wait` seconds.
        """
        self.in_flight -= 1
        if ticket > self._cut_at:
            if self._cut_at and not self._answered_since_cut:
                self.pause(wait)
            self._begin_cut()
        self.limit = max(self._floor, min(self.limit, float(self.in_flight)))
        self._refused_level = self.limit + 1
        self._hand_out()

    def slow_down(self) -> None:
        """Halves the number of places, once for all calls that are under way: the backend shows signs of its load."""
        if self._tickets > self._slowed_at:
            self._slowed_at = self._tickets + self.in_flight
            self._refused_level = self.limit
            self.limit = max(1.0, self.limit / 2)

    def pause(self, seconds: float) -> None:
        """No new call by any caller for so long."""
        self.paused_until = max(self.paused_until, asyncio.get_running_loop().time() + seconds)

    def stop(self, error: Callable[[], BaseException]) -> None:
        """Everyone who waits for a place, now or later, gets the error."""
        self._stopped = error
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error())

    def _begin_cut(self) -> None:
        level = self._refused_level
        if level is None or self.limit > level + 1:
            self._care = _CAREFUL
        elif self.limit < level:
            self._care = max(self._care / 2, _CAREFUL)
        elif self._answered_since_cut:
            self._care = min(self._care * 2, _MOST_CAREFUL)
        self._cut_at = self._tickets
        self._floor = max(1.0, self.limit / 2)
        self._answered_since_cut = False

    def _growth(self) -> float:
        """How many places one answer adds."""
        level = self._refused_level
        if level is not None and self.limit > level + 1:
            level = self._refused_level = None
            self._care = _CAREFUL
        if level is None:
            return _QUADRUPLE if self.limit < _QUADRUPLE_UNTIL and not self._cut_at else _DOUBLE
        return 1.0 / (self.limit * self._care)

    def _hand_out(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self.in_flight < int(self.limit):
            now = loop.time()
            not_before = max(self.paused_until, self._next_slot)
            if now < not_before:
                self._look_again(loop, not_before)
                return
            place = self._waiting.popleft()
            if place.done():
                continue
            self._next_slot = max(self._next_slot, now) + self._interval
            self.in_flight += 1
            self._tickets += 1
            place.set_result(self._tickets)

    def _look_again(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._hand_out)
