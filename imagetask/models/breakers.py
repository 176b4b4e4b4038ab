"""Breakers: when so much fails that a run is better stopped than gone on with. Each tells the numbers that it used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from imagetask.errors import ErrorKind, GenerationError, RunStopped
from imagetask.models.treatments import FIRST_ROWS, LEAST, LONGEST_WAIT, NO_SUCCESS, TREATMENTS, WINDOW

Channel = Literal["call", "task"]
"""Of what the first outcomes are watched: calls, and the task's own code."""

_MENDED = "mend what it says, and run the same command again"
_ADVICE: Mapping[ErrorKind, str] = {
    "task": "mend the task, and run the same command again",
    "invalid_input": "look at the prompts and the parameters, and run the same command again",
    "blank_image": "look at the prompts and the parameters, and run the same command again",
    "rate_limited": "come back later, or ask the provider for a higher limit",
}


_BLOCKS = 1_000
"""So many windows are remembered: a row that fails later than that counts no more."""


class Breakers:
    """Of one model in one run in a process; lives on the event loop.

    max_failed_share, max_refused_share: of 100 rows that started one after another, from 50 on; refused rows count for
    the second alone. proven: the model gave images to this dataset before, so that failing first rows say nothing.
    Each method takes what happened, and raises `RunStopped` where it is too much.
    """

    def __init__(self, max_failed_share: float = 0.5, max_refused_share: float = 0.5, *, proven: bool = False) -> None:
        self.max_failed_share = max_failed_share
        self.max_refused_share = max_refused_share
        known: list[ErrorKind | None] = [None] * (FIRST_ROWS if proven else 0)
        self._first: dict[Channel, list[ErrorKind | None]] = {"call": known, "task": known.copy()}
        self._started = 0
        self._failed: dict[int, Counter[ErrorKind]] = {}
        self._good_since: float | None = None
        self._told_since: float | None = None
        self._troubles = 0

    def started(self, channel: Channel) -> bool:
        """Whether the outcomes of enough first rows are known."""
        return len(self._first[channel]) >= FIRST_ROWS

    def note_first(self, channel: Channel, kind: ErrorKind | None, message: str | None) -> None:
        """Takes the outcome of one of the first rows: they must not all fail alike."""
        if self.started(channel):
            return
        first = self._first[channel]
        first.append(kind)
        if kind is not None and TREATMENTS[kind].stops_at_start and first == [kind] * FIRST_ROWS:
            advice = _ADVICE.get(kind, _MENDED)
            raise RunStopped(kind, f"the first {FIRST_ROWS} rows all failed alike: {message}; {advice}")

    def start_row(self) -> int:
        """Takes that a row is asked for; gives its number."""
        self._started += 1
        return self._started - 1

    def note_row(self, number: int, kind: ErrorKind | None, message: str | None) -> None:
        """Takes what became of a row that was asked for, and had not failed in an earlier run.

        Rows are counted in the order in which they started: those that fail end last, after all of their attempts.
        """
        self.note_first("call", kind, message)
        if kind is None:
            return
        block = number // WINDOW
        kinds = self._failed.setdefault(block, Counter())
        kinds[kind] += 1
        started = min(self._started - block * WINDOW, WINDOW)
        if started >= LEAST:
            self._check_shares(kinds, started, message)
        for old in [one for one in self._failed if one < self._started // WINDOW - _BLOCKS]:
            del self._failed[old]

    def _check_shares(self, kinds: Counter[ErrorKind], started: int, message: str | None) -> None:
        refused = kinds["refused"]
        failed = Counter({kind: count for kind, count in kinds.items() if kind != "refused"})
        if refused > self.max_refused_share * started:
            raise RunStopped("refused", _too_many(refused, started, "were refused", "max-refused-share", message))
        if failed.total() > self.max_failed_share * started:
            kind = failed.most_common(1)[0][0]
            raise RunStopped(kind, _too_many(failed.total(), started, "failed", "max-failed-share", message))

    def note_image(self) -> None:
        """An image came."""
        self._good_since, self._told_since, self._troubles = time.monotonic(), None, 0

    def note_waiting(self, seconds: float) -> None:
        """The backend told to wait, or a model is loading: up to 15 minutes of that do not count."""
        now = time.monotonic()
        self._told_since = now if self._told_since is None else self._told_since
        self._good_since = max(self._good_since or 0.0, min(now + seconds, self._told_since + LONGEST_WAIT))

    def note_trouble(self, error: GenerationError) -> None:
        """A call brought no image."""
        now = time.monotonic()
        self._good_since = now if self._good_since is None else self._good_since
        self._troubles += 1
        if self._troubles >= FIRST_ROWS and now - self._good_since > NO_SUCCESS:
            raise RunStopped(
                error.kind,
                f"no image came for {(now - self._good_since) / 60:.0f} minutes, while {self._troubles} calls failed, "
                f"the last with: {error.message}; {_ADVICE.get(error.kind, _MENDED)}",
            )


def _too_many(count: int, rows: int, became: str, option: str, message: str | None) -> str:
    return (
        f"{count} of {rows} rows in a row {became}, the last with: {message}; see what they have in common, or allow a "
        f"larger share with --{option}"
    )
