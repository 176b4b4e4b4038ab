"""The flow `retry_failed`: the failed rows of a dataset once more, also with another model or seed; nothing else."""

from __future__ import annotations

from typing import Any

from prefect import flow

from imagetask.errors import ImageTaskError
from imagetask.layout import alone_in
from imagetask.retrying import Retry
from imagetask.runs import Run
from imagetask.settings import RunSettings

from .generate_images import THREADS, recorded
from .naming import run_name
from .outcome import failed_state

LIMITS = (
    *("max_images", "max_cost", "max_concurrency", "requests_per_minute", "timeout"),
    *("max_failed", "max_failed_share", "max_refused_share"),
)
"""Settings of the last run that may be given anew."""


@flow(name="retry-failed", flow_run_name=run_name, task_runner=THREADS, persist_result=False)
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
) -> Any:
    """Tries the failed rows of the dataset in `out` again; successes are never touched, attempts add up.

    Everything is as in the last run into the folder, but for what is given here. What comes of it is remembered: later
    runs with the parameters of before find the images that were made in place of failed ones.
    Gives counts and states as `generate_images` does.

    Args:
        out: Folder of the dataset.
        kind: Kinds of failures to try again; default: all, also those that a further run would not ask again.
        model: BACKEND:MODEL_ID to ask in place of the one that failed.
        seed: Seed of the run to take in place of the one before.
        base_url: URL of the server of `model`, where it is not the backend's own.
        credentials: Name of a saved block of the backend of `model`.
        max_images: Images that the dataset may cost, over all runs.
        max_cost: USD that the dataset may cost, over all runs; needs the block's prices.
        max_concurrency: Calls under way at once, at most.
        requests_per_minute: Calls a minute, at most.
        timeout: Seconds that one call may take.
        max_failed: More failed rows than this stop the run.
        max_failed_share: A larger share of failed rows among 100 in a row, asked of another model, stops the run.
        max_refused_share: The same for refused rows.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    try:
        settings, retry = retry_settings(**given)
        with alone_in(settings.layout):
            return recorded(settings, retry)
    except ImageTaskError as error:
        return failed_state(error)


def retry_settings(out: str, **given: Any) -> tuple[RunSettings, Retry]:
    """The settings of the last run into a folder with what is `given` anew; and what is tried again.

    All is checked with which a row of any of the run's models is asked for: what is refused here is written nowhere.
    Raises `DatasetError` where there was no run, `UsageError`.
    """
    limits = {name: given.pop(name) for name in LIMITS if name in given}
    last = Run.read(out).settings
    settings = RunSettings.checked(**{**last.model_dump(), **limits, "rebuild": False})
    retry = Retry.checked(**given)
    for model in settings.model:
        retry.settings_for(settings, model)
    return settings, retry
