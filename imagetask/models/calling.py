"""One attempt at a generation: a place, the price, the call, and the image checked and made durable."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imagetask.crash_points import reach
from imagetask.errors import GenerationError, ImageError
from imagetask.images import Image, check_image
from imagetask.models.answers import image_of
from imagetask.models.attempts import Ask, History
from imagetask.models.base import (
    AsyncImageGenerationModel,
    Generation,
    ImageGenerationModel,
    ImageRequest,
    asked_size,
)
from imagetask.models.batching import Batches
from imagetask.models.budget import Budget, Reservation
from imagetask.models.costs import FREE, Cost, cost_of, price_before, total
from imagetask.models.event_loop import IMAGE_THREADS, STORE_THREADS, EventLoopThread
from imagetask.models.pacing import Pace
from imagetask.models.placeholders import PlaceholderWatch
from imagetask.models.records import to_record
from imagetask.models.tally import Tally
from imagetask.models.treatments import DOWNLOADS, TREATMENTS
from imagetask.redact import one_line
from imagetask.store import GenerationStore

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Longest wait that is chosen here, where the backend does not say how long (seconds)."""
_SHORTEST_WAIT = 0.25
RETRY_DELAY = 0.5
"""First pause before a further attempt, or before a result is fetched again; doubles with each (seconds)."""

_GATEWAYS = frozenset({408, 502, 504, *range(520, 531)})
"""Answers of what stands before the backend, which may have made an image all the same."""


@dataclass(slots=True)
class Caller:
    """Makes the calls of one model in a run in this process; lives on one event loop.

    sleep: sleeps so many seconds, but not past a stop. any_answer: the backend has been reached.
    """

    model: ImageGenerationModel
    store: GenerationStore | None
    pace: Pace
    budget: Budget
    prices: Mapping[str, float]
    tally: Tally
    thread: EventLoopThread
    sleep: Callable[[float], Awaitable[None]]
    exact_size: bool = False
    any_answer: bool = False
    _any_image: bool = False
    _dearest: float | None = None
    _batches: Batches | None = None
    _unchecked: asyncio.Semaphore = field(init=False)
    _placeholders: PlaceholderWatch = field(default_factory=PlaceholderWatch)

    def __post_init__(self) -> None:
        self._unchecked = asyncio.Semaphore(2 * IMAGE_THREADS + (STORE_THREADS if self._remote else 0))
        self._batches = None if isinstance(self.model, AsyncImageGenerationModel) else Batches(self.model)

    async def attempt(self, ask: Ask, history: History) -> Generation:
        """One call, to the durable image. The place is given back once there is room for checking the image.

        Until a first image was good, the number of places does not grow: a backend that sends nothing good is found out
        with few calls. Raises `GenerationError`, `BudgetReached`, `StorageError`, and the error that stopped the pace.
        """
        ticket = await self.pace.acquire(again=history.attempts + history.waits > 0)
        reservation = await self._reserved(ask.request)
        image, usd = await self._image(ticket, reservation, ask, history)
        self.any_answer = True
        try:
            grows = self.pace.is_full and not self._any_image
            (self.pace.answered if self._any_image else self.pace.release)()
            generation = await self._checked_and_kept(image, ask, history)
            self._any_image = True
            if grows:
                self.pace.grow()
            return generation
        finally:
            self._unchecked.release()
            self.budget.settle(reservation, usd)  # after the image is kept: the ledger may be on a full disk

    async def _reserved(self, request: ImageRequest) -> Reservation:
        """The price of an image, taken out of the budget; a place for which there is none left goes to the next."""
        try:
            reservation = await self.budget.reserve(self._price_before(request))
        except BaseException:
            self.pace.unused()
            raise
        try:
            self.pace.check()  # it may have been stopped while this call waited for the budget
        except BaseException:
            self.budget.release(reservation)
            self.pace.unused()
            raise
        return reservation

    async def _image(
        self, ticket: int, reservation: Reservation, ask: Ask, history: History
    ) -> tuple[Image, float | None]:
        """The image, for which there is room to be checked; and what it cost in USD, where that is known."""
        started = time.monotonic()
        history.attempts += 1
        self.tally.calls += 1
        reach("generation: to be asked for")
        try:
            image = await self._asked(replace(ask.request, seed=history.seed if self.model.has_seeds else None))
            reach("generation: answered")
            history.latency, history.info = time.monotonic() - started, image.info
            cost = self._noted_cost(image, history)
            await self._unchecked.acquire()
        except GenerationError as error:
            self._give_back(ticket, reservation, error, history)
            raise
        except BaseException:
            self.pace.release()
            self.budget.settle(reservation, reservation.usd)
            raise
        return image, reservation.usd if cost.usd is None else cost.usd

    def _noted_cost(self, image: Image, history: History) -> Cost:
        cost = FREE if self._batches is not None else cost_of(self.prices, self.model.model_name, image)
        history.cost = total(history.cost, cost)
        self.tally.add_call(history.latency or 0.0, cost.usd)
        if cost.usd is not None:
            self._dearest = max(self._dearest or 0.0, cost.usd)
        return cost

    def _give_back(self, ticket: int, reservation: Reservation, error: GenerationError, history: History) -> None:
        """After a failure: the place; and the price, unless an image may have been made."""
        self.any_answer = self.any_answer or not error.info.get("refused_connection", False)
        if error.kind == "rate_limited":
            history.waits += 1
            self.pace.rejected(ticket, wait_of(error, history.waits))
        else:
            self.pace.release()
        if _was_free(error):
            self.budget.release(reservation)
        else:
            self.budget.settle(reservation, reservation.usd)

    def _price_before(self, request: ImageRequest) -> float | None:
        """USD that a call costs at most, as far as is known: by the prices, or as the dearest one so far."""
        if self._batches is not None:
            return 0.0
        price = price_before(self.prices, self.model.model_name, request)
        return max((known for known in (price, self._dearest) if known is not None), default=None)

    async def _asked(self, request: ImageRequest) -> Image:
        """The model's image; one that was paid for and not fetched is fetched again. Raises `GenerationError`."""
        method = "agenerate" if self._batches is None else "generate"
        try:
            return await image_of(lambda: self._call(request), f"{type(self.model).__name__}.{method}")
        except GenerationError as error:
            if error.again is None:
                raise
            return await self._downloaded_again(error, error.again)

    def _call(self, request: ImageRequest) -> Awaitable[Image]:
        if isinstance(self.model, AsyncImageGenerationModel):
            return self.model.agenerate(request)
        assert self._batches is not None
        return self._batches.agenerate(request)

    async def _downloaded_again(self, error: GenerationError, again: Callable[[], Awaitable[Any]]) -> Image:
        for number in range(DOWNLOADS):
            await self.sleep(RETRY_DELAY * 2**number)
            try:
                return await image_of(again, "GenerationError.again")
            except GenerationError as next_error:
                if next_error.again is None:
                    raise
                error, again = next_error, next_error.again
        raise error

    @property
    def _remote(self) -> bool:
        return self.store is not None and self.store.remote

    def _checked(self, image: Image, ask: Ask, history: History) -> Generation:
        """What the image comes to. Raises `GenerationError` for what is no good image."""
        try:
            blank = check_image(image).blank
        except ImageError as error:
            raise GenerationError("corrupt_image", str(error)) from error
        if blank:
            raise GenerationError("blank_image", f"every pixel of the {image.width} × {image.height} px is the same")
        asked = asked_size(ask.request.parameters())
        if self.exact_size and asked not in (None, f"{image.width}x{image.height}"):
            raise GenerationError("corrupt_image", f"the image has {image.width}x{image.height} px, asked for {asked}")
        return history.generation(self.model.model_name, ask, image=image)

    def _kept(self, generation: Generation) -> Generation:
        """Makes the image durable; gives it as a handle."""
        if self.store is None:
            return generation
        return replace(generation, image=self.store.put(generation.key, to_record(generation), generation.image))

    def _checked_then_kept(self, image: Image, ask: Ask, history: History) -> Generation:
        return self._kept(self._checked(image, ask, history))

    async def _checked_and_kept(self, image: Image, ask: Ask, history: History) -> Generation:
        """Slows down where the same bytes come for one prompt after another: a backend under load may send a picture
        in place of those that were asked for. Which rows have it is found at the end of the run."""
        off_loop, threads = asyncio.get_running_loop().run_in_executor, self.thread.image_threads
        if self._remote:
            generation = await off_loop(threads, self._checked, image, ask, history)
            generation = await off_loop(self.thread.store_writers(True), self._kept, generation)
        else:
            generation = await off_loop(threads, self._checked_then_kept, image, ask, history)
        if self.store is not None and self._placeholders.note(image.sha256, ask.request.prompt):
            logger.warning("the same picture came for several prompts, last for: %s", one_line(ask.request.prompt))
            self.pace.slow_down()
        return generation


def wait_of(error: GenerationError, waits: int) -> float:
    """What a rejected call waits: as long as it was told, else longer each time; never nothing, and with jitter."""
    told = error.retry_after if error.retry_after is not None else min(2.0 ** (waits - 1), LONGEST_PAUSE)
    return max(told, _SHORTEST_WAIT) * random.uniform(1.0, 1.25)


def _was_free(error: GenerationError) -> bool:
    """Whether the backend said that it made no image, or was never reached; a gateway cannot know."""
    status = error.info.get("http_status", 0)
    answered = status >= 400 and status not in _GATEWAYS
    return TREATMENTS[error.kind].free or answered or bool(error.info.get("refused_connection"))
