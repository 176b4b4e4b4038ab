"""A run of a deployment, asked for from Python."""

from __future__ import annotations

from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from imagetask.errors import UsageError
from imagetask.settings import RunSettings

from .run_form import sent_parameters
from .server_calls import check_credentials, prefect_server

DEPLOYMENT = "generate-images/on-demand"


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
    Raises `UsageError` for what the server refuses, `ImageTaskError` where it does not answer; no run exists then.
    """
    with prefect_server() as client:
        if settings is not None:
            check_credentials(client, settings)
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
            poll_interval=1,
            _sync=True,  # also where an event loop runs in this thread
        )
        assert isinstance(run, FlowRun)
        return run
