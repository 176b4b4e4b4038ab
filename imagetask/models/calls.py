"""One generation from key to durable fact: remembered, else asked for, checked, kept; failures by the table."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from imagetask.errors import ErrorKind, GenerationError, ImageError, RunStopped, StopReason, StorageError
from imagetask.images import Image, check_image
from imagetask.models.answers import image_of
from imagetask.models.base import AsyncImageGenerationModel, Generation, ImageGenerationModel, ImageRequest
from imagetask.models.batching import Batches
from imagetask.models.event_loop import IMAGE_THREADS, EventLoopThread
from imagetask.models.final_failures import FinalFailures
from imagetask.models.pacing import Pace
from imagetask.models.records import from_record, plain_info, to_record
from imagetask.models.redact import one_line
from imagetask.models.tally import Tally, price_of
from imagetask.models.treatments import DOWNLOADS, FIRST_ROWS, LONGEST_WAIT, TREATMENTS
from imagetask.store import GenerationStore

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_DELAY = 0.5
"""First pause before a further attempt; doubles with each, with jitter (seconds)."""
_ADVICE: Mapping[str, str] = {
    "task": "mend the task, and run the same command again",
    "invalid_input": "look at the prompts and the parameters, and run the same command again",
}
_SHORTEST_WAIT = 0.25
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A request with what makes its generation this one. seed_again: derives the seed of a further attempt."""

    request: ImageRequest
    key: str
    seed: int
    generation: int
    ordinal: int
    seed_again: Callable[[int], int]


@dataclass(slots=True)
class _History:
    """The attempts at one generation so far."""

    seed: int
    attempts: int = 0
    waits: int = 0
    maybe_billed: bool = False
    kinds: Counter[str] = field(default_factory=Counter)
    latency: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


class Calls:
    """All calls of one model in a run in this process: one pace, one store, one stop; lives on one event loop.

    With a store, a failure is final for the run: a chunk that is tried again gets it, and makes no call.
    """

    def __init__(
        self,
        model: ImageGenerationModel,
        store: GenerationStore | None,
        pace: Pace,
        thread: EventLoopThread,
        prices: Mapping[str, float] | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.tally = Tally()
        self.stopped: RunStopped | None = None
        self._pace = pace
        self._prices = prices or {}
        self._thread = thread
        self._in_flight: dict[str, asyncio.Future[Generation]] = {}
        self._unchecked = asyncio.Semaphore(2 * IMAGE_THREADS)
        self._stopping = asyncio.Event()
        self._batches = None if isinstance(model, AsyncImageGenerationModel) else Batches(model)
        self._loading_since: float | None = None
        self._any_answer = False
        self._first_failures: dict[str, list[ErrorKind | None]] = {"call": [], "task": []}
        self._failures = FinalFailures()

    async def generation(self, ask: Ask) -> Generation:
        """The generation of a key: equal keys in flight wait for one call. Raises `RunStopped`."""
        same = self._in_flight.get(ask.key)
        if same is not None:
            return replace(await asyncio.shield(same), reused=True)
        result: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._in_flight[ask.key] = result
        try:
            generation = await self._remembered(ask) or await self._made(ask)
        except BaseException as error:
            result.set_exception(error if isinstance(error, RunStopped) else asyncio.CancelledError())
            result.exception()
            raise
        finally:
            del self._in_flight[ask.key]
        result.set_result(generation)
        return generation

    def stop(self, kind: StopReason, message: str) -> RunStopped:
        """No new calls from here on; what is in flight finishes. Gives the error that everyone who waits gets."""
        if self.stopped is None:
            self.stopped = RunStopped(kind, message)
            level = logging.INFO if kind == "interrupted" else logging.ERROR
            logger.log(level, "stopping, no new calls: %s", self.stopped)
            self._stopping.set()
            self._pace.stop(lambda: RunStopped(kind, message))
        return RunStopped(self.stopped.kind, self.stopped.message)

    def started(self, channel: str) -> bool:
        """Whether the outcomes of enough first rows are known."""
        return len(self._first_failures[channel]) >= FIRST_ROWS

    def note_start(self, channel: str, kind: ErrorKind | None, message: str | None) -> None:
        """Takes the outcome of one of the first rows; where all of them failed alike, raises `RunStopped`."""
        if self.started(channel):
            return
        first = self._first_failures[channel]
        first.append(kind)
        if kind is not None and TREATMENTS[kind].stops_at_start and first == [kind] * FIRST_ROWS:
            raise self.stop(kind, f"the first {FIRST_ROWS} rows all failed alike: {message}; {_ADVICE[kind]}")

    async def _remembered(self, ask: Ask) -> Generation | None:
        if self.store is None:
            return None
        if (failed := self._failures.get(ask.key)) is not None:
            return failed
        record = await self._off_loop(self.store.get, ask.key)
        if record is None:
            return None
        generation = from_record(record, self.store)
        if generation.error_kind is None:
            self.note_start("call", None, None)
        return generation

    async def _made(self, ask: Ask) -> Generation:
        history = _History(seed=ask.seed)
        while True:
            if self.stopped is not None:
                raise self.stop(self.stopped.kind, self.stopped.message)
            try:
                generation = await self._attempt(ask, history)
                self.tally.new += 1
            except GenerationError as error:
                if await self._treated(error, ask, history):
                    continue
                generation = self._generation(ask, history, error=error)
                logger.warning("a row failed after attempt %d: %s; prompt: %s", history.attempts, error, _short(ask))
            await self._noted(generation)
            return generation

    async def _noted(self, generation: Generation) -> None:
        """Takes what a call came to, and makes failures durable that the next run is not to ask again."""
        kind = generation.error_kind
        self.note_start("call", kind, generation.error_message)
        if self.store is None:
            return
        if kind is not None:
            self._failures.add(generation, kind)
        stopped_for = None if self.stopped is None else self.stopped.kind
        for failed in self._failures.take_durable(self.started("call"), stopped_for):
            await self._off_loop(self.store.put, failed.key, to_record(failed), None)

    async def close(self) -> None:
        """Makes durable what was held back from the store until the start was over; the run is."""
        if self.store is not None and (self.stopped is None or self.stopped.kind != "storage"):
            for failed in self._failures.take_durable(True, None if self.stopped is None else self.stopped.kind):
                await self._off_loop(self.store.put, failed.key, to_record(failed), None)

    async def _attempt(self, ask: Ask, history: _History) -> Generation:
        """One call, to the durable image. The place is given back once there is room for checking the image."""
        ticket = await self._pace.acquire()
        started = time.monotonic()
        history.attempts += 1
        self.tally.calls += 1
        try:
            image = await self._asked(replace(ask.request, seed=history.seed if self.model.has_seeds else None))
            history.latency = time.monotonic() - started
            history.info = image.info
            self.tally.add_call(history.latency, self._price_of(image))
            await self._unchecked.acquire()
        except GenerationError as error:
            self._give_back(ticket, error, history)
            raise
        except BaseException:
            self._pace.release()
            raise
        self._any_answer, self._loading_since = True, None
        self._pace.answered()
        try:
            return await self._off_loop(self._keep, image, ask, history)
        finally:
            self._unchecked.release()

    def _price_of(self, image: Image) -> float | None:
        """USD; a model of this machine costs nothing."""
        return price_of(self._prices, self.model.model_name, image) if self._batches is None else 0.0

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
            await self._sleep(RETRY_DELAY * 2**number)
            try:
                return await image_of(again, "GenerationError.again")
            except GenerationError as next_error:
                if next_error.again is None:
                    raise
                error, again = next_error, next_error.again
        raise error

    def _keep(self, image: Image, ask: Ask, history: _History) -> Generation:
        """Checks the image and makes it durable, off the loop. Raises `GenerationError` for what is no good image."""
        try:
            blank = check_image(image).blank
        except ImageError as error:
            raise GenerationError("corrupt_image", str(error)) from error
        if blank:
            raise GenerationError("blank_image", f"every pixel of the {image.width} × {image.height} px is the same")
        generation = self._generation(ask, history, image=image)
        if self.store is None:
            return generation
        return replace(generation, image=self.store.put(ask.key, to_record(generation), image))

    def _give_back(self, ticket: int, error: GenerationError, history: _History) -> None:
        self._any_answer = self._any_answer or not error.info.get("refused_connection", False)
        if error.kind == "rate_limited":
            history.waits += 1
            self._pace.rejected(ticket, _wait_of(error, history.waits))
        else:
            self._pace.release()

    async def _treated(self, error: GenerationError, ask: Ask, history: _History) -> bool:
        """Does what the table says; True where the call is to be made again. Raises `RunStopped`."""
        treatment = TREATMENTS[error.kind]
        history.info = error.info
        if treatment.stops or error.fatal:
            raise self.stop(error.kind, error.message)
        if error.info.get("refused_connection") and not self._any_answer:
            raise self.stop(error.kind, f"the server cannot be reached: {error.message}")
        if treatment.waits:
            history.attempts -= 1
            await self._wait(error, history)
            return True
        history.kinds[error.kind] += 1
        history.maybe_billed |= treatment.maybe_billed
        if history.kinds[error.kind] > treatment.retries:
            return False
        if treatment.new_seed:
            history.seed = ask.seed_again(history.kinds[error.kind])
        pause = RETRY_DELAY * 2 ** (history.kinds[error.kind] - 1) * random.uniform(0.75, 1.25)
        logger.info("attempt %d in %.1f s: %s; prompt: %s", history.attempts + 1, pause, error, _short(ask))
        await self._sleep(pause)
        return True

    async def _wait(self, error: GenerationError, history: _History) -> None:
        if error.kind == "loading":
            self._loading_since = self._loading_since or time.monotonic()
            if time.monotonic() - self._loading_since > LONGEST_WAIT:
                raise self.stop(error.kind, f"the model was still loading after {LONGEST_WAIT / 60:.0f} minutes")
            pause = min(error.retry_after or 5.0, _LONGEST_PAUSE)
            self._pace.pause(pause)
        else:
            pause = _wait_of(error, history.waits)
            if (error.retry_after or 0.0) > LONGEST_WAIT:
                back = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + pause))
                raise self.stop(error.kind, f"the backend asks to come back at {back}: {error.message}")
        self.tally.waiting_for, self.tally.waiting_until = error.kind, time.monotonic() + pause
        logger.info("waiting %.1f s, then asking again: %s", pause, error)
        await self._sleep(pause)

    def _generation(
        self, ask: Ask, history: _History, *, image: Image | None = None, error: GenerationError | None = None
    ) -> Generation:
        return Generation(
            model_name=self.model.model_name,
            prompt=ask.request.prompt,
            parameters=ask.request.parameters(),
            key=ask.key,
            seed=history.seed,
            generation=ask.generation,
            image=image,
            error_kind=error.kind if error else None,
            error_message=error.message if error else None,
            attempts=history.attempts,
            latency=history.latency,
            maybe_billed=history.maybe_billed,
            info=plain_info(history.info),
        )

    async def _off_loop(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._thread.loop.run_in_executor(self._thread.image_threads, work, *arguments)
        except StorageError as error:
            raise self.stop("storage", str(error)) from error

    async def _sleep(self, seconds: float) -> None:
        """Sleeps, but not past a stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return


def _short(ask: Ask) -> str:
    """The beginning of the prompt, for the log."""
    return one_line(ask.request.prompt, longest=80)


def _wait_of(error: GenerationError, waits: int) -> float:
    """What a rejected call waits: as long as it was told, else longer each time; never nothing, and with jitter."""
    told = error.retry_after if error.retry_after is not None else min(2.0 ** (waits - 1), _LONGEST_PAUSE)
    return max(told, _SHORTEST_WAIT) * random.uniform(1.0, 1.25)
