"""The deployments of deployments/prefect.yaml and the automations beside it, made or updated on a Prefect server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from typing import Any

import yaml  # type: ignore[import-untyped]
from prefect._internal.versioning import VersionType
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from imagetask import __version__
from imagetask.blocks import BLOCKS
from imagetask.errors import UsageError
from imagetask.settings import RunSettings

from ..generate_images import generate_images
from .run_form import sent_parameters, strict_parameters
from .server_calls import check_credentials, prefect_server

ON_DEMAND, SCHEDULED = "on-demand", "scheduled"
"""Names of the entries in prefect.yaml."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A deployment that runs by itself: what it asks for, and when."""

    settings: RunSettings
    schedules: tuple[CronSchedule | IntervalSchedule, ...]
    name: str = SCHEDULED

    def __post_init__(self) -> None:
        """Raises `UsageError` for a name that no scheduled deployment can have."""
        if not self.name.strip():
            raise UsageError("--name: it is empty; give the scheduled deployment a name")
        if self.name == ON_DEMAND:
            raise UsageError(f"--name {ON_DEMAND}: this is the deployment without a schedule; choose another name")
        if set(self.name) & set("/%&<>"):
            raise UsageError(f"--name {self.name}: a deployment's name holds none of / % & < >")


def schedules(
    cron: str | None, interval: float | None, timezone: str | None
) -> tuple[CronSchedule | IntervalSchedule, ...]:
    """The schedules that these options describe. interval: seconds. Raises `UsageError`."""
    made: list[CronSchedule | IntervalSchedule] = []
    if cron is not None:
        made.append(_checked("cron", cron, lambda: CronSchedule(cron=cron)))
    if interval is not None:
        made.append(_checked("interval", interval, lambda: IntervalSchedule(interval=timedelta(seconds=interval))))
    if timezone is None:
        return tuple(made)
    _checked("timezone", timezone, lambda: CronSchedule(cron="0 0 * * *", timezone=timezone))
    return tuple(schedule.model_copy(update={"timezone": timezone}) for schedule in made)


def _checked(option: str, value: object, make: Callable[[], Any]) -> Any:
    expected = {
        "cron": "expected five fields, as in '0 6 * * *' for every day at 6",
        "interval": "expected seconds, above 0",
        "timezone": "expected a name as in Europe/Vienna",
    }
    try:
        return make()
    except (ValidationError, ValueError, OverflowError) as error:
        raise UsageError(f"--{option} {value}: {expected[option]}") from error


def deploy(scheduled: Scheduled | None = None) -> list[str]:
    """Makes or updates, on the server, all that runs need; gives what there is now, a line for each.

    Block types, work pool, the deployments (`scheduled` among them where it is given) and automations: one of each,
    however often this is called. Raises `UsageError`, `ImageTaskError`.
    """
    with prefect_server() as client:
        _check(scheduled)
        told = _register_blocks()
        entries = _entries(scheduled)
        told += [_make_work_pool(client, name) for name in dict.fromkeys(e["work_pool"]["name"] for e in entries)]
        for entry in entries:
            deployment = runner_deployment(entry, scheduled)
            deployment.job_variables = entry["work_pool"].get("job_variables", {})
            _apply(deployment, entry["work_pool"]["name"])
            told.append(f"deployment {deployment.full_name}{_when(deployment)}")
            told += [f"automation {trigger['name']!r}" for trigger in entry.get("triggers", [])]
        return told + _make_automations(client)


def served(scheduled: Scheduled | None = None) -> list[RunnerDeployment]:
    """The same deployments, to be served by this process; blocks and automations are made. Raises `UsageError`."""
    with prefect_server() as client:
        _check(scheduled)
        _register_blocks()
        _make_automations(client)
        deployments = [runner_deployment(entry, scheduled) for entry in _entries(scheduled)]
        for deployment in deployments:
            _check_not_on_a_pool(client, deployment)
        return deployments


def pause(deployments: list[RunnerDeployment]) -> None:
    """Pauses the schedules of these deployments on the server."""
    with prefect_server() as client:
        for deployment in deployments:
            if deployment.schedules:
                with suppress(ObjectNotFound):
                    client.pause_deployment(client.read_deployment_by_name(deployment.full_name).id)


def described(file: str) -> dict[str, Any]:
    """What a file of deployments/ holds, as it is installed."""
    found: dict[str, Any] = yaml.safe_load(resources.files("imagetask_deployments").joinpath(file).read_text("utf-8"))
    return found


def runner_deployment(entry: dict[str, Any], scheduled: Scheduled | None) -> RunnerDeployment:
    """An entry of prefect.yaml as Prefect applies and serves it, its parameters checked strictly."""
    limit = entry.get("concurrency_limit")
    own = scheduled if entry["name"] == SCHEDULED else None
    deployment = RunnerDeployment.from_flow(
        generate_images,
        name=own.name if own else entry["name"],
        description=entry["description"],
        tags=entry["tags"],
        concurrency_limit=ConcurrencyLimitConfig(**limit) if limit else None,
        parameters=sent_parameters(own.settings) if own else {},
        schedules=[DeploymentScheduleCreate(schedule=each) for each in own.schedules] if own else [],
        triggers=[DeploymentEventTrigger.model_validate(each) for each in entry.get("triggers", [])],
        version=__version__,
        version_type=VersionType.SIMPLE,  # else Prefect looks for a git repository
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment._parameter_openapi_schema = strict_parameters(generate_images)
    return deployment


def _entries(scheduled: Scheduled | None) -> list[dict[str, Any]]:
    """The entries of prefect.yaml; the scheduled one only where there is something to schedule."""
    entries: list[dict[str, Any]] = described("prefect.yaml")["deployments"]
    return [entry for entry in entries if scheduled is not None or entry["name"] != SCHEDULED]


def _check(scheduled: Scheduled | None) -> None:
    if scheduled is not None:
        scheduled.settings.layout.check()
        check_credentials(scheduled.settings)


def _register_blocks() -> list[str]:
    for block in BLOCKS.values():
        block.register_type_and_schema()
    return [f"block type {block.get_block_type_slug()}" for block in BLOCKS.values()]


def _make_work_pool(client: SyncPrefectClient, name: str) -> str:
    """Makes a process work pool, where there is none of the name; one that is there stays as it is."""
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        pool = client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
    return f"work pool {pool.name} ({pool.type})"


def _apply(deployment: RunnerDeployment, work_pool: str) -> None:
    try:
        deployment.apply(work_pool_name=work_pool)
    except DeploymentApplyError as error:
        raise UsageError(f"the Prefect server refused the deployment {deployment.full_name}: {error}") from error


def _make_automations(client: SyncPrefectClient) -> list[str]:
    return [_make_automation(client, each) for each in described("automations.yaml")["automations"]]


def _make_automation(client: SyncPrefectClient, description: dict[str, Any]) -> str:
    """Makes an automation, or updates the one of its name where it differs; further ones of the name are deleted.

    An update makes Prefect forget which runs the automation is waiting for: dead ones would look alive for ever.
    """
    automation = AutomationCore.model_validate(description)
    there = client.read_automations_by_name(automation.name)
    if not there:
        client.create_automation(automation)
    elif there[0].model_dump(include=set(AutomationCore.model_fields)) != automation.model_dump():
        client.update_automation(there[0].id, automation)
    for more in there[1:]:
        client.delete_automation(more.id)
    return f"automation {automation.name!r}"


def _check_not_on_a_pool(client: SyncPrefectClient, deployment: RunnerDeployment) -> None:
    """Raises `UsageError` where workers of a pool would take this process's runs."""
    try:
        pool = client.read_deployment_by_name(deployment.full_name).work_pool_name
    except ObjectNotFound:
        return
    if pool is not None:
        raise UsageError(
            f"the deployment {deployment.full_name} belongs to the work pool {pool} on this server: start a worker, or "
            f"delete it first (prefect deployment delete {deployment.full_name})"
        )


def _when(deployment: RunnerDeployment) -> str:
    """How the deployment's schedules are told in one line."""
    told = []
    for each in deployment.schedules or ():
        schedule = each.schedule
        if isinstance(schedule, CronSchedule):
            told.append(f"cron {schedule.cron!r} {schedule.timezone or 'UTC'}")
        elif isinstance(schedule, IntervalSchedule):
            told.append(f"every {schedule.interval.total_seconds():g} s")
    return f": {', '.join(told)}" if told else ""
