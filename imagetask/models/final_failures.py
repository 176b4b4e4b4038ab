"""Failures that are final for a run: kept for its chunks in memory, and for the next runs in the store."""

from __future__ import annotations

from imagetask.errors import ErrorKind
from imagetask.models.base import Generation
from imagetask.models.treatments import TREATMENTS


class FinalFailures:
    """A run's failed generations by key: a chunk that is tried again gets them, and makes no call.

    A failure of a kind that stops a run at its start is held back from the store until the start is over: a run that
    is stopped so leaves its first rows to be asked again.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, Generation] = {}
        self._held: list[Generation] = []

    def get(self, key: str) -> Generation | None:
        return self._by_key.get(key)

    def add(self, generation: Generation, kind: ErrorKind) -> None:
        self._by_key[generation.key] = generation
        if not TREATMENTS[kind].asked_again:
            self._held.append(generation)

    def take_durable(self, started: bool, stopped_for: str | None) -> list[Generation]:
        """Those that go to the store now, each once. started: the run's start is over, or ended in `stopped_for`."""
        held, self._held = self._held, []
        taken: list[Generation] = []
        for one in held:
            at_start = one.error_kind is not None and TREATMENTS[one.error_kind].stops_at_start
            ready = not at_start or (started and stopped_for != one.error_kind)
            (taken if ready else self._held).append(one)
        return taken
