"""What a run and the server tell each other beside its state: tags, a run that is dead, a cancel."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Crashed

from imagetask.errors import RunStopped
from imagetask.redact import told
from imagetask.settings import RunSettings

from ..naming import day
from .posting import REFUSALS, impatient_client

logger = logging.getLogger(__name__)

_ANSWER_SECONDS, _SHORT_ANSWER_SECONDS = 10.0, 3.0
CANCELLED = "it was cancelled on the Prefect server"
"""Why a run stops that a person cancelled there."""
_DEAD = "its process is gone: another run into the same folder has found that, and goes on from there"


def tag_run(settings: RunSettings, run_id: str) -> None:
    """Adds to the tags of a flow run: dataset:NAME, model:MODEL for each model, day:YYYY-MM-DD.

    Where the server does not take them, the log says so, and the run does without.
    """
    own = {f"dataset:{settings.out.name}", f"day:{day()}", *(f"model:{model}" for model in settings.model)}
    try:
        with impatient_client(_ANSWER_SECONDS) as client:
            client.update_flow_run(UUID(run_id), tags={*flow_run.tags, *own})
    except REFUSALS as error:
        logger.warning("the run has no tags: %s", told(error))


def tell_dead(run_id: str) -> None:
    """Marks a run as Crashed whose process died without a word, where this server still takes it for alive.

    The caller holds the lock of its folder, so it is dead. Where the server cannot be told, the log says so.
    """
    try:
        with impatient_client(_ANSWER_SECONDS) as client, suppress(ObjectNotFound):
            known = client.read_flow_run(UUID(run_id))
            if known.state is not None and (known.state.is_running() or known.state.is_cancelling()):
                client.set_flow_run_state(known.id, Crashed(message=_DEAD), force=True)
    except REFUSALS as error:
        logger.warning("the server was not told that the run %s is dead: %s", run_id, told(error))


@contextmanager
def cancelling(run_id: str) -> Iterator[None]:
    """A run that is cancelled ends so, whether a signal told it, or it came to its end before it saw that.

    Raises `RunStopped` then: the server takes no other end.
    """
    try:
        yield
    except TerminationSignal as error:
        if _was_cancelled(run_id):
            raise _cancelled() from error
        raise
    if _was_cancelled(run_id):
        raise _cancelled()


def _cancelled() -> RunStopped:
    return RunStopped("interrupted", CANCELLED)


def is_cancelled(client: SyncPrefectClient, run_id: str) -> bool:
    """Whether a person has cancelled the run, as the server tells. Raises of `REFUSALS`."""
    state = client.read_flow_run(UUID(run_id)).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _was_cancelled(run_id: str) -> bool:
    try:
        with impatient_client(_SHORT_ANSWER_SECONDS) as client:
            return is_cancelled(client, run_id)
    except REFUSALS as error:
        logger.warning("the server does not say whether the run was cancelled: %s", told(error))
        return False
