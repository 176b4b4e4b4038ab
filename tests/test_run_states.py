"""How runs end, as Prefect's server tells: also those that were cancelled, killed, or started beside another one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.deploying.deployments import described
from prefect import get_client
from prefect.client.schemas.objects import State
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings

from imagetask import ImageDataset
from tests.machine import KEY, WORKER, Machine
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server

ROWS, AT_ONCE, LATENCY = 120, 8, 0.5
NOT_STARTED = "imagetask: runs that did not start"
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


@dataclass(frozen=True, slots=True)
class Killed:
    """Runs that were killed together with their worker: nobody is left who could tell the server.

    source: of `run`; no other run goes on with `forgotten`. not_started: a run of the scheduled deployment, which the
    worker had taken, and for which no flow had begun.
    """

    run: str
    source: Path
    forgotten: str
    not_started: str


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with ModelServer(latency=LATENCY) as server:
        server.require_key = KEY
        yield server


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, models: ModelServer) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("machine")).deployed(models.url) as machine:
        yield machine


@pytest.fixture(scope="module")
def killed(deployed: Machine, models: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    source, scheduled = rows(tmp_path_factory.mktemp("killed")), rows(tmp_path_factory.mktemp("scheduled"))
    schedule = f'imagetask deploy {scheduled} --out {scheduled.with_name("out")} --cron "0 0 1 1 *"'
    deployed.do(f"{schedule} --model openai:m --credentials openai")
    shorten_the_wait_for_a_start(deployed)
    models.latency = lambda prompt: (
        LATENCY if int(prompt.split()[-1]) < ROWS // 2 else 60.0
    )  # it is killed in the middle
    with deployed.started("killed-worker", WORKER, may_end=True):
        other = rows(tmp_path_factory.mktemp("forgotten"))
        forgotten, run = start(deployed, other, max_concurrency=1), start(deployed, source)
        until_asked(deployed, models, other, 2)
        until_asked(deployed, models, source, 40)
        models.latency = 60.0
        deployed.wait_until(lambda: len(deployed.events("prefect.flow-run.heartbeat")) >= 2, "no heartbeats were sent")
        not_started = start(deployed, scheduled, "scheduled")
        deployed.wait_until(
            lambda: state(deployed, not_started)["type"] == "PENDING", "the worker did not take the run"
        )
        assert kill_all_but_the_server(deployed) >= 3, "the worker and the runs"
    models.latency = LATENCY
    assert asked(models, source) < ROWS
    assert state(deployed, not_started)["type"] == "PENDING", "it came further"
    return Killed(run, source, forgotten, not_started)


def shorten_the_wait_for_a_start(machine: Machine) -> None:
    """To a minute; the other automation's wait is longer, so that no test waits for this."""
    [described_so] = [each for each in described("automations.yaml")["automations"] if each["name"] == NOT_STARTED]
    described_so["trigger"]["within"] = 60
    with temporary_settings({PREFECT_API_URL: machine.url}), get_client(sync_client=True) as client:
        [there] = client.read_automations_by_name(NOT_STARTED)
        client.update_automation(there.id, AutomationCore.model_validate(described_so))


@pytest.fixture(scope="module")
def machine(deployed: Machine, killed: Killed) -> Iterator[Machine]:
    """The machine after the kill, with another worker."""
    with deployed.started("worker", WORKER):
        yield deployed


def rows(folder: Path) -> Path:
    """A source with prompts that no other one has."""
    path = folder / "rows.csv"
    pl.DataFrame({"prompt": [f"{folder.name} {number}" for number in range(ROWS)]}).write_csv(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return rows(tmp_path)


def start(machine: Machine, source: Path, of: str = "on-demand", **parameters: Any) -> str:
    """Asks for a run of a deployment, as any HTTP client may; gives its id."""
    deployment = machine.ask(f"deployments/name/generate-images/{of}")["id"]
    wanted = {
        "source": str(source),
        "out": str(source.with_name("out")),
        "model": "openai:m",
        "credentials": "openai",
        "max_concurrency": AT_ONCE,
        **parameters,
    }
    return str(machine.ask(f"deployments/{deployment}/create_flow_run", {"parameters": wanted})["id"])


def state(machine: Machine, run: str) -> dict[str, Any]:
    told: dict[str, Any] = machine.ask(f"flow_runs/{run}")["state"]
    return told


def until_asked(machine: Machine, models: ModelServer, source: Path, count: int) -> None:
    machine.wait_until(lambda: asked(models, source) >= count, "the model was not asked")


def asked(models: ModelServer, source: Path) -> int:
    """How many calls were made for the prompts of this source."""
    return sum(call.prompt.startswith(source.parent.name) for call in models.calls)


def kept(source: Path) -> int:
    return len(list(source.with_name("out").glob("_imagetask/store/*/*.json")))


def kill_all_but_the_server(machine: Machine) -> int:
    """kill -9 of the worker and of the runs it started: of all that has the machine's home but the server.

    Again, until there are none: the worker may start one while the others are killed.
    """
    killed = 0
    while found := [process for process in Path("/proc").glob("[0-9]*") if is_worker_or_run(machine, process)]:
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
                killed += 1
        time.sleep(0.2)
    return killed


def is_worker_or_run(machine: Machine, process: Path) -> bool:
    try:
        mine = f"PREFECT_HOME={machine.home}".encode() in (process / "environ").read_bytes()
        words = (process / "cmdline").read_bytes()
    except OSError:
        return False
    return mine and (b"worker" in words or b"prefect.engine" in words or b"flow_engine" in words)


def test_after_a_kill_the_next_run_goes_on_and_asks_again_only_for_what_was_in_flight(
    machine: Machine, models: ModelServer, killed: Killed
) -> None:
    assert state(machine, killed.run)["type"] == "RUNNING", "the server cannot know yet"
    assert machine.ended(start(machine, killed.source)) == "Completed"
    assert len(ImageDataset(killed.source.with_name("out"))) == ROWS
    assert ROWS < asked(models, killed.source) <= ROWS + AT_ONCE
    told = state(machine, killed.run)
    assert told["type"] == "CRASHED"
    assert "another run into the same folder" in told["message"]


def test_cancelling_a_run_stops_its_calls_keeps_what_came_and_the_next_run_goes_on(
    machine: Machine, models: ModelServer, source: Path
) -> None:
    run = start(machine, source)
    until_asked(machine, models, source, 20)
    machine.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert machine.ended(run) == "Cancelled"
    at_the_end = asked(models, source)
    time.sleep(2 * LATENCY)
    assert asked(models, source) == at_the_end < ROWS, "calls were made after the run was cancelled"
    came = kept(source)
    assert came == at_the_end, "an image that was asked for was not kept"

    assert machine.ended(start(machine, source)) == "Completed"
    assert len(ImageDataset(source.with_name("out"))) == ROWS
    assert asked(models, source) == ROWS


def test_a_second_run_into_one_folder_is_refused_and_does_not_disturb_the_first(
    machine: Machine, models: ModelServer, source: Path
) -> None:
    first = start(machine, source, max_concurrency=3)
    until_asked(machine, models, source, 3)
    second = start(machine, source)
    assert machine.ended(second) == "Failed"
    told = state(machine, second)["message"]
    assert "another run is writing into" in told
    assert "wait for it to end" in told
    assert machine.ended(first) == "Completed"
    assert asked(models, source) == ROWS


def ended_here(source: Path, models: ModelServer, **parameters: Any) -> State[Any]:
    """The state of a run in this process, against the session's Prefect server, as that server tells it."""
    from imagetask_flows.generate_images import generate_images

    wanted = {"model": "openai:m", "base_url": models.openai_url, **parameters}
    told: State[Any] = generate_images(str(source), str(source.with_name("out")), **wanted, return_state=True)
    assert told.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(told.state_details.flow_run_id).state
    assert known is not None
    assert (known.type, known.name, known.message) == (told.type, told.name, told.message)
    return told


def test_states_say_whether_rows_failed_and_why_a_run_stopped(
    prefect_server: None, model_server: ModelServer, source: Path
) -> None:
    model_server.require_key = KEY
    stopped = ended_here(source, model_server, limit=20)
    assert (stopped.type.value, stopped.name) == ("FAILED", "Stopped: auth")
    assert "OPENAI_API_KEY" in str(stopped.message)
    assert "go on from there" in str(stopped.message)

    model_server.require_key = None
    model_server.fail(f"{source.parent.name} 7", "refused")
    some = ended_here(source, model_server, limit=20)
    assert (some.type.value, some.name) == ("COMPLETED", "Completed with failures")
    assert some.message == "19 of 20 images; failed: 1 refused"

    all_done = ended_here(source, model_server, limit=7)
    assert (all_done.type.value, all_done.name) == ("COMPLETED", "Completed")
    assert all_done.message == "7 images, 0 of them new"

    past = ended_here(source, model_server, limit=20, max_failed=0)
    assert (past.type.value, past.name) == ("FAILED", "Stopped: max_failed")
    assert "--max-failed 0" in str(past.message)

    wrong = ended_here(source, model_server, prompt_column="nowhere")
    assert (wrong.type.value, wrong.name) == ("FAILED", "Failed")
    assert "'nowhere'" in str(wrong.message)


def test_a_killed_run_is_told_crashed_for_its_missing_heartbeats(machine: Machine, killed: Killed) -> None:
    run = killed.forgotten
    machine.wait_until(lambda: state(machine, run)["type"] in FINAL, "the dead run looks alive")
    told = state(machine, run)
    assert told["type"] == "CRASHED"
    assert "No heartbeat for 90 s" in told["message"]


def test_a_run_whose_worker_was_killed_before_it_began_is_told_crashed_and_the_schedule_goes_on(
    machine: Machine, models: ModelServer, killed: Killed
) -> None:
    run = killed.not_started
    machine.wait_until(lambda: state(machine, run)["type"] in FINAL, "it is pending for ever")
    told = state(machine, run)
    assert told["type"] == "CRASHED"
    assert "no process started for it" in told["message"]

    deployment = machine.ask("deployments/name/generate-images/scheduled")
    assert deployment["global_concurrency_limit"]["active_slots"] == 0, "it would cancel every later firing"
    source = Path(deployment["parameters"]["source"])
    first = start(machine, source, "scheduled")
    until_asked(machine, models, source, 5)
    assert machine.ended(start(machine, source, "scheduled")) == "Cancelled", "two runs at once"
    assert machine.ended(first) == "Completed"
