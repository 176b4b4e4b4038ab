"""What one of a run's processes has of the run's limits, and what it tells the others."""

from __future__ import annotations

from dataclasses import dataclass

from imagetask.models.tally import Tally


@dataclass(frozen=True, slots=True)
class Share:
    """Of `processes` the one with this `rank` (0-based). All together they never have more than the run."""

    processes: int = 1
    rank: int = 0

    def places(self, max_concurrency: int) -> int:
        """Calls under way at once, at most. One even where there are more processes than calls: the run then has no
        more chunks under way than it may have calls."""
        each, left = divmod(max_concurrency, self.processes)
        return max(1, each + (self.rank < left))

    def rate(self, requests_per_minute: float | None) -> float | None:
        """Calls a minute, at most; None for no limit."""
        return None if requests_per_minute is None else requests_per_minute / self.processes


WHOLE = Share()


@dataclass(frozen=True, slots=True)
class Told:
    """tallies: what became of the generations of a process, one for each model. budget_reached: it left a call unmade
    for lack of a budget."""

    tallies: list[Tally]
    budget_reached: bool
