"""Failures that are final for a run: its chunks and the next runs find them in the store."""

from __future__ import annotations

from imagetask.models.base import Generation
from imagetask.models.treatments import TREATMENTS


class FinalFailures:
    """A run's failed generations: a chunk that is tried again gets them, and makes no call.

    Each goes to the store; of those that are there only the keys are kept in memory, about 0.1 KB each. One that the
    next run does not ask again is held back until the start is over, where its kind stops a run at its start: a run
    that is stopped so leaves its first rows to be asked again.
    """

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._not_durable: dict[str, Generation] = {}
        self._held: list[Generation] = []

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def get(self, key: str) -> Generation | None:
        """One that is not in the store yet."""
        return self._not_durable.get(key)

    def add(self, generation: Generation) -> None:
        self._keys.add(generation.key)
        self._not_durable[generation.key] = generation
        self._held.append(generation)

    def note_durable(self, key: str) -> None:
        self._not_durable.pop(key, None)

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
