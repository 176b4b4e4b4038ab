"""Where the chunks of a run are worked on: threads of its own process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from prefect import Task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from imagetask.errors import UsageError
from imagetask.retry_settings import Retry
from imagetask.settings import RunSettings

MOST_THREADS = 16
"""Chunks under way at once in a process, at most."""
THREADS: Any = ThreadPoolTaskRunner(max_workers=MOST_THREADS)
"""The task runner of the flows, which work on chunks in their own process."""

ChunkTask = Task[..., dict[str, Any]]


class ChunkRunner(Protocol):
    """Where chunks are worked on."""

    def submit(self, chunk_task: ChunkTask, parameters: dict[str, Any]) -> PrefectFuture[Any]:
        """Begins a task run."""

    def window(self, generations: int) -> int:
        """How many chunks of so many generations are to be under way, so that the calls never run dry."""

    def ended(self, future: PrefectFuture[Any]) -> State[Any]:
        """The state of a task run that is over. Raises `ImageTaskError` where it was lost."""


def most_chunks(max_concurrency: int, generations: int) -> int:
    """Of a process that may make so many calls at once: how many chunks of so many generations keep it busy."""
    return min(MOST_THREADS, 2 + -(-2 * max_concurrency // generations))


class _Threads:
    """Threads of this process: the flow's own task runner."""

    def __init__(self, settings: RunSettings) -> None:
        self._max_concurrency = settings.max_concurrency

    def submit(self, chunk_task: ChunkTask, parameters: dict[str, Any]) -> PrefectFuture[Any]:
        future: PrefectFuture[Any] = chunk_task.submit(**parameters)
        return future

    def window(self, generations: int) -> int:
        return most_chunks(self._max_concurrency, generations)

    def ended(self, future: PrefectFuture[Any]) -> State[Any]:
        future.wait()
        return future.state


@contextmanager
def chunk_runner(settings: RunSettings, run_id: str, retry: Retry | None = None) -> Iterator[ChunkRunner]:
    """What the settings name, for the length of the block. Raises `UsageError` where it cannot be reached."""
    if settings.runner == "threads":
        yield _Threads(settings)
        return
    try:
        from .dask_workers import dask_workers
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise UsageError(f"--runner dask needs {missing}: pip install 'imagetask[dask]'") from error
    with dask_workers(settings, run_id, retry) as workers:
        yield workers
