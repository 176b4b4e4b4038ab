"""How far a run is: counted while it goes on, for whoever watches from this process."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from imagetask.models.base import Generation
from imagetask.models.tally import NEWEST
from imagetask.runs import Counts

from .estimate import Estimate
from .models_in_use import tallies

RECENT = 60.0
"""The speed just now is that of so many last seconds."""

_MOST_MOMENTS = 256


@dataclass(frozen=True, slots=True)
class _Moment:
    """asked, new: answered calls' generations, and images among them, up to `time` (time.monotonic())."""

    time: float
    asked: int
    new: int


@dataclass(slots=True)
class Progress:
    """Generations of a run: how many there are to be, and what became of them so far.

    estimate: what was to be asked for, at its start. chunk_seconds, counts: what all chunks took and came to, once they
    are done. cancelled: by a person, on the server.
    cached: generations of chunks that were finished before this run; cached_images: those of them that have one;
    cached_failed: the failed ones, by kind.
    """

    run: str
    total: int
    started: float = field(default_factory=time.monotonic)
    chunk_seconds: float | None = None
    counts: Counts | None = None
    estimate: Estimate | None = None
    cancelled: bool = False
    cached: int = 0
    cached_images: int = 0
    cached_failed: Counter[str] = field(default_factory=Counter)
    _moments: deque[_Moment] = field(default_factory=lambda: deque(maxlen=_MOST_MOMENTS))

    def add_cached(self, manifest: Mapping[str, Any]) -> None:
        """Takes a chunk that was finished before this run."""
        self.cached += manifest["generations"]
        self.cached_images += Counts.of([manifest]).done
        self.cached_failed.update(manifest["failed"])

    def end_chunks(self, counts: Counts) -> Counts:
        """All chunks are done; what is left is the dataset. Gives the counts, with `reused` as in this run.

        counts: of the parts, each of which remembers what was reused when it was written.
        """
        self.chunk_seconds = time.monotonic() - self.started
        self.counts = replace(counts, reused=max(0, counts.done - self.new_images))
        return self.counts

    def note_moment(self, now: float | None = None) -> None:
        """Takes how far the run is just now: `speed` and `time_left` come from these moments, one each second or so.

        now: as by time.monotonic().
        """
        now = time.monotonic() if now is None else now
        while len(self._moments) > 1 and self._moments[1].time <= now - RECENT:
            self._moments.popleft()
        self._moments.append(_Moment(now, self.asked, self.new_images))

    @property
    def finished(self) -> int:
        return self.cached + sum(tally.done + tally.pending + tally.failed.total() for tally in tallies(self.run))

    @property
    def asked(self) -> int:
        """Generations that this run asked for and knows the end of, images and failures."""
        return sum(tally.new + tally.failed.total() for tally in tallies(self.run))

    @property
    def images(self) -> int:
        """Images so far, of this run and of earlier ones."""
        return self.cached_images + sum(tally.done for tally in tallies(self.run))

    @property
    def new_images(self) -> int:
        """Images that were asked for and came, in this run."""
        return sum(tally.new for tally in tallies(self.run))

    @property
    def failed(self) -> Counter[str]:
        return sum((tally.failed.copy() for tally in tallies(self.run)), self.cached_failed.copy())

    @property
    def examples(self) -> dict[str, list[Generation]]:
        """Kind of failure → the first generations of this run that failed so, a few of each model."""
        found: dict[str, list[Generation]] = {}
        for tally in tallies(self.run):
            for kind, generations in tally.examples.copy().items():
                found.setdefault(kind, []).extend(generations.copy())
        return found

    @property
    def calls(self) -> int:
        return sum(tally.calls for tally in tallies(self.run))

    @property
    def calls_with_image(self) -> int:
        return sum(tally.came for tally in tallies(self.run))

    @property
    def cost(self) -> float:
        """USD of the images that came in this run and have a price."""
        return sum(tally.cost for tally in tallies(self.run))

    @property
    def unpriced(self) -> int:
        """Images that came in this run and have no price."""
        return sum(tally.unpriced for tally in tallies(self.run))

    @property
    def latencies(self) -> list[float]:
        """Seconds of the calls that brought an image, of each model the last 10,000."""
        return [seconds for tally in tallies(self.run) for seconds in tally.latencies.copy()]

    @property
    def speed(self) -> float | None:
        """New images a minute just now, or None where it is too early to tell."""
        return self._rate("new")

    @property
    def mean_speed(self) -> float:
        """New images a minute over the whole run, without the making of the dataset."""
        return 60 * self.new_images / max(self.chunk_seconds or time.monotonic() - self.started, 0.001)

    @property
    def time_left(self) -> float | None:
        """Seconds until the last image, if all goes on as just now; None where that cannot be told."""
        rate, left = self._rate("asked"), max(0, self.total - self.finished)
        return None if not rate else 60 * left / rate

    @property
    def waiting(self) -> str | None:
        """What the calls wait for just now: a rate limit, a model that loads; or None."""
        now = time.monotonic()
        return next((tally.waiting_for for tally in tallies(self.run) if tally.waiting_until > now), None)

    @property
    def waiting_seconds(self) -> float:
        """For how long the call that waits longest will still wait; 0 where none does."""
        return max(0.0, *(tally.waiting_until - time.monotonic() for tally in tallies(self.run)), 0.0)

    def newest(self, count: int = NEWEST) -> list[Generation]:
        """The last images of this run, the newest first; of several models, in turn. None of finished chunks."""
        latest = [[*reversed(tally.newest.copy())] for tally in tallies(self.run)]
        in_turn = (one for each in zip_longest(*latest) for one in each if one is not None)
        return list({one.key: one for one in in_turn}.values())[:count]

    def _rate(self, name: str) -> float | None:
        """How much of a moment's `name` came in a minute, by the moments of the last `RECENT` seconds."""
        if not self._moments:
            return None
        first, last = self._moments[0], self._moments[-1]
        seconds = last.time - first.time
        return None if seconds < 1.0 else 60 * (getattr(last, name) - getattr(first, name)) / seconds


_current: Progress | None = None
_tell: Callable[[Estimate], None] | None = None


def tell_estimate(tell: Callable[[Estimate], None]) -> None:
    """Has the estimates of the runs to come in this process told, each before its first call."""
    global _tell
    _tell = tell


def begin(run: str, total: int, estimate: Estimate | None = None) -> Progress:
    """The progress of the run that starts in this process."""
    global _current
    _current = Progress(run, total, estimate=estimate)
    if estimate is not None and estimate.images and _tell is not None:
        _tell(estimate)
    return _current


def current() -> Progress | None:
    """The progress of the latest run in this process, or None before there is one."""
    return _current
