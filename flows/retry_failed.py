"""The flow `retry_failed`: the failed rows of a dataset once more, also with another model or seed; nothing else."""

from __future__ import annotations

from typing import Any

from prefect import flow

from imagetask.errors import ImageTaskError
from imagetask.layout import alone_in
from imagetask.retry_settings import retry_descriptions
from imagetask.settings import Runner

from .check import retry_settings
from .generate_images import recorded
from .naming import run_name
from .outcome import failed_state
from .parameters_told import with_parameters_told
from .task_runners import THREADS


@flow(name="retry-failed", flow_run_name=run_name, task_runner=THREADS, persist_result=False)
@with_parameters_told({"out": "Folder of the dataset."} | retry_descriptions())
def retry_failed(
    out: str,
    kind: list[str] | None = None,
    model: str | None = None,
    seed: int | None = None,
    base_url: str | None = None,
    credentials: str | None = None,
    max_images: int | None = None,
    max_cost: float | None = None,
    max_concurrency: int | None = None,
    requests_per_minute: float | None = None,
    timeout: float | None = None,
    max_failed: int | None = None,
    max_failed_share: float | None = None,
    max_refused_share: float | None = None,
    runner: Runner | None = None,
    dask_address: str | None = None,
) -> Any:
    """Tries the failed rows of the dataset in `out` again; successes are never touched, attempts add up.

    Everything is as in the last run into the folder, but for what is given here. What comes of it is remembered: later
    runs with the parameters of before find the images that were made in place of failed ones. The shares of failed and
    of refused rows are those of rows that are asked of another model.
    Gives counts and states as `generate_images` does.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    try:
        settings, retry = retry_settings(**given)
        with alone_in(settings.layout):
            return recorded(settings, retry)
    except ImageTaskError as error:
        return failed_state(error)
