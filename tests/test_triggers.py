"""Runs asked for from Python, over HTTP and by an event; and what is refused before there is a run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError

import pytest
from imagetask_flows import trigger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from imagetask import ImageDataset
from imagetask.errors import ImageTaskError, UsageError
from imagetask.settings import RunSettings
from tests.machine import PROMPTS, Machine, readme
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server

FROM_PYTHON, WITH_PREFECTS_OWN = readme("Ask for a run", "python")
[WITH_CURL] = readme("Ask for a run")
[EMIT_BY_COMMAND] = readme("Events")
[EMIT_FROM_PYTHON] = readme("Events", "python")
ARRIVED = "imagetask.prompts.arrived"
CANCEL = "prefect flow-run cancel"


@pytest.fixture
def from_here(machine: Machine) -> Iterator[None]:
    """This process asks the machine's server."""
    with temporary_settings({PREFECT_API_URL: machine.url}):
        yield


def wanted(machine: Machine, **parameters: Any) -> dict[str, Any]:
    """Parameters of a run that is never carried out where one of them is wrong."""
    return {"source": f"{machine.checkout}/examples/prompts.csv", "out": f"{machine.root}/refused", **parameters}


def test_python_curl_and_events_start_runs_and_no_image_is_asked_for_twice(
    machine: Machine, models: ModelServer
) -> None:
    before = len(machine.runs("on-demand"))
    assert "Completed" in machine.do_python(FROM_PYTHON)
    assert "Completed" in machine.do_python(WITH_PREFECTS_OWN)
    by_curl = json.loads(machine.do(WITH_CURL))
    assert machine.ended(by_curl["id"]) == "Completed"
    assert json.loads(machine.do(WITH_CURL))["id"] == by_curl["id"], "the same idempotency key made another run"

    def started(count: int) -> str:
        runs = machine.runs("on-demand")[before:]
        return str(runs[-1]["id"]) if len(runs) == count else ""

    machine.do(EMIT_BY_COMMAND)
    assert machine.ended(machine.wait_until(lambda: started(4), "the event started no run")) == "Completed"
    machine.do_python(EMIT_FROM_PYTHON)
    assert machine.ended(machine.wait_until(lambda: started(5), "the second event started no run")) == "Completed"

    assert sorted(call.prompt for call in models.calls if call.prompt in PROMPTS) == sorted(PROMPTS)
    assert len(ImageDataset(machine.checkout / "out" / "on-demand")) == len(PROMPTS)
    parameters = [run["parameters"] for run in machine.runs("on-demand")[before:]]
    assert all(one == parameters[0] for one in parameters)
    dataset = f"imagetask.dataset.{parameters[0]['out']}"

    def announced() -> list[dict[str, Any]]:
        finished = machine.events("imagetask.dataset.finished")
        return [event for event in finished if event["resource"]["prefect.resource.id"] == dataset]

    told = machine.wait_until(announced, "no dataset was announced")
    assert told[0]["payload"]["done"] == len(PROMPTS)


def test_deploying_again_leaves_what_the_automations_wait_for(machine: Machine) -> None:
    def changed() -> dict[str, str]:
        automations = machine.ask("automations/filter", {})
        return {one["name"]: one["updated"] for one in automations if "runs" in one["name"]}

    before = changed()
    assert len(before) == 2
    machine.do("imagetask deploy")
    assert changed() == before


def test_the_same_idempotency_key_twice_gives_one_run(machine: Machine, from_here: None) -> None:
    before = len(machine.runs())
    settings = RunSettings(**wanted(machine, out=machine.root / "once", limit=1))
    first = trigger(settings, idempotency_key="one of its kind")
    second = trigger(settings, idempotency_key="one of its kind")
    assert first.id == second.id
    assert len(machine.runs()) == before + 1
    assert machine.ended(str(first.id)) == "Completed"


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"modell": "placeholder"}, "modell"),
        ({"max_failed": -1}, "max-failed"),
        ({"model": "openai", "credentials": "nobody"}, "nobody"),
        ({"credentials": "openai"}, "takes no credentials"),
        ({"task": "no import path"}, "'task'"),
    ],
)
def test_from_python_a_wrong_parameter_is_refused_before_a_run_exists(
    machine: Machine, from_here: None, parameters: dict[str, Any], named: str
) -> None:
    before = len(machine.runs())
    with pytest.raises(UsageError, match=named):
        trigger(RunSettings.checked(**wanted(machine, **parameters)))
    assert len(machine.runs()) == before


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"modell": "placeholder"}, "modell"),
        ({"max_failed": -1}, "max_failed"),
        ({"model": "nonsense:1"}, "model"),
        ({"out": "a/relative/folder"}, "out"),
    ],
)
def test_over_http_a_wrong_parameter_is_refused_before_a_run_exists(
    machine: Machine, parameters: dict[str, Any], named: str
) -> None:
    before = len(machine.runs())
    deployment = machine.ask("deployments/name/generate-images/on-demand")["id"]
    with pytest.raises(HTTPError) as refused:
        machine.ask(f"deployments/{deployment}/create_flow_run", {"parameters": wanted(machine, **parameters)})
    assert refused.value.code == 409
    assert f"'{named}'" in json.load(refused.value)["detail"]
    assert len(machine.runs()) == before


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"modell": "placeholder"}, "'modell' was unexpected"),
        ({"max_failed": -1}, "Validation failed for field 'max_failed'"),
    ],
)
def test_an_event_with_a_wrong_parameter_starts_no_run_and_another_event_says_why(
    machine: Machine, parameters: dict[str, Any], reason: str
) -> None:
    before = len(machine.runs())
    payload = json.dumps(wanted(machine, **parameters))
    machine.do(f"prefect event emit {ARRIVED} --resource-id somewhere --payload '{payload}'")

    def refused() -> bool:
        failed = machine.events("prefect.automation.action.failed")
        return any(reason in str(event["payload"]["reason"]) for event in failed)

    machine.wait_until(refused, "nothing was refused")
    assert len(machine.runs()) == before


@contextmanager
def nobody_takes_runs(machine: Machine) -> Iterator[None]:
    """The work pool is paused."""
    with get_client(sync_client=True) as client:
        client.update_work_pool("imagetask", WorkPoolUpdate(is_paused=True))
        try:
            yield
        finally:
            client.update_work_pool("imagetask", WorkPoolUpdate(is_paused=False))


def test_who_watches_a_run_is_told_where_it_is_that_no_worker_takes_it_and_that_it_goes_on_after_ctrl_c(
    machine: Machine, from_here: None
) -> None:
    source, out = machine.checkout / "examples" / "prompts.csv", machine.root / "watched"
    code = f"imagetask trigger {source} --out {out} --limit 2 --watch"
    with nobody_takes_runs(machine), machine.started("trigger", code, may_end=True) as command:

        def told() -> str:
            return machine.log("trigger")

        machine.wait_until(lambda: "prefect worker start --pool imagetask" in told(), "nothing was said of a worker")
        os.killpg(command.pid, signal.SIGINT)
        machine.wait_until(lambda: "Interrupted" in told(), "it was not interrupted")
        assert command.wait(20) != 0
    [run] = [str(run["id"]) for run in machine.runs("on-demand") if run["parameters"]["out"] == str(out)]
    for text in (
        f": run {run}",
        f"/runs/flow-run/{run}",
        "Scheduled",
        f"The run goes on; this stops it: {CANCEL} {run}",
    ):
        assert text in told()
    assert "same command" not in told()
    assert machine.ended(run) == "Completed"


def test_a_deployment_that_is_not_there_is_named_with_what_makes_it(machine: Machine, from_here: None) -> None:
    with pytest.raises(UsageError, match=r"'generate-images/never'.*imagetask deploy"):
        trigger(RunSettings(**wanted(machine)), deployment="generate-images/never")


def test_a_server_that_does_not_answer_is_told_so(machine: Machine) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ImageTaskError, match=r"127.0.0.1:9/api does not answer"),
    ):
        trigger(RunSettings(**wanted(machine)))
