"""Breakers: when so much fails that a run is better stopped than gone on with. Each tells the numbers that it used."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Literal

from imagetask.errors import ErrorKind, GenerationError, RunStopped
from imagetask.models.treatments import FIRST_ROWS, LEAST, NO_SUCCESS, TREATMENTS, WINDOW

Channel = Literal["call", "task"]
"""Of what the first outcomes are watched: calls, and the task's own code."""

_MENDED = "mend what it says, and run the same command again"
_ADVICE: Mapping[ErrorKind, str] = {
    "task": "mend the task, and run the same command again",
    "invalid_input": "look at the prompts and the parameters, and run the same command again",
    "blank_image": "look at the prompts and the parameters, and run the same command again",
    "rate_limited": "come back later, or ask the provider for a higher limit",
}


class Breakers:
    """Of one model in one run in a process; lives on the event loop.

    max_failed_share, max_refused_share: of the last 100 rows that were asked for, from 50 on; refused rows count for
    the second alone. proven: the model gave images to this dataset before, so that failing first rows say nothing.
    Each method takes what happened, and raises `RunStopped` where it is too much.
    """

    def __init__(self, max_failed_share: float = 0.5, max_refused_share: float = 0.5, *, proven: bool = False) -> None:
        self._shares = {"failed": max_failed_share, "refused": max_refused_share}
        known: list[ErrorKind | None] = [None] * (FIRST_ROWS if proven else 0)
        self._first: dict[Channel, list[ErrorKind | None]] = {"call": known, "task": known.copy()}
        self._window: deque[ErrorKind | None] = deque(maxlen=WINDOW)
        self._good_since: float | None = None
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

    def note_row(self, kind: ErrorKind | None, message: str | None) -> None:
        """Takes what became of a row that was asked for."""
        self.note_first("call", kind, message)
        self._window.append(kind)
        if kind is None or len(self._window) < LEAST:
            return
        refused = self._window.count("refused")
        failed = Counter(one for one in self._window if one not in (None, "refused"))
        self._check_share("refused", refused, "refused", message)
        if failed:
            self._check_share("failed", failed.total(), failed.most_common(1)[0][0] or kind, message)

    def _check_share(self, name: str, count: int, kind: ErrorKind, message: str | None) -> None:
        limit = self._shares[name]
        if count > limit * len(self._window):
            became = "were refused" if name == "refused" else "failed"
            raise RunStopped(
                kind,
                f"{count} of the last {len(self._window)} rows {became}, more than a share of {limit:g}; the last: "
                f"{message}; see what they have in common, or allow more with --max-{name}-share",
            )

    def note_image(self) -> None:
        """An image came."""
        self._good_since, self._troubles = time.monotonic(), 0

    def note_waiting(self, seconds: float) -> None:
        """The backend told to wait, or a model is loading: that time does not count as one without an image."""
        self._good_since = max(self._good_since or 0.0, time.monotonic() + seconds)

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
