"""The chunks of a plan as task runs of Prefect, in a sliding window."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed

from imagetask.chunks import is_final, read_manifest
from imagetask.plan import Chunk, Plan
from imagetask.settings import RunSettings

from .models_in_use import stop_models

MOST_THREADS = 16
"""Chunks under way at once in a process, at most."""

ChunkTask = Task[..., dict[str, Any]]


def ended_chunks(
    chunk_task: ChunkTask, settings: RunSettings, plan: Plan, run_id: str
) -> Generator[tuple[Chunk, State[Any]], None, None]:
    """The chunks with how each ended, as they end; so many under way that the calls never run dry between two.

    Closed before its end, it stops the run's calls, and waits for those in flight.
    """
    window = min(MOST_THREADS, 2 + -(-2 * settings.max_concurrency // (plan.chunk_rows * plan.num_generations)))
    under_way: dict[PrefectFuture[Any], Chunk] = {}
    try:
        for chunk in plan.chunks:
            while len(under_way) >= window:
                yield _next_ended(under_way)
            under_way[_submitted(chunk_task, settings, chunk)] = chunk
        while under_way:
            yield _next_ended(under_way)
    except BaseException:
        stop_models(run_id, "interrupted", "the run ended before this was asked for")
        raise
    finally:
        for future in under_way:
            future.wait()


def _next_ended(under_way: dict[PrefectFuture[Any], Chunk]) -> tuple[Chunk, State[Any]]:
    future = next(iter(as_completed(list(under_way))))
    future.wait()
    return under_way.pop(future), future.state


def _submitted(chunk_task: ChunkTask, settings: RunSettings, chunk: Chunk) -> PrefectFuture[Any]:
    """A task run for the chunk: from the cache where its part stands, else anew."""
    stands = not settings.rebuild and is_final(read_manifest(settings.layout, chunk))
    own = chunk_task.with_options(refresh_cache=not stands, result_storage=settings.layout.results)
    future: PrefectFuture[Any] = own.submit(str(settings.out), **asdict(chunk))
    return future
