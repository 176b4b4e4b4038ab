"""The commands `imagetask deploy`, `serve` and `trigger`."""

from __future__ import annotations

import glob
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from imagetask.errors import UsageError
from imagetask.settings import RunSettings

from ..deploying import DEPLOYMENT
from .options import Options, Out, Sources
from .terminal import DONE, SOME_FAILED, STOPPED, if_interrupted, quiet, say

if TYPE_CHECKING:
    from ..deploying.deployments import Scheduled

_DEFAULTS = Options()
_SCHEDULE = Group("Schedule", sort_key=0)
_HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"

AllOptions = Annotated[Options, Parameter(name="*")]


def _when(text: str) -> Parameter:
    return Parameter(help=text, group=_SCHEDULE)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When to run by itself, and into which folder: what `deploy` and `serve` take beside the options of a run."""

    out: Annotated[Path | None, _when("Folder of the dataset that the schedule extends.")] = None
    cron: Annotated[str | None, _when("When to run, as in '0 6 * * *'.")] = None
    interval: Annotated[float | None, _when("Run every so many seconds.")] = None
    timezone: Annotated[str | None, _when("As in Europe/Vienna; default: UTC.")] = None
    name: Annotated[str, _when("Name of the scheduled deployment.")] = "scheduled"


_NEVER = Schedule()
Scheduling = Annotated[Schedule, Parameter(name="*")]


def deploy(*source: Sources, schedule: Scheduling = _NEVER, options: AllOptions = _DEFAULTS) -> int:
    """Make or update the deployments on the Prefect server, with all that they need: again and again, if you like.

    Without SOURCE: blocks, work pool, automations, and generate-images/on-demand, which runs when it is asked to. With
    SOURCE, --out and --cron or --interval also generate-images/scheduled, which extends the dataset by what is new.
    """
    scheduled = _scheduled(source, schedule, options)
    quiet()
    from ..deploying.deployments import deploy as deploy_all

    for line in deploy_all(scheduled):
        say(line)
    say("next:  prefect worker start --pool imagetask")
    if scheduled is None:
        say("then:  imagetask trigger SOURCE --out DIR")
    return DONE


def serve(*source: Sources, schedule: Scheduling = _NEVER, options: AllOptions = _DEFAULTS) -> int:
    """Make the deployments, and carry out their runs on this machine until Ctrl-C: no work pool, no worker.

    The options are those of `imagetask deploy`. Schedules are paused when this ends.
    """
    os.environ[_HEARTBEAT] = "30"  # before Prefect is imported; the automation waits for three of them
    scheduled = _scheduled(source, schedule, options)
    from prefect import serve as serve_all

    from ..deploying.deployments import pause, served

    deployments = served(scheduled)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # until Prefect's runner takes it over
    try:
        serve_all(*deployments, pause_on_shutdown=False)
    finally:  # Prefect's own pausing is cut off where SIGTERM ends this
        pause(deployments)
    return DONE


def trigger(
    *source: Sources,
    out: Out,
    deployment: Annotated[str, Parameter(help="FLOW/DEPLOYMENT.")] = DEPLOYMENT,
    idempotency_key: Annotated[str | None, Parameter(help="A second call with this key gives the first run.")] = None,
    watch: Annotated[bool, Parameter(help="Wait for the run's end.", negative=())] = False,
    options: AllOptions = _DEFAULTS,
) -> int:
    """Ask a deployment for a run, which a worker carries out. SOURCE and OUT are the worker's files and folders.

    Exit codes with --watch: 0 all rows done, 3 finished with failed rows, 1 anything else.
    """
    settings = RunSettings.checked(**options.parameters(source, out))
    quiet()
    from ..deploying.triggering import follow, page_of
    from ..deploying.triggering import trigger as trigger_run

    run = trigger_run(settings, deployment=deployment, idempotency_key=idempotency_key)
    say(f"{run.name}: run {run.id}")
    say(page_of(run))
    if not watch:
        return DONE
    with if_interrupted(f"Interrupted. The run goes on; this stops it: prefect flow-run cancel {run.id}"):
        ended = follow(run, say)
    if not ended.is_completed():
        return STOPPED
    return DONE if ended.name == "Completed" else SOME_FAILED


def register(app: App) -> None:
    """Adds the commands to the application."""
    for command in (deploy, serve, trigger):
        app.command(command)


def _scheduled(source: tuple[str, ...], schedule: Schedule, options: Options) -> Scheduled | None:
    """What is to run by itself, checked as far as it can be seen here; None where no SOURCE is given."""
    if not source:
        if (schedule, options) != (_NEVER, _DEFAULTS):
            raise UsageError("no SOURCE was given: without one, deploy and serve take no options")
        return None
    if schedule.out is None:
        raise UsageError("--out is missing: name the folder of the dataset that the schedule extends")
    if schedule.cron is None and schedule.interval is None:
        raise UsageError("no schedule was given: add --cron '0 6 * * *' or --interval 3600")
    settings = RunSettings.checked(**options.parameters(source, schedule.out))
    from ..deploying.deployments import Scheduled, schedules

    planned = schedules(schedule.cron, schedule.interval, schedule.timezone)
    _check_source(settings)
    return Scheduled(settings, planned, schedule.name)


def _check_source(settings: RunSettings) -> None:
    """Raises `SourceError` for what cannot be read here; files may come later, or be on the worker's machine."""
    from imagetask.plan import open_source

    sources = [settings.source] if isinstance(settings.source, str) else settings.source
    here = [item for item in sources if "://" not in item]
    missing = [item for item in here if not glob.glob(str(Path(item).expanduser()), recursive=True)]
    if not missing and (settings.hub_credentials is None or len(here) == len(sources)):
        open_source(settings)
    for item in missing:
        say(f"note:  {item} is not there yet, on this machine: a run that finds no file fails")
