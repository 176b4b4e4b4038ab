"""How far a run is: counted while it goes on, for whoever watches from this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .models_in_use import tallies


@dataclass(slots=True)
class Progress:
    """Generations of a run: how many there are to be, and what became of them so far."""

    run: str
    total: int
    started: float = field(default_factory=time.monotonic)
    chunk_seconds: float | None = None
    cached: int = 0
    cached_failed: Counter[str] = field(default_factory=Counter)

    def add_cached(self, manifest: Mapping[str, Any]) -> None:
        """Takes a chunk that was finished before this run."""
        self.cached += manifest["generations"]
        self.cached_failed.update(manifest["failed"])

    def end_chunks(self) -> None:
        """All chunks are done; what is left is the dataset."""
        self.chunk_seconds = time.monotonic() - self.started

    @property
    def finished(self) -> int:
        return self.cached + sum(tally.done + tally.failed.total() for tally in tallies(self.run))

    @property
    def new_images(self) -> int:
        """Images that were asked for and came, in this run."""
        return sum(tally.done - tally.reused for tally in tallies(self.run))

    @property
    def failed(self) -> Counter[str]:
        return sum((tally.failed for tally in tallies(self.run)), self.cached_failed)

    @property
    def waiting(self) -> str | None:
        """What the calls wait for just now: a rate limit, a model that loads; or None."""
        now = time.monotonic()
        return next((tally.waiting_for for tally in tallies(self.run) if tally.waiting_until > now), None)


_current: Progress | None = None


def begin(run: str, total: int) -> Progress:
    """The progress of the run that starts in this process."""
    global _current
    _current = Progress(run, total)
    return _current


def current() -> Progress | None:
    """The progress of the latest run in this process, or None before there is one."""
    return _current
