"""The command `imagetask retry`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from imagetask.errors import DatasetError
from imagetask.retry_settings import LIMITS, retry_descriptions

from .running import run_flow
from .terminal import DONE, quiet, say

_WHICH = Group("Which, and with what", sort_key=1)
_LAST = Group(
    "In place of the last run's", help="The shares are those of rows that are asked of another model.", sort_key=2
)
_TOLD = retry_descriptions()


def _option(name: str, prefix: str = "") -> Parameter:
    return Parameter(help=f"{prefix}{_TOLD[name]}", group=_LAST if name in LIMITS else _WHICH, negative=())


def retry(
    folder: Annotated[Path, Parameter(help="Folder of the dataset.")],
    /,
    *,
    kind: Annotated[list[str] | None, _option("kind", "Repeatable. ")] = None,
    model: Annotated[str | None, _option("model")] = None,
    seed: Annotated[int | None, _option("seed")] = None,
    base_url: Annotated[str | None, _option("base_url")] = None,
    credentials: Annotated[str | None, _option("credentials")] = None,
    max_images: Annotated[int | None, _option("max_images")] = None,
    max_cost: Annotated[float | None, _option("max_cost")] = None,
    max_concurrency: Annotated[int | None, _option("max_concurrency")] = None,
    requests_per_minute: Annotated[float | None, _option("requests_per_minute")] = None,
    timeout: Annotated[float | None, _option("timeout")] = None,
    max_failed: Annotated[int | None, _option("max_failed")] = None,
    max_failed_share: Annotated[float | None, _option("max_failed_share")] = None,
    max_refused_share: Annotated[float | None, _option("max_refused_share")] = None,
    runner: Annotated[str | None, _option("runner")] = None,
    dask_address: Annotated[str | None, _option("dask_address")] = None,
) -> int:
    """Try the failed rows of FOLDER again, and nothing else: also those that a further run would not ask for.

    Successes are never touched; attempts add up. With --model or --seed the images come from there; later runs of the
    command that made the dataset keep them. Exit codes as of generate.
    """
    given = {name: value for name, value in locals().items() if value is not None and name != "folder"}
    parameters: dict[str, Any] = {"out": str(folder), **given}
    quiet()
    from imagetask.layout import is_running
    from imagetask.retrying import failed_rows
    from imagetask.runs import Run

    from ..check import check_models, retry_settings
    from ..embedded_server import EmbeddedServer

    settings, asked = retry_settings(**parameters)
    if is_running(settings.layout):
        raise DatasetError(f"another run is writing into {folder}: wait for it to end, or stop it")
    if failed_rows(settings.layout, asked.kind).is_empty():
        kinds = f" with {' or '.join(asked.kind)}" if asked.kind else ""
        say(f"{folder}: no row has failed{kinds}: nothing to retry")
        if Run.read(folder).state != "finished":
            say(f"the last run did not come to its end: imagetask status {folder} tells how it goes on")
        return DONE
    server = EmbeddedServer()
    for name in settings.model:
        check_models(asked.settings_for(settings, name))
    return run_flow("retry_failed", parameters, folder, settings, server)
