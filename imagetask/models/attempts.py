"""One generation on its way: what is asked, and what its attempts came to so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imagetask.errors import GenerationError
from imagetask.images import Image
from imagetask.models.base import Generation, ImageRequest
from imagetask.models.costs import Cost, total
from imagetask.models.records import plain_info
from imagetask.models.treatments import TREATMENTS


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with what makes its generation this one. seed_again: derives the seed of a further attempt.

    again: whether a failure that is remembered is asked for again: None by the table of treatments; False makes no call
    at all, so that what is not remembered is pending.
    instead: keys of generations that were made in its place, with another model or seed.
    """

    request: ImageRequest
    key: str
    seed: int
    generation: int
    ordinal: int
    seed_again: Callable[[int], int]
    again: bool | None = None
    instead: tuple[str, ...] = ()


@dataclass(slots=True)
class History:
    """The attempts at one generation so far, those of earlier runs with them.

    cost: of those that brought an image. last: the failure that came last, of those that count as an attempt.
    """

    seed: int
    attempts: int = 0
    waits: int = 0
    maybe_billed: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    latency: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost | None = None
    last: GenerationError | None = None

    @property
    def may_be_left(self) -> bool:
        """Whether it has failed, and may be left as failed now: the next run asks again."""
        return self.last is not None and TREATMENTS[self.last.kind].asked_again

    def follow(self, failed: Generation) -> None:
        """Takes the attempts of an earlier run that failed."""
        self.attempts += failed.attempts
        self.maybe_billed |= failed.maybe_billed
        self.cost = total(self.cost, _cost(failed))

    def generation(
        self, model_name: str, ask: Ask, *, image: Image | None = None, error: GenerationError | None = None
    ) -> Generation:
        """What it came to; without image and error it is pending."""
        return Generation(
            model_name=model_name,
            prompt=ask.request.prompt,
            parameters=ask.request.parameters(),
            key=ask.key,
            seed=self.seed,
            generation=ask.generation,
            image=image,
            error_kind=error.kind if error else None,
            error_message=error.message if error else None,
            attempts=self.attempts,
            latency=self.latency,
            maybe_billed=self.maybe_billed,
            cost=None if self.cost is None else self.cost.usd,
            cost_source=None if self.cost is None else self.cost.source,
            info=plain_info(self.info),
            created_at=None if image is None and error is None else time.time(),
        )


def following(generation: Generation, earlier: Generation) -> Generation:
    """The generation, with the attempts and the cost of an earlier one that it was made in place of."""
    cost = total(_cost(generation), _cost(earlier))
    return replace(
        generation,
        attempts=generation.attempts + earlier.attempts,
        maybe_billed=generation.maybe_billed or earlier.maybe_billed,
        cost=None if cost is None else cost.usd,
        cost_source=None if cost is None else cost.source,
    )


def _cost(generation: Generation) -> Cost | None:
    return None if generation.cost_source is None else Cost(generation.cost, generation.cost_source)
