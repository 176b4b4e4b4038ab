"""The chunks of a plan as task runs of Prefect, in a sliding window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture, as_completed

from imagetask.plan import Chunk, Plan
from imagetask.settings import RunSettings

from .models_in_use import stop_models
from .task_runners import ChunkRunner, ChunkTask

_GRACE = 20.0
"""Prefect's worker kills a run 30 s after it told it to end; the rest is for its record and its report (seconds)."""


@contextmanager
def chunk_runs(
    chunk_task: ChunkTask,
    settings: RunSettings,
    plan: Plan,
    run_id: str,
    stands: Callable[[Chunk], bool],
    runner: ChunkRunner,
) -> Iterator[Iterator[tuple[Chunk, State[Any]]]]:
    """The chunks with how each ended, as they end; so many under way that the calls never run dry between two.

    stands: whether the part of a chunk is taken as it is. runner: where they are worked on.
    Left by an error, it stops the run's calls, and waits for those in flight: until they end, or, where the process was
    told to end and is killed 30 s later, for 20 s.
    """
    under_way: dict[PrefectFuture[Any], Chunk] = {}
    try:
        yield _as_they_end(partial(_submitted, chunk_task, settings, stands, runner), plan, under_way, runner)
    except BaseException as error:
        stop_models(run_id, "interrupted", "the run ended before this was asked for")
        try:
            _wait_for(under_way, _GRACE if isinstance(error, TerminationSignal) else None)
        except TerminationSignal:  # told to end while it was ending
            _wait_for(under_way, _GRACE)
            raise
        raise


def _as_they_end(
    submit: Callable[[Chunk], PrefectFuture[Any]],
    plan: Plan,
    under_way: dict[PrefectFuture[Any], Chunk],
    runner: ChunkRunner,
) -> Iterator[tuple[Chunk, State[Any]]]:
    generations = plan.chunk_rows * plan.num_generations
    for chunk in plan.chunks:
        while len(under_way) >= runner.window(generations):
            yield _next_ended(under_way, runner)
        under_way[submit(chunk)] = chunk
    while under_way:
        yield _next_ended(under_way, runner)


def _wait_for(under_way: Iterable[PrefectFuture[Any]], seconds: float | None) -> None:
    """seconds: for all of them together; None for as long as it takes."""
    until = None if seconds is None else time.monotonic() + seconds
    for future in under_way:
        future.wait(timeout=None if until is None else max(0.0, until - time.monotonic()))


def _next_ended(under_way: dict[PrefectFuture[Any], Chunk], runner: ChunkRunner) -> tuple[Chunk, State[Any]]:
    future = next(iter(as_completed(list(under_way))))
    return under_way.pop(future), runner.ended(future)


def _submitted(
    chunk_task: ChunkTask,
    settings: RunSettings,
    stands: Callable[[Chunk], bool],
    runner: ChunkRunner,
    chunk: Chunk,
) -> PrefectFuture[Any]:
    """A task run for the chunk: from the cache where its part stands, else anew."""
    own = chunk_task.with_options(refresh_cache=not stands(chunk), result_storage=settings.layout.results)
    return runner.submit(own, {"folder": str(settings.out), **asdict(chunk)})
