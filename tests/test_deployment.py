"""From nothing to a dataset through a server, a block and a worker, by the commands of deployments/README.md."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from imagetask_flows.cli import main
from imagetask_flows.command_line.options import Options
from imagetask_flows.deploying.deployments import SCHEDULED, Scheduled, described, runner_deployment, schedules
from imagetask_flows.deploying.run_form import sent_parameters, strict_parameters
from imagetask_flows.generate_images import generate_images
from imagetask_flows.outcome import completed_state, failed_state
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import get_current_settings
from prefect.states import AwaitingRetry, Crashed, InfrastructurePending, Late, Pending, Running, Submitting
from prefect.states import Scheduled as PrefectScheduled
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from imagetask import ImageDataset
from imagetask.blocks import BLOCKS
from imagetask.errors import RunStopped, StorageError, UsageError
from imagetask.runs import Counts
from imagetask.settings import RunSettings
from tests.command_line import WRONG_USAGE, imagetask
from tests.machine import KEY, PROMPTS, SERVER, SET_UP, TRIGGER, WORKER, Machine, readme
from tests.model_server import ModelServer


def form() -> dict[str, Any]:
    """The schema of the deployments' parameters, as the server keeps it."""
    schema: dict[str, Any] = strict_parameters(generate_images).model_dump(exclude_unset=True)
    return schema


@pytest.mark.prefect_server
def test_the_readme_leads_from_nothing_to_a_dataset_through_a_worker(tmp_path: Path, model_server: ModelServer) -> None:
    machine = Machine(tmp_path)
    model_server.require_key = KEY
    with machine.started("server", SERVER):
        machine.wait_for_server()
        said = machine.do(f"{SET_UP.rstrip()} --base-url {model_server.url}/v1", OPENAI_API_KEY=KEY)
        assert "deployment generate-images/on-demand" in said
        told = machine.ask("deployments/name/generate-images/on-demand")
        assert (told["pull_steps"], told["path"]) == ([], None), "it goes to a folder of the machine that deployed it"
        assert (tmp_path.name not in str(told), told["version"] is not None) == (True, True)
        with machine.started("worker", WORKER):
            said = machine.do(TRIGGER)
            assert f"{machine.url.removesuffix('/api')}/runs/flow-run/{machine.runs()[0]['id']}" in said
            assert "Completed: 5 images" in said
        dataset = ImageDataset(machine.checkout / "out" / "on-demand")
        assert dataset.scan().select("prompt").collect()["prompt"].to_list() == PROMPTS
        pictures = [dataset.image(row) for row in range(len(PROMPTS))]
        sent = {call.prompt: call.sha256 for call in model_server.calls}
        assert [picture and picture.sha256 for picture in pictures] == [sent[prompt] for prompt in PROMPTS]
        assert {call.authorization for call in model_server.calls} == {f"Bearer {KEY}"}
        _check_prefects_own_commands(machine)

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def _check_prefects_own_commands(machine: Machine) -> None:
    """They work on what is there, and `imagetask deploy` leaves one of each after them."""
    said = machine.do(*readme("With Prefect's own commands"))
    assert "OpenAI Image Credentials" in said
    assert "backendblock" not in said.replace(" ", "").lower(), "what blocks share is no block"
    assert machine.ask("deployments/count", {}) == 2
    machine.do("imagetask deploy")
    automations = sorted(automation["name"] for automation in machine.ask("automations/filter", {}))
    ours = ["imagetask: new prompts", "imagetask: runs that did not start", "imagetask: runs without a heartbeat"]
    assert automations == ours
    on_demand = machine.ask("deployments/name/generate-images/on-demand")
    assert on_demand["parameter_openapi_schema"]["additionalProperties"] is False


@pytest.mark.prefect_server
def test_serve_carries_out_runs_without_a_work_pool(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    [serve] = readme("Without a work pool")
    out = machine.checkout / "out"
    with machine.started("server", SERVER):
        machine.wait_for_server()
        by_itself = f'{serve.rstrip()} /some/prompts.csv --out {out}-by-itself --cron "0 0 1 1 *"'
        with machine.started("serve", by_itself, may_end=True, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="600") as served:
            machine.wait_until(lambda: machine.ask("deployments/count", {}) == 2, "nothing was deployed")
            assert _paused(machine) == [False]
            trigger = f"imagetask trigger {machine.checkout}/examples/prompts.csv --out {out} --limit 2 --watch"
            with machine.started("trigger", trigger, may_end=True):
                assert machine.wait_until(lambda: _paces(machine), "no run began") == {"30"}
                run = str(machine.wait_until(machine.runs, "no run was asked for")[0]["id"])
                assert machine.ended(run) == "Completed"
            os.killpg(served.pid, signal.SIGINT)
            served.wait(30)
        assert _paused(machine) == [True], "after Ctrl-C"
        before = _last_polled(machine)
        with machine.started("serve", by_itself):
            machine.wait_until(lambda: _last_polled(machine) != before, "it looks for no runs")
            assert _paused(machine) == [False], "it goes on"
        assert _paused(machine) == [True], "after SIGTERM"
        told = machine.ask("deployments/name/generate-images/on-demand")
        assert told["parameter_openapi_schema"]["additionalProperties"] is False
        assert told["work_pool_name"] is None
        machine.do("imagetask deploy")
        assert "belongs to the work pool imagetask" in machine.do("imagetask serve", code_expected=WRONG_USAGE)
    assert len(ImageDataset(out)) == 2


def _paused(machine: Machine) -> list[bool]:
    """Whether each schedule of the scheduled deployment waits."""
    deployment = machine.ask("deployments/name/generate-images/scheduled")
    return [deployment["paused"] or not schedule["active"] for schedule in deployment["schedules"]]


def _last_polled(machine: Machine) -> str | None:
    """When somebody last asked for runs of the scheduled deployment."""
    polled: str | None = machine.ask("deployments/name/generate-images/scheduled")["last_polled"]
    return polled


def _paces(machine: Machine) -> set[str]:
    """The seconds between two heartbeats (as text) of the runs' processes that go on."""
    paces, name = set(), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY="
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_text(errors="replace").split("\0")
            words = (process / "cmdline").read_text(errors="replace")
            if f"PREFECT_HOME={machine.home}/prefect" in variables and "engine" in words:
                paces |= {each.removeprefix(name) for each in variables if each.startswith(name)}
    return paces


def test_a_deployed_run_is_taken_for_dead_by_its_heartbeats_and_for_ended_by_every_name_of_a_last_state() -> None:
    trigger = trigger_of("imagetask: runs without a heartbeat")
    pace = described("prefect.yaml")["deployments"][0]["work_pool"]["job_variables"]["env"]
    assert trigger.within.total_seconds() == 3 * int(pace["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert trigger.covers(_event("heartbeat"))
    assert trigger.starts_after("prefect.flow-run.heartbeat")
    assert not trigger.covers(_event("heartbeat", deployed=False)), "imagetask generate has a slower pace"
    assert not trigger.covers(_event("heartbeat", ours=False)), "so has a deployment of the user's own"
    for state in last_states():
        assert trigger.covers(_event(str(state.name))), state.name
        assert trigger.expects(f"prefect.flow-run.{state.name}"), state.name
    assert not trigger.expects("prefect.flow-run.Running"), "a run that dies before its second heartbeat would stay"


def test_a_deployed_run_that_was_taken_is_waited_for_until_it_runs_waits_or_ends() -> None:
    trigger = trigger_of("imagetask: runs that did not start")
    taken: list[State[Any]] = [Pending(), Submitting(), InfrastructurePending()]
    for state in taken:
        assert trigger.starts_after(f"prefect.flow-run.{state.name}"), state.name
        assert trigger.expects(f"prefect.flow-run.{state.name}"), "the time would not begin anew"
    later: list[State[Any]] = [Running(), PrefectScheduled(), Late(), AwaitingRetry(), *last_states()]
    for state in later:
        assert trigger.expects(f"prefect.flow-run.{state.name}"), state.name
        assert not trigger.starts_after(f"prefect.flow-run.{state.name}"), state.name
    assert trigger.covers(_event("Pending"))
    assert not trigger.covers(_event("Pending", deployed=False))
    lease = timedelta(seconds=get_current_settings().server.concurrency.initial_deployment_lease_duration)
    assert trigger.within + timedelta(seconds=30) < lease, "a place that Prefect took away would be taken away again"


def trigger_of(name: str) -> EventTrigger:
    [found] = [each for each in described("automations.yaml")["automations"] if each["name"] == name]
    return EventTrigger.model_validate(found["trigger"])


def last_states() -> list[State[Any]]:
    """Every name of a last state that a run may come to."""
    settings = RunSettings(source="prompts.csv", out=Path("out"), max_images=1)
    interrupted, out_of_money = RunStopped("interrupted", "a person"), RunStopped("billing", "no money")
    return [
        completed_state(Counts(), settings),
        completed_state(Counts(rows=1, generations=1, pending=1), settings),
        completed_state(Counts(rows=1, generations=1, pending=1), settings, budget_reached=True),
        completed_state(Counts(rows=1, generations=1, failed={"refused": 1}), settings),
        failed_state(interrupted),
        failed_state(out_of_money),
        failed_state(StorageError("disk full")),
        Crashed(),
    ]


def _event(name: str, deployed: bool = True, ours: bool = True) -> ReceivedEvent:
    """As a flow run's process or the server emits it."""
    flow = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow"}
    deployment = {"prefect.resource.id": "prefect.deployment.2", "prefect.resource.role": "deployment"}
    tag = {"prefect.resource.id": "prefect.tag.imagetask", "prefect.resource.role": "tag"}
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "event": f"prefect.flow-run.{name}",
            "resource": {"prefect.resource.id": "prefect.flow-run.3"},
            "related": [
                {**flow, "prefect.resource.name": "generate-images"},
                *([deployment] if deployed else []),
                *([tag] if ours else []),
            ],
        }
    )


def test_the_run_form_has_every_parameter_of_a_run_described_and_in_the_order_of_the_flow() -> None:
    properties = form()["properties"]
    assert set(properties) == set(RunSettings.model_fields)
    assert [schema["position"] for schema in properties.values()] == list(range(len(properties)))
    assert [name for name, schema in properties.items() if not schema.get("description")] == []
    assert list(properties)[:3] == ["source", "out", "model"]


def test_prefects_own_run_form_describes_the_parameters_as_the_settings_do() -> None:
    own = {name: schema["description"] for name, schema in generate_images.parameters.properties.items()}
    assert own == {name: field.description for name, field in RunSettings.model_fields.items()}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"modell": "placeholder"}, "modell"),
        ({"out": "out/cats"}, "out"),
        ({"source": "prompts.csv"}, "source"),
        ({"source": ["/a.csv", "b.csv"]}, "source"),
        ({"source": None}, "source"),
        ({"width": "wide"}, "width"),
        ({"store": "cache"}, "store"),
        ({"task": "MyTask"}, "task"),
    ],
)
def test_the_run_form_refuses_what_would_be_wrong_on_a_worker(parameters: dict[str, Any], named: str) -> None:
    assert _refused(parameters, named)


REFUSED: dict[str, list[Any]] = {
    "source": [
        "s3://me:pass5word@bucket/p.csv",
        "s3://bucket/p.csv?key=pass5word",
        "hf://models/a/b",
        "/mnt/s3://p.csv",
        ["/a.csv", "https://host/b.csv"],
        "~nobody-of-the-name/p.csv",
    ],
    "prompt": ["a {}", "a {b!r}", "a {b:>10}", "a } b", "a {b"],
    "param_column": [{"prompt": "text"}, {"api_key": "pass5word"}],
    "push_to": ["name", "owner/name/more", "https://host/owner/name", "/name", ""],
    "hub_credentials": ["hf_pass5word", "my block"],
    "license": ["My own", ""],
    "out": ["~nobody-of-the-name/out"],
    "model": ["dall-e:3", ["placeholder", "dall-e"], [], ["placeholder", "placeholder"], "Placeholder"],
    "base_url": [
        "http://me:pass5word@host/v1",
        "http://host/v1?key=pass5word",
        "http://host?key=pass5word",
        "ftp://host",
        "host:8000",
        "http:///v1",
        "http://[v1",
    ],
    "credentials": ["sk-Pass5word", "hf_pass5word", "my block", "", "a/b"],
    "num_generations": [0],
    "seed": [-1],
    "width": [0],
    "height": [0],
    "num_inference_steps": [0],
    "param": [
        *({name: "pass5word"} for name in ("api_key", "APIKEY", "TOKEN", "hf_Token", "x-Api-Key", "Authorization")),
        *({name: "pass5word"} for name in ("password", "my-PassWord", "client_SECRET", "authorization")),
        {"extra_headers": {"AUTHORIZATION": "pass5word"}},
        {"extra_body": {"more": [{"Token": "pass5word"}]}},
    ],
    "chunk_rows": [0],
    "max_concurrency": [0],
    "requests_per_minute": [0, -0.5],
    "timeout": [0],
    "max_images": [0],
    "max_cost": [0, -1],
    "max_failed": [-1],
    "max_failed_share": [-0.1, 1.5],
    "max_refused_share": [-0.1, 1.5],
    "limit": [0],
    "dask_address": ["host", "tcp://host", "http://host:8786", "tcp://me:pass5word@host:8786", "tcp://host:8786?a=b"],
    "store": ["s3://me:pass5word@bucket/a", "s3://bucket/a?key=pass5word", "s3://bucket?pass5word", "~nobody-there/a"],
}
"""Parameter → values that a rule of its field in `RunSettings` refuses."""


def test_values_that_are_refused_are_known_of_every_field_with_a_rule() -> None:
    checked = {
        name for each in RunSettings.__pydantic_decorators__.field_validators.values() for name in each.info.fields
    }
    limited = {name for name, field in RunSettings.model_fields.items() if field.metadata}
    assert checked | limited == REFUSED.keys()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values], ids=str
)
def test_what_settings_refuse_the_run_form_refuses_and_no_error_shows_a_secret(name: str, value: Any) -> None:
    wanted = {"source": "/p.csv", "out": "/out", name: value}
    assert _refused({name: value}, name)
    with pytest.raises((ValidationError, UsageError)) as caught:
        RunSettings(**wanted)
    with pytest.raises(UsageError, match=name.replace("_", ".")) as told:
        RunSettings.checked(**wanted)
    assert "ass5word" not in f"{caught.value} {told.value}"
    assert len(str(told.value).splitlines()) == 1


def _refused(parameters: dict[str, Any], named: str) -> bool:
    errors = validate({"source": "/p.csv", "out": "/out", **parameters}, form())
    return any(named in f"{error.json_path} {error.message}" for error in errors)


def test_the_run_form_takes_what_settings_send() -> None:
    settings = RunSettings(
        source=["a.csv", "/b/*.csv"],
        out=Path("out"),
        model=["openai:gpt-image-2", "placeholder"],
        base_url="http://127.0.0.1:1/v1",
        store="s3://bucket/images",
        param={"quality": "low", "output_compression": 3},
        rename={"old": "new"},
        width=64,
        guidance_scale=2.5,
        limit=None,
    )
    sent = sent_parameters(settings)
    assert validate(sent, form()) == []
    assert (sent["source"], sent["out"]) == ([str(Path.cwd() / "a.csv"), "/b/*.csv"], str(Path.cwd() / "out"))
    assert "limit" not in sent
    assert RunSettings(**sent).model_dump() == settings.model_copy(update={"source": sent["source"]}).model_dump()


def test_a_deployment_has_every_schedule_that_was_given_in_its_time_zone() -> None:
    planned = schedules("0 6 * * *", 3600, "Europe/Vienna")
    [entry] = [each for each in described("prefect.yaml")["deployments"] if each["name"] == SCHEDULED]
    settings = RunSettings(source="/p.csv", out=Path("/out"), seed=0)
    deployment = runner_deployment(entry, Scheduled(settings, planned, "posters"))
    made = [each.schedule for each in deployment.schedules or ()]
    assert [type(each) for each in made] == [CronSchedule, IntervalSchedule]
    assert isinstance(made[0], CronSchedule)
    assert isinstance(made[1], IntervalSchedule)
    assert (made[0].cron, made[0].timezone) == ("0 6 * * *", "Europe/Vienna")
    assert (made[1].interval, made[1].timezone) == (timedelta(hours=1), "Europe/Vienna")
    assert deployment.name == "posters"
    assert deployment.parameters == {"source": "/p.csv", "out": "/out", "seed": 0}


def test_what_was_given_is_sent_even_where_it_is_the_default() -> None:
    given = Options(seed=0, rebuild=None, max_concurrency=8).parameters(("p.csv",), Path("out"))
    assert given == {"source": "p.csv", "out": "out", "seed": 0, "max_concurrency": 8}
    assert sent_parameters(RunSettings.checked(**given)).keys() == given.keys()


def test_prefect_finds_the_blocks_where_it_looks_for_collections() -> None:
    [found] = entry_points(group="prefect.collections", name="imagetask")
    assert found.load().BLOCKS is BLOCKS


@pytest.mark.parametrize(
    "words",
    [
        ["deploy", "--api-key=sk-Secret1"],
        ["generate", "p.csv", "--out", "out", "--token", "sk-Secret1"],
        ["--api-key=sk-Secret1", "generate"],
        ["generate", "p.csv", "--out", "out", "-ksk-Secret1"],
        ["trigger", "p.csv", "--out", "out", "--watch=sk-Secret1"],
        ["blocks", "create", "openai", "mine", "--overwrite=sk-Secret1"],
        ["generate", "p.csv", "--out", "out", "--seed", "sk-Secret1"],
        ["generate", "p.csv", "--out", "out", "--credentials", "sk-Secret1"],
        ["status", "out", "sk-Secret1"],
        ["sk-Secret1"],
    ],
)
def test_no_command_repeats_a_key_that_was_given_to_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["imagetask", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == WRONG_USAGE
    assert told.startswith("Error: ")
    assert len(told.strip().splitlines()) == 1
    assert "Secret1" not in told


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("p.csv", "--out", "d"), "no schedule was given"),
        (("p.csv", "--out", "d", "--interval", "60", "--name", ""), "--name: it is empty"),
        (("p.csv", "--out", "d", "--interval", "60", "--name", "on-demand"), "--name on-demand"),
        (("--seed", "0"), "no SOURCE was given"),
        (("p.csv", "--interval", "60"), "--out is missing"),
        (("--interval", "60"), "no SOURCE was given"),
        (("p.csv", "--out", "d", "--interval", "0"), "--interval 0"),
        (("p.csv", "--out", "d", "--cron", "every day"), "--cron every day"),
        (("p.csv", "--out", "d", "--cron", "0 6 * * *", "--timezone", "Mars/Base"), "--timezone Mars/Base"),
        (("p.csv", "--out", "d", "--interval", "60", "--model", "nonsense"), "nonsense"),
        (("p.csv", "--out", "d", "--interval", "60", "--prompt-column", "title"), "title"),
        (("p.csv", "--out", "d", "--interval", "60"), "no Prefect server is named"),
    ],
)
def test_deploy_says_in_one_sentence_what_is_wrong(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    (tmp_path / "p.csv").write_text("prompt\na cat\n")
    ended = imagetask("deploy", *options, cwd=tmp_path)
    assert ended.code == WRONG_USAGE
    assert named in ended.text
    assert len(ended.text.strip().splitlines()) == 1
