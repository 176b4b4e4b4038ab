"""The processes that a run's chunks are handed to: what they are told about once a second, and tell.

A process makes no call for a run before it was told its share of the run's limits, nor long after it was told last.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from imagetask.errors import ImageTaskError, RunStopped, StopReason, StorageError, UsageError
from imagetask.models.connections import proxied
from imagetask.models.tally import Tally
from imagetask.redact import bare_url
from imagetask.runs import Counts, Run
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

from .models_in_use import (
    begin_share,
    budget_reached,
    close_models,
    reserved,
    share_of,
    stop_models,
    stopped,
    take_share,
    tallies,
    within_share,
)
from .shares import Share, Told

logger = logging.getLogger(__name__)

SILENCE = 120.0
"""After so many seconds without a word of its flow a run is over here: the flow's process is gone."""
_FIRST_WORD = 900.0
"""A process that joins waits so long, at most, for the calls of the others to come down to their shares (seconds)."""
_SEEN_WITHIN = 10.0
"""A file system between machines shows a new file after a while (seconds)."""
_GONE = "the process of its flow is gone, or cannot reach this one"
_OVER = "the run is over"

NAME = uuid4().hex
"""Of this process: another one at its address has another."""


@dataclass(slots=True)
class _Known:
    """Of a run: when its flow was heard last, its folder, and what became of its finished chunks.

    recorded: the folder's record was seen to be of this run. over: it is closed once no call is under way.
    """

    folder: str
    recorded: bool = False
    over: bool = False
    heard: float = field(default_factory=time.monotonic)
    ended: Tally = field(default_factory=Tally)


_known: dict[str, _Known] = {}
_watching = threading.Lock()


@dataclass(frozen=True, slots=True)
class Word:
    """What the flow says to all of a run's processes. shares, elsewhere: of each by its address; what it has of the
    limits, and how many calls the others have under way. stop: why no more calls may be made."""

    run: str
    folder: str
    shares: Mapping[str, Share]
    elsewhere: Mapping[str, int]
    stop: tuple[StopReason, str] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a process answers.

    takes_part: it has a share. within: it has no more calls under way than that allows, and none of an earlier run into
    the folder, which may be about to have what this one would ask for. told: what became of its
    generations; ended: of those in finished chunks alone. reserved: calls under way for which budget is reserved.
    stopped: why it makes no more calls.
    """

    process: str
    takes_part: bool
    within: bool
    told: Told
    ended: Tally
    reserved: int
    stopped: tuple[StopReason, str] | None


def hear(word: Word, begin: bool = False, dask_worker: Any = None) -> Report:
    """Takes the flow's word in this process; gives its own. begin: a process that has no share yet gets it."""
    _quiet()
    run, share = word.run, word.shares.get(dask_worker.address)
    if share_of(run) is None:
        _stop_others(run, word.folder)
    if begin and share_of(run) is None and share is not None:
        _known[run] = _Known(word.folder)
        begin_share(run, share)
        _watch()
    elif share_of(run) is not None and share is not None:
        _known[run].heard = time.monotonic()
        take_share(run, share, word.elsewhere.get(dask_worker.address, 0))
    if word.stop is not None:
        stop_models(run, *word.stop)
    report = _report(run)
    return replace(report, within=report.within and not any(map(reserved, _others(run, word.folder))))


async def close(run: str, dask_worker: Any = None) -> Report:
    """Closes the run's models in this process, once the calls under way have ended; gives its last word."""
    report, known = _report(run), _known.get(run)
    if known is not None and reserved(run):
        if report.stopped is None:
            stop_models(run, "interrupted", _OVER)
        known.over = True
        return report
    await asyncio.to_thread(_close, run)
    return replace(report, told=Told(_sendable(tallies(run)), budget_reached(run)))


async def check_process(run: str, folder: str, store: str, server: str | None, dask_worker: Any = None) -> None:
    """Looks whether this process sees the record of the run, and reaches its store and Prefect's server (a URL).

    Raises `UsageError`, `StorageError`.
    """
    until = time.monotonic() + _SEEN_WITHIN
    while not _is_last(run, folder):
        if time.monotonic() > until:
            raise UsageError(
                f"it does not see the run in {folder}: that must be on a file system that all workers share, "
                "under the same path"
            )
        await asyncio.sleep(0.2)
    if server is not None and not proxied():
        await asyncio.to_thread(_check_reached, server)
    await asyncio.to_thread(lambda: GenerationStore(store).check())


def _check_reached(server: str) -> None:
    parts = urlsplit(server)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((str(parts.hostname), port), _SEEN_WITHIN).close()
    except OSError as error:
        raise UsageError(
            f"it does not reach the Prefect server at {bare_url(server)}: {error.strerror or error}; "
            "name one that all workers reach with PREFECT_API_URL"
        ) from error


def _is_last(run: str, folder: str) -> bool:
    """Whether the record of the folder's last run is of this one."""
    last = Run.last(folder)
    return last is not None and last.id == run


def wait_for_share(run: str, settings: RunSettings) -> None:
    """Of a run whose chunks are handed to workers: waits until this process has its share of the limits.

    Raises `RunStopped` where it gets none.
    """
    if settings.runner == "threads":
        return
    until = time.monotonic() + _FIRST_WORD
    while share_of(run) is None:
        if (why := stopped(run)) is not None:
            raise RunStopped(*why)
        if time.monotonic() > until:
            raise RunStopped("interrupted", _GONE)
        time.sleep(0.05)


def note_chunk(run: str, manifest: Mapping[str, Any]) -> None:
    """Takes a chunk that this process has finished."""
    if (known := _known.get(run)) is not None:
        counts = Counts.of([manifest])
        known.ended.done += counts.done
        known.ended.pending += counts.pending
        known.ended.failed.update(counts.failed)


class _WithoutWords(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "hear" not in (record.args or ())


@cache
def _quiet() -> None:
    """Dask logs each function that it runs so: a line a second, of each run."""
    logging.getLogger("distributed.worker").addFilter(_WithoutWords())


def _report(run: str) -> Report:
    known = _known.get(run)
    return Report(
        NAME,
        share_of(run) is not None,
        within_share(run),
        Told(_sendable(tallies(run)), budget_reached(run)),
        Tally() if known is None else replace(known.ended, failed=known.ended.failed.copy()),
        reserved(run),
        stopped(run),
    )


def _sendable(own: list[Tally]) -> list[Tally]:
    """Copies, for the calls go on. Clocks of two machines differ: `waiting_until` is told as seconds from now."""
    now = time.monotonic()
    return [
        replace(
            tally,
            failed=tally.failed.copy(),
            latencies=tally.latencies.copy(),
            newest=tally.newest.copy(),
            examples={kind: known.copy() for kind, known in tally.examples.copy().items()},
            waiting_until=max(0.0, tally.waiting_until - now),
        )
        for tally in own
    ]


def _close(run: str) -> None:
    try:
        close_models(run)
    except ImageTaskError as error:
        logger.warning("a model of a run that is over was not closed: %s", error)
    finally:
        _known.pop(run, None)


def _stop_others(run: str, folder: str) -> None:
    """Whoever begins a run holds its folder: the flow of an earlier one into it is dead."""
    for other in _others(run, folder):
        stop_models(other, "interrupted", _GONE)


def _others(run: str, folder: str) -> list[str]:
    return [other for other, known in list(_known.items()) if other != run and known.folder == folder]


def _watch() -> None:
    """Has runs closed that are over; and those stopped whose flow is silent, or whose folder another run has now."""
    if _watching.acquire(blocking=False):
        threading.Thread(target=_look_after, name="imagetask-runs", daemon=True).start()


def _look_after() -> None:
    while True:
        for run, known in list(_known.items()):
            silent = time.monotonic() - known.heard
            if silent > SILENCE or _is_followed(run, known):
                stop_models(run, "interrupted", _GONE)
                known.over = True
            if known.over and not reserved(run):
                _close(run)
        time.sleep(1.0)


def _is_followed(run: str, known: _Known) -> bool:
    """Whether the folder's record, which may be seen late, was of this run and is of another one now."""
    with suppress(StorageError):
        last = Run.last(known.folder)
        if last is not None and last.id == run:
            known.recorded = True
        return known.recorded and last is not None and last.id != run
    return False
