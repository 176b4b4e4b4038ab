"""One generation from key to durable fact: remembered, else asked for, checked, kept; failures by the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from typing import Any, TypeVar

from imagetask.errors import ErrorKind, GenerationError, RunStopped, StopReason, StorageError
from imagetask.models.attempts import Ask, History, following
from imagetask.models.base import Generation, ImageGenerationModel
from imagetask.models.breakers import Breakers, Channel
from imagetask.models.budget import Budget, BudgetReached
from imagetask.models.calling import Caller
from imagetask.models.event_loop import EventLoopThread
from imagetask.models.final_failures import FinalFailures
from imagetask.models.pacing import Pace
from imagetask.models.records import from_record, to_record
from imagetask.models.recovery import Recovery, short
from imagetask.models.tally import Tally
from imagetask.models.treatments import TREATMENTS
from imagetask.store import GenerationStore

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Calls:
    """All calls of one model in a run in this process: one pace, one budget, one store, one stop; on one event loop.

    With a store, a failure is final for the run: a chunk that is tried again gets it, and makes no call.
    """

    def __init__(
        self,
        model: ImageGenerationModel,
        store: GenerationStore | None,
        pace: Pace,
        thread: EventLoopThread,
        *,
        prices: Mapping[str, float],
        budget: Budget,
        breakers: Breakers,
        exact_size: bool,
    ) -> None:
        self.model = model
        self.store = store
        self.tally = Tally()
        self.stopped: RunStopped | None = None
        self._pace = pace
        self._thread = thread
        remote = store is not None and store.remote
        self._readers, self._writers = thread.store_readers(remote), thread.store_writers(remote)
        self._breakers = breakers
        self._recovery = Recovery(pace, self.tally, breakers, self.stop)
        self._caller = Caller(model, store, pace, budget, prices, self.tally, thread, self._recovery.sleep, exact_size)
        self._in_flight: dict[str, asyncio.Future[Generation]] = {}
        self._failures = FinalFailures()

    async def generation(self, ask: Ask) -> Generation:
        """The generation of a key: equal keys in flight wait for one call. Raises `RunStopped`."""
        same = self._in_flight.get(ask.key)
        if same is not None:
            return replace(await asyncio.shield(same), reused=True)
        result: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._in_flight[ask.key] = result
        try:
            with self._stopping_at_trips():
                generation = await self._remembered_or_made(ask)
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
            self._recovery.stopping.set()
            self._pace.stop(lambda: RunStopped(kind, message))
        return RunStopped(self.stopped.kind, self.stopped.message)

    def started(self, channel: Channel) -> bool:
        """Whether the outcomes of enough first rows are known."""
        return self._breakers.started(channel)

    def note_start(self, channel: Channel, kind: ErrorKind | None, message: str | None) -> None:
        """Takes the outcome of one of the first rows; where all of them failed alike, raises `RunStopped`."""
        with self._stopping_at_trips():
            self._breakers.note_first(channel, kind, message)

    async def close(self) -> None:
        """Makes durable what was held back from the store until the start was over; the run is."""
        if self.store is not None and not self._storage_failed:
            await self._keep_failures(started=True)

    @contextmanager
    def _stopping_at_trips(self) -> Iterator[None]:
        """A breaker that trips, and a store that fails, stop the run."""
        try:
            yield
        except RunStopped as error:
            raise self.stop(error.kind, error.message) from error
        except StorageError as error:
            raise self.stop("storage", str(error)) from error

    async def _remembered_or_made(self, ask: Ask) -> Generation:
        """What was made under the key, or in its place; with all attempts at both."""
        if self.store is None:
            return await self._made(ask, History(seed=ask.seed), self._breakers.start_row())
        known, final = await self._known(ask.key)
        others = await self._made_instead(ask, known)
        if not final and (made := await self._asked_for(ask, known, others)) is not None:
            return reduce(following, (other for other in others if other.status == "failed"), made)
        assert known is not None
        return reduce(lambda before, other: following(other, before), others, known)

    async def _known(self, key: str) -> tuple[Generation | None, bool]:
        """What is remembered of a key, and whether it is a failure of this run, and final."""
        known = self._failures.get(key) or await self._read(key)
        if known is None or known.error_kind is None or key not in self._failures:
            return known, False
        return replace(known, reused=False), True

    async def _asked_for(self, ask: Ask, known: Generation | None, others: Sequence[Generation]) -> Generation | None:
        """The image of a key, remembered or made now; None where the failure that is remembered stands."""
        history = History(seed=ask.seed)
        if known is None and ask.again is False:
            return history.generation(self.model.model_name, ask)
        if known is None:
            return await self._made(ask, history, self._breakers.start_row())
        if known.error_kind is None:
            self._breakers.note_first("call", None, None)
            return known
        if others and others[-1].status == "done":
            return None
        if not (TREATMENTS[known.error_kind].asked_again if ask.again is None else ask.again):
            return None
        history.follow(known)
        return await self._made(ask, history, None)

    async def _made_instead(self, ask: Ask, known: Generation | None) -> list[Generation]:
        """What was made in place of a generation that failed, the first first, up to an image."""
        if known is None or (known.error_kind is None and known.attempts <= 1):
            return []
        others: list[Generation] = []
        for key in ask.instead:
            other = await self._read(key)
            others += [] if other is None else [other]
            if other is not None and other.status == "done":
                break
        return others

    async def _read(self, key: str) -> Generation | None:
        assert self.store is not None
        record = await self._off_loop(self._readers, self.store.get, key)
        return None if record is None else from_record(record, self.store)

    async def _made(self, ask: Ask, history: History, number: int | None) -> Generation:
        """number: the row's for the breakers; None where it failed before, and may well fail again."""
        while True:
            try:
                if self.stopped is not None:
                    raise self.stop(self.stopped.kind, self.stopped.message)
                generation = await self._caller.attempt(ask, history)
                self._recovery.note_image()
                self.tally.new += 1
            except BudgetReached:
                if not history.may_be_left:
                    return history.generation(self.model.model_name, ask)
                generation = history.generation(self.model.model_name, ask, error=history.last)
            except RunStopped:
                await self._leave(ask, history)
                raise
            except GenerationError as error:
                if await self._treated(error, ask, history):
                    continue
                generation = history.generation(self.model.model_name, ask, error=error)
                logger.warning("a row failed after attempt %d: %s; prompt: %s", history.attempts, error, short(ask))
            await self._noted(generation, number)
            return generation

    async def _treated(self, error: GenerationError, ask: Ask, history: History) -> bool:
        """As `Recovery.treat`; a run that stops leaves the attempts that were made for the next one to follow."""
        treatment = TREATMENTS[error.kind]
        if not (treatment.waits or treatment.stops or error.fatal):
            history.last = error
        try:
            return await self._recovery.treat(error, ask, history, reached=self._caller.any_answer)
        except RunStopped:
            await self._leave(ask, history)
            raise

    async def _leave(self, ask: Ask, history: History) -> None:
        """Makes durable what a row has come to that is given up between two attempts, since the run stops."""
        if self.store is not None and history.may_be_left and not self._storage_failed:
            failed = history.generation(self.model.model_name, ask, error=history.last)
            await self._off_loop(self._writers, self.store.put, failed.key, to_record(failed), None)

    @property
    def _storage_failed(self) -> bool:
        return self.stopped is not None and self.stopped.kind == "storage"

    async def _noted(self, generation: Generation, number: int | None) -> None:
        """Takes what a row came to, and makes a failure durable."""
        if self.store is not None and generation.error_kind is not None:
            self._failures.add(generation)
        try:
            if number is not None:
                self._breakers.note_row(number, generation.error_kind, generation.error_message)
        except RunStopped as error:
            self.stop(error.kind, error.message)
            raise
        finally:
            if self.store is not None:
                await self._keep_failures(started=self.started("call"))

    async def _keep_failures(self, started: bool) -> None:
        assert self.store is not None
        for failed in self._failures.take_durable(started, None if self.stopped is None else self.stopped.kind):
            await self._off_loop(self._writers, self.store.put, failed.key, to_record(failed), None)
            self._failures.note_durable(failed.key)

    async def _off_loop(self, threads: Executor, work: Callable[..., T], *arguments: Any) -> T:
        return await self._thread.loop.run_in_executor(threads, work, *arguments)
