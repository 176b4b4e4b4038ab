"""What became of the generations of a run in this process, counted while it goes on."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from imagetask.models.base import Generation

NEWEST = 24
EXAMPLES = 3
_LATENCIES = 10_000


@dataclass(slots=True)
class Tally:
    """Of one model in one run. Grown on the event loop; a reader in another thread sees a moment of it.

    done: images, and of these reused: not made in this run; new: made in it. pending: not asked for, since a budget was
    reached. calls: made; came: those that brought an image. cost: USD of the images that came and have a price;
    unpriced: those that have none. latencies: seconds of the last 10,000 calls that brought an image. newest: the last
    images with their prompts, as handles into the store; none without a store.
    examples: of each kind of failure the first three.
    waiting_for: why a call waits, until `waiting_until` (time.monotonic()).
    """

    done: int = 0
    new: int = 0
    calls: int = 0
    came: int = 0
    cost: float = 0.0
    unpriced: int = 0
    pending: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    newest: deque[Generation] = field(default_factory=lambda: deque(maxlen=NEWEST))
    examples: dict[str, list[Generation]] = field(default_factory=dict)
    waiting_for: str | None = None
    waiting_until: float = 0.0

    def add(self, generation: Generation) -> None:
        """Takes a generation that is final for the run."""
        if generation.error_kind is not None:
            self.failed[generation.error_kind] += 1
            if self.failed[generation.error_kind] <= EXAMPLES:
                self.examples.setdefault(generation.error_kind, []).append(generation)
            return
        if generation.image is None:
            self.pending += 1
            return
        self.done += 1
        if generation.image.path is not None:
            self.newest.append(generation)

    @property
    def reused(self) -> int:
        return max(0, self.done - self.new)

    def take_back(self, other: Tally) -> None:
        """Forgets the generations of `other`, which are going to be asked for again; calls and their cost stay."""
        self.done -= other.done
        self.pending -= other.pending
        self.failed.subtract(other.failed)
        self.failed = +self.failed
        for kind, known in other.examples.items():
            self.examples[kind] = [one for one in self.examples.get(kind, []) if not any(one is own for own in known)]

    def add_call(self, latency: float, usd: float | None) -> None:
        """Takes a call that brought an image: its seconds, and what it cost, where that is known."""
        self.came += 1
        self.latencies.append(latency)
        if usd is None:
            self.unpriced += 1
        else:
            self.cost += usd
