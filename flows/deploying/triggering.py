"""A run of a deployment, asked for from Python."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for

from imagetask.errors import UsageError
from imagetask.settings import RunSettings

from . import DEPLOYMENT
from .run_form import sent_parameters
from .server_calls import check_credentials, prefect_server

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 15.0
"""A worker that is there takes a run sooner."""


def trigger(
    settings: RunSettings | None = None,
    *,
    deployment: str = DEPLOYMENT,
    idempotency_key: str | None = None,
    wait: float | None = 0,
) -> FlowRun:
    """Asks for a run, which a worker carries out; gives it as it is when the wait is over.

    settings: the parameters; what they were not given is the deployment's own, or the default. Paths are made absolute,
        and are those of the worker's machine. None: all is the deployment's own.
    idempotency_key: a second call with the same key gives the first one's run.
    wait: seconds to wait for the run's end; None: until it ends.
    Raises `UsageError` for what the server refuses: no run exists then. Raises `ImageTaskError` where it does not
    answer: before there is a run, or while this waits for one, which goes on.
    """
    with prefect_server() as client:
        if settings is not None:
            check_credentials(settings)
        try:
            client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError) as error:
            url = get_current_settings().api.url
            raise UsageError(
                f"there is no deployment {deployment!r} on the Prefect server at {url}: make it with `imagetask deploy`"
            ) from error
        parameters = {} if settings is None else sent_parameters(settings)
        run = run_deployment(  # type: ignore[call-arg]
            deployment,
            parameters=parameters,
            idempotency_key=idempotency_key,
            timeout=wait,
            poll_interval=_POLL_SECONDS,
            _sync=True,  # also where an event loop runs in this thread
        )
        assert isinstance(run, FlowRun)
        return run


def page_of(run: FlowRun) -> str:
    """The address of the run in Prefect's UI."""
    return url_for("flow-run", run.id) or f"run {run.id}"


def follow(run: FlowRun, say: Callable[[str], None]) -> State[Any]:
    """Waits for the run's end, says each state that it comes to, and gives the last one.

    Where no worker takes the run for 15 s, that is said too. Raises `ImageTaskError` where the server does not answer.
    """
    with prefect_server() as client:
        told, no_worker_since = "", time.monotonic()
        while True:
            state = client.read_flow_run(run.id).state
            assert state is not None
            if (now := _text(state)) != told:
                say(now)
                told = now
            if state.is_final():
                return state
            if state.is_scheduled() and time.monotonic() - no_worker_since > _PATIENCE_SECONDS:
                say(_no_worker(run))
                no_worker_since = math.inf
            time.sleep(_POLL_SECONDS)


def _text(state: State[Any]) -> str:
    return f"{state.name}: {state.message}" if state.message else str(state.name)


def _no_worker(run: FlowRun) -> str:
    if run.work_pool_name is None:
        return "no process has taken the run yet: does imagetask serve go on?"
    return f"no worker has taken the run yet: is one running? prefect worker start --pool {run.work_pool_name}"
