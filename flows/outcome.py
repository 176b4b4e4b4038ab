"""How a run ended: as the state that Prefect shows, and as an event that others can listen to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Completed, Failed

from imagetask.errors import ImageTaskError, RunStopped
from imagetask.redact import told
from imagetask.runs import Counts
from imagetask.settings import RunSettings

from .wording import by_kind

WITH_FAILURES = "Completed with failures"
"""Name of the state of a run that came to its end, with rows that have no image."""

BUDGET_REACHED = "Budget reached"
"""Name of the state of a run that has asked for as much as it was allowed; the rows that it left are pending."""

WITH_PENDING = "Completed with pending rows"
"""Name of the state of a retry that has done its work, where rows are left that it was not to ask for."""

FINISHED = "imagetask.dataset.finished"
"""The event of a dataset that was finished, or grown."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, as its state, its record, its artifacts and its report tell it.

    name: of the state. message: a sentence; where the run did not come to its end, why. to_mend: whether a person has
    to do something before it can go on.
    """

    name: str
    message: str
    to_mend: bool = False

    @property
    def whole(self) -> bool:
        """Whether the dataset was made, and there is nothing to go on with."""
        return self.name in ("Completed", WITH_FAILURES)


def finished(counts: Counts, settings: RunSettings, *, budget_reached: bool = False) -> Ending:
    """The dataset was made. The name says whether each row has its image; budget_reached: whether one ended the run."""
    if counts.pending or (budget_reached and counts.failed):
        return _unreached(counts, settings, budget_reached)
    if not counts.failed:
        reused = f", {counts.done - counts.reused:,} of them new" if counts.reused else ""
        return Ending("Completed", f"{counts.done:,} images{reused}")
    return Ending(WITH_FAILURES, f"{counts.done:,} of {counts.generations:,} images; failed: {by_kind(counts.failed)}")


def _unreached(counts: Counts, settings: RunSettings, budget_reached: bool) -> Ending:
    pending = f", {counts.pending:,} pending" if counts.pending else ""
    failed = f"; failed: {by_kind(counts.failed)}" if counts.failed else ""
    so_far = f"{counts.done:,} of {counts.generations:,} images{pending}{failed}"
    if not budget_reached:
        return Ending(WITH_PENDING, f"{so_far}: imagetask generate goes on with those that are pending")
    limits = [
        *([f"--max-images {settings.max_images}"] if settings.max_images is not None else []),
        *([f"--max-cost {settings.max_cost:g}"] if settings.max_cost is not None else []),
    ]
    return Ending(
        BUDGET_REACHED, f"{so_far}: the budget is spent; the same with more than {' and '.join(limits)} goes on"
    )


def ended_early(error: BaseException) -> Ending:
    """The run did not come to its end. One that was told to end while it was stopping has stopped for its own cause."""
    if isinstance(error, TerminationSignal):
        if isinstance(error.__context__, ImageTaskError):
            return ended_early(error.__context__)
        return Ending("Interrupted", "its process was told to end: it was cancelled, or its worker was stopped")
    if isinstance(error, KeyboardInterrupt):
        return Ending("Interrupted", "it was interrupted")
    if not isinstance(error, RunStopped):
        ours = isinstance(error, ImageTaskError)
        message = str(error) if ours else told(error)
        return Ending("Failed", message, to_mend=True)
    if error.kind == "interrupted":
        return Ending("Cancelled", error.message)
    return Ending(f"Stopped: {error.kind}", error.message, to_mend=True)


def completed_state(counts: Counts, settings: RunSettings, *, budget_reached: bool = False) -> State[Any]:
    """The state of a run that came to its end; its data are the counts."""
    ending = finished(counts, settings, budget_reached=budget_reached)
    return Completed(name=ending.name, message=ending.message, data=asdict(counts))


def failed_state(error: ImageTaskError) -> State[Any]:
    """The state of a run that did not: Cancelled where a person asked for that, else Failed, with what to do."""
    ending = ended_early(error)
    make = Cancelled if ending.name == "Cancelled" else Failed
    message = ending.message
    if isinstance(error, RunStopped):
        message = f"{message.rstrip('.?!')}. What came in is kept; the same parameters go on from there."
    return make(name=ending.name, message=message, data=error)


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
