"""Failures that are final for a run: kept for its chunks in memory, and for the next runs in the store."""

from __future__ import annotations

from imagetask.models.base import Generation
from imagetask.models.treatments import TREATMENTS


class FinalFailures:
    """A run's failed generations by key: a chunk that is tried again gets them, and makes no call.

    Each goes to the store, where the next run finds its attempts. One that the next run does not ask again is held
    back until the start is over, where its kind stops a run at its start: a run that is stopped so leaves its first
    rows to be asked again.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, Generation] = {}
        self._held: list[Generation] = []

    def get(self, key: str) -> Generation | None:
        return self._by_key.get(key)

    def add(self, generation: Generation) -> None:
        self._by_key[generation.key] = generation
        self._held.append(generation)

    def take_durable(self, started: bool, stopped_for: str | None) -> list[Generation]:
        """Those that go to the store now, each once. started: the run's start is over, or ended in `stopped_for`."""
        held, self._held = self._held, []
        taken: list[Generation] = []
        for one in held:
            ready = not _waits_for_start(one) or (started and stopped_for != one.error_kind)
            (taken if ready else self._held).append(one)
        return taken


def _waits_for_start(failed: Generation) -> bool:
    treatment = None if failed.error_kind is None else TREATMENTS[failed.error_kind]
    return treatment is not None and treatment.stops_at_start and not treatment.asked_again
