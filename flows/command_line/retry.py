"""The command `imagetask retry`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from imagetask.errors import DatasetError

from .running import run_flow
from .terminal import DONE, quiet, say

_SHARE = "A larger share of {} rows among 100 in a row that are asked of another model stops the run."


def retry(
    folder: Annotated[Path, Parameter(help="Folder of the dataset.")],
    /,
    *,
    kind: Annotated[list[str] | None, Parameter(help="Repeatable. Kind of failure; default: all.", negative=())] = None,
    model: Annotated[str | None, Parameter(help="BACKEND:MODEL_ID to ask in place of the one that failed.")] = None,
    seed: Annotated[int | None, Parameter(help="Seed to take in place of the run's.")] = None,
    base_url: Annotated[str | None, Parameter(help="URL of the server of --model.")] = None,
    credentials: Annotated[str | None, Parameter(help="Name of a saved block for --model.")] = None,
    max_images: Annotated[int | None, Parameter(help="Images that the dataset may cost, over all runs.")] = None,
    max_cost: Annotated[float | None, Parameter(help="USD that the dataset may cost, over all runs.")] = None,
    max_concurrency: Annotated[int | None, Parameter(help="Calls under way at once, at most.")] = None,
    requests_per_minute: Annotated[float | None, Parameter(help="Calls a minute, at most.")] = None,
    timeout: Annotated[float | None, Parameter(help="Seconds that one call may take.")] = None,
    max_failed: Annotated[int | None, Parameter(help="More failed rows than this stop the run.")] = None,
    max_failed_share: Annotated[float | None, Parameter(help=_SHARE.format("failed"))] = None,
    max_refused_share: Annotated[float | None, Parameter(help=_SHARE.format("refused"))] = None,
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

    from ..check import check_models
    from ..retry_failed import retry_settings

    settings, asked = retry_settings(**parameters)
    if is_running(settings.layout):
        raise DatasetError(f"another run is writing into {folder}: wait for it to end, or stop it")
    if failed_rows(settings.layout, asked.kind).is_empty():
        kinds = f" with {' or '.join(asked.kind)}" if asked.kind else ""
        say(f"{folder}: no row has failed{kinds}: nothing to retry")
        return DONE
    for name in settings.model:
        check_models(asked.settings_for(settings, name))
    return run_flow("retry_failed", parameters, folder, settings)
