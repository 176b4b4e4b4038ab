"""The workers of a Dask cluster, as the flow sees them: chunks go there, and about once a second a word and back."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from typing import Any, cast
from weakref import WeakSet

from distributed.comm.core import connect
from distributed.security import Security
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL
from prefect_dask.task_runners import DaskTaskRunner

from imagetask.errors import ImageTaskError, RunStopped, UsageError
from imagetask.models.event_loop import event_loop
from imagetask.redact import told
from imagetask.retry_settings import Retry
from imagetask.settings import RunSettings

from .accounts import account_of
from .models_in_use import stop_models, stopped, take_told
from .shares import Share, Told
from .task_runners import ChunkTask, most_chunks
from .worker_processes import Report, Word, check_process, close, hear

logger = logging.getLogger(__name__)

_EVERY = 1.0
"""Seconds between two words to the workers."""
_ANSWER_SECONDS = 10.0
"""A worker that hangs is not waited for longer, neither between two words nor at the end of the run."""
CONNECT_SECONDS = 10


class DaskWorkers:
    """A `ChunkRunner`. Each worker process has its share of the run's limits; a new one gets its own once the others
    keep to theirs, and what one had that is gone goes to those that are left."""

    def __init__(self, runner: DaskTaskRunner, settings: RunSettings, run_id: str, at_once: int) -> None:
        self._runner = runner
        self._client: Any = cast(Any, runner.client)
        self._run = run_id
        self._folder = str(settings.out)
        self._store = settings.store_url
        self._address = settings.dask_address
        self._at_once = at_once
        self._threads: dict[str, int] = self._client.nthreads()
        self._reports: dict[str, Report] = {}
        self._futures: WeakSet[Any] = WeakSet()
        self._waiting = False
        self._told_of_earlier = False
        self._ended = threading.Event()

    def submit(self, chunk_task: ChunkTask, parameters: dict[str, Any]) -> PrefectFuture[Any]:
        future = self._runner.submit(chunk_task, parameters)
        self._futures.add(future.wrapped_future)
        return cast(PrefectFuture[Any], future)

    def window(self, generations: int) -> int:
        """For all processes together; one chunk more than its threads waits for each. Where there are more processes
        than calls at once, no more chunks than calls: each process makes one then."""
        processes = max(1, len(self._threads))
        if processes > self._at_once:
            return self._at_once
        each = most_chunks(Share(processes).places(self._at_once), generations)
        return sum(min(each, 1 + threads) for threads in self._threads.values()) or each

    def ended(self, future: PrefectFuture[Any]) -> State[Any]:
        future.wait()
        wrapped: Any = getattr(future, "wrapped_future", None)
        if wrapped.status != "finished":
            why = stopped(self._run)
            raise self._lost(wrapped) if why is None else RunStopped(*why)
        return future.state

    def check(self) -> None:
        """Raises `UsageError` where there is no worker, or one that cannot do the work."""
        if not self._threads:
            raise UsageError(
                f"the Dask scheduler at {self._address} has no workers: start some with dask worker {self._address}"
            )
        asked = (check_process, self._run, self._folder, self._store, PREFECT_API_URL.value())
        seen = self._client.run(*asked, on_error="return")
        for worker, answer in seen.items():
            if isinstance(answer, ImportError):
                raise UsageError(f"the Dask worker {worker} lacks what a run needs: {answer}; install imagetask there")
            if isinstance(answer, BaseException):
                why = str(answer) if isinstance(answer, ImageTaskError) else told(answer)
                raise UsageError(f"the Dask worker {worker} cannot be used: {why}") from answer

    @contextmanager
    def kept_up(self) -> Iterator[None]:
        """Speaks with the workers for the length of the block, and then has them close the run."""
        self._speak()
        thread = threading.Thread(target=copy_context().run, args=(self._keep_up,), name="imagetask-dask", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            self._close()

    def _keep_up(self) -> None:
        level = logging.WARNING
        while not self._ended.wait(_EVERY):
            try:
                self._speak()
            except Exception as error:
                logger.log(level, "the Dask workers were not reached: %s", told(error))
                level = logging.DEBUG

    def _speak(self) -> None:
        self._threads = self._client.nthreads()
        self._look_for_workers()
        word = self._word()
        answers = self._asked(hear, word, workers=list(word.shares))
        new = [worker for worker, report in answers.items() if not report.takes_part]
        if new and self._took_part() <= answers.keys() and all(report.within for report in answers.values()):
            answers |= self._asked(hear, word, begin=True, workers=new)
        elif new and not self._took_part() and not self._told_of_earlier:
            self._told_of_earlier = True
            logger.warning("an earlier run into this folder has calls under way on the Dask workers: waiting for them")
        self._take(answers)

    def _look_for_workers(self) -> None:
        """Where all are gone Dask waits for another, for ever: a run that is stopped does not."""
        if not self._threads and stopped(self._run) is not None:
            self._client.cancel(list(self._futures))
        elif not self._threads and not self._waiting:
            logger.warning("no workers are left on the Dask cluster at %s: waiting for one to join", self._address)
        self._waiting = not self._threads

    def _took_part(self) -> set[str]:
        """Workers that have a share: until one tells that it keeps to a smaller one, nobody else may have the rest."""
        return {worker for worker, report in self._reports.items() if report.takes_part and worker in self._threads}

    def _word(self) -> Word:
        workers = sorted(self._threads)
        shares = {worker: Share(len(workers), rank) for rank, worker in enumerate(workers)}
        calls = {worker: report.reserved for worker, report in self._reports.items() if worker in shares}
        elsewhere = {worker: sum(calls.values()) - calls.get(worker, 0) for worker in workers}
        return Word(self._run, self._folder, shares, elsewhere, stopped(self._run))

    def _asked(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> dict[str, Report]:
        """What the workers answer, but those that died meanwhile, or could not. Raises `TimeoutError`."""
        options = {"on_error": "return", "callback_timeout": _ANSWER_SECONDS, **options}
        answers = self._client.run(function, *arguments, **options)
        return {worker: answer for worker, answer in answers.items() if isinstance(answer, Report)}

    def _take(self, answers: dict[str, Report]) -> None:
        """Takes what each told; of one that is gone what it had finished, since its other chunks are done again."""
        now = {report.process for report in answers.values()} | {
            report.process for worker, report in self._reports.items() if worker in self._threads
        }
        for worker, report in list(self._reports.items()):
            successor = answers.get(worker)
            if report.process not in now or (successor is not None and successor.process != report.process):
                take_told(self._run, report.process, _of_gone(report))
                del self._reports[worker]
        for worker, report in answers.items():
            self._reports[worker] = report
            take_told(self._run, report.process, _here(report.told))
            if report.stopped is not None and stopped(self._run) is None:
                stop_models(self._run, *report.stopped)

    def _close(self) -> None:
        try:
            self._take(self._asked(close, self._run))
        except Exception as error:
            logger.warning("the Dask workers were not told that the run is over: %s", told(error))

    def _lost(self, wrapped: Any) -> ImageTaskError:
        why = "the connection to the scheduler was lost"
        if wrapped.status == "error":
            why = told(wrapped.exception())
        return ImageTaskError(
            f"a chunk was lost on the Dask cluster at {self._address}: {why}. What came in is kept; "
            "see the workers' logs, and run the same command again"
        )


@contextmanager
def dask_workers(settings: RunSettings, run_id: str, retry: Retry | None = None) -> Iterator[DaskWorkers]:
    """The workers of the scheduler that the settings name. Raises `UsageError`."""
    event_loop().run(_check_scheduler(str(settings.dask_address)))
    runner = DaskTaskRunner(address=settings.dask_address, client_kwargs={"timeout": CONNECT_SECONDS})
    with runner:
        workers = DaskWorkers(runner, settings, run_id, _most_at_once(settings, retry))
        workers.check()
        with workers.kept_up():
            yield workers


async def _check_scheduler(address: str) -> None:
    """Shakes hands with it: a client alone would wait for ever for a server of another kind. Raises `UsageError`."""
    shaking = asyncio.create_task(_shake_hands(address))
    ended, _ = await asyncio.wait({shaking}, timeout=CONNECT_SECONDS + 2)
    if not ended:  # Dask waits for the answer of a server that speaks HTTP, whatever its time limit and a cancellation
        shaking.cancel()
        raise UsageError(
            f"what answers at {address} is no Dask scheduler: give the address that dask scheduler prints for it, "
            "not that of its dashboard"
        )
    await shaking


async def _shake_hands(address: str) -> None:
    try:
        security: Any = cast(Any, Security)()
        shake_hands: Any = connect
        comm = await shake_hands(address, timeout=CONNECT_SECONDS, **security.get_connection_args("client"))
        await comm.close()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address}: start one with dask scheduler, "
            "or name another with --dask-address"
        ) from error
    except TypeError as error:
        raise UsageError(
            f"{address} cannot be reached without certificates: "
            "name them in Dask's configuration (distributed.comm.tls)"
        ) from error


def _most_at_once(settings: RunSettings, retry: Retry | None) -> int:
    """Calls at once, at most, that the most limited of the accounts bears which the run asks with."""
    asked = [(settings if retry is None else retry.settings_for(settings, model), model) for model in settings.model]
    tried = None if retry is None else retry.model
    return min(account_of(changed, tried or model).max_concurrency for changed, model in asked)


def _of_gone(report: Report) -> Told:
    """The calls of a process that is gone were made; of its generations only those in finished chunks are not asked
    for again elsewhere."""
    calls = [
        replace(tally, done=0, pending=0, failed=type(tally.failed)(), waiting_until=0.0)
        for tally in report.told.tallies
    ]
    return Told([*calls, report.ended], report.told.budget_reached)


def _here(told_there: Told) -> Told:
    """With the clock of this process."""
    now = time.monotonic()
    tallies = [replace(tally, waiting_until=now + tally.waiting_until) for tally in told_there.tallies]
    return replace(told_there, tallies=tallies)
