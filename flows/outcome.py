"""How a run ended: as the state that Prefect shows, and as an event that others can listen to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.states import Cancelled, Completed, Crashed, Failed

from imagetask.errors import ImageTaskError, RunStopped
from imagetask.runs import Counts
from imagetask.settings import RunSettings

WITH_FAILURES = "Completed with failures"
"""Name of the state of a run that came to its end, with rows that have no image."""

FINISHED = "imagetask.dataset.finished"
"""The event of a dataset that was finished, or grown."""


def completed(counts: Counts) -> State[Any]:
    """All rows were dealt with. The name says whether each has its image."""
    if not counts.failed:
        return Completed(message=f"{counts.done:,} images", data=asdict(counts))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.failed.items()))
    message = f"{counts.done:,} of {counts.generations:,} images; failed: {kinds}"
    return Completed(name=WITH_FAILURES, message=message, data=asdict(counts))


def ended_early(error: ImageTaskError) -> State[Any]:
    """The run could not go on: Cancelled where a person asked for that, else Failed; the message says what to do."""
    if not isinstance(error, RunStopped):
        return Failed(message=str(error), data=error)
    kept = "What came in is kept; the same parameters go on from there."
    if error.kind == "interrupted":
        return Cancelled(message=f"{error.message}. {kept}", data=error)
    return Failed(name=f"Stopped: {error.kind}", message=f"{error.message}. {kept}", data=error)


def why(error: BaseException) -> str:
    """Why a run ended before its end, for its record."""
    if isinstance(error, RunStopped):
        return error.message
    if isinstance(error, ImageTaskError):
        return str(error)
    return "interrupted" if isinstance(error, (KeyboardInterrupt, TerminationSignal)) else _named(error)


def outcome(error: BaseException) -> str:
    """How a run ended that did not come to its end, in a word or two: the name of its state."""
    return str(ended_early(error).name) if isinstance(error, ImageTaskError) else "Interrupted"


def tell_dead(run_id: str) -> None:
    """Marks a run as Crashed whose process died without a word, where this server still takes it for alive.

    The caller holds the lock of its folder, so it is dead.
    """
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        known = client.read_flow_run(UUID(run_id))
        if known.state is not None and not known.state.is_final():
            message = "its process is gone: another run into the same folder has found that, and goes on from there"
            client.set_flow_run_state(known.id, Crashed(message=message), force=True)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def announce(settings: RunSettings, counts: Counts) -> None:
    """Emits the event `imagetask.dataset.finished`, with the folder and the counts, about imagetask.dataset.FOLDER."""
    emit_event(
        FINISHED,
        resource={
            "prefect.resource.id": f"imagetask.dataset.{settings.out}",
            "prefect.resource.name": settings.out.name,
        },
        payload={"folder": str(settings.out), "models": settings.model, **asdict(counts)},
    )
