"""From nothing to a dataset through a server, a block and a worker, by the commands of deployments/README.md."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from imagetask_flows.deploying.deployments import described
from imagetask_flows.deploying.run_form import sent_parameters, strict_parameters
from imagetask_flows.generate_images import generate_images
from imagetask_flows.outcome import completed, ended_early
from prefect.client.schemas.objects import State
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.states import Crashed
from prefect.utilities.schema_tools.validation import validate

from imagetask import ImageDataset
from imagetask.errors import RunStopped, StorageError
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
            assert "Completed: 5 images" in machine.do(TRIGGER)
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
    assert automations == ["imagetask: new prompts", "imagetask: runs without a heartbeat"]
    on_demand = machine.ask("deployments/name/generate-images/on-demand")
    assert on_demand["parameter_openapi_schema"]["additionalProperties"] is False


@pytest.mark.prefect_server
def test_serve_carries_out_runs_without_a_work_pool(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    [serve] = readme("Without a work pool")
    out = machine.checkout / "out"
    with machine.started("server", SERVER):
        machine.wait_for_server()
        with machine.started("serve", serve):
            machine.wait_until(lambda: machine.ask("deployments/count", {}), "nothing was deployed")
            said = machine.do(f"imagetask trigger examples/prompts.csv --out {out} --limit 2 --watch")
            assert "Completed: 2 images" in said
        told = machine.ask("deployments/name/generate-images/on-demand")
        assert told["parameter_openapi_schema"]["additionalProperties"] is False
        assert told["work_pool_name"] is None
        machine.do("imagetask deploy")
        assert "belongs to the work pool imagetask" in machine.do("imagetask serve", code_expected=WRONG_USAGE)
    assert len(ImageDataset(out)) == 2


def test_a_deployed_run_is_taken_for_dead_by_its_heartbeats_and_for_ended_by_every_name_of_a_last_state() -> None:
    [automation] = described("automations.yaml")["automations"]
    trigger = EventTrigger.model_validate(automation["trigger"])
    pace = described("prefect.yaml")["deployments"][0]["work_pool"]["job_variables"]["env"]
    assert trigger.within.total_seconds() == 3 * int(pace["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert trigger.covers(_event("heartbeat"))
    assert trigger.starts_after("prefect.flow-run.heartbeat")
    assert not trigger.covers(_event("heartbeat", deployed=False)), "imagetask generate has a slower pace"
    interrupted, out_of_money = RunStopped("interrupted", "a person"), RunStopped("billing", "no money")
    last_states: list[State[Any]] = [
        completed(Counts()),
        completed(Counts(rows=1, generations=1, failed={"refused": 1})),
        ended_early(interrupted),
        ended_early(out_of_money),
        ended_early(StorageError("disk full")),
        Crashed(),
    ]
    for state in last_states:
        assert trigger.covers(_event(str(state.name))), state.name
        assert trigger.expects(f"prefect.flow-run.{state.name}"), state.name
    assert not trigger.expects("prefect.flow-run.Running"), "a run that dies before its second heartbeat would stay"


def _event(name: str, deployed: bool = True) -> ReceivedEvent:
    """As a flow run's process or the server emits it."""
    flow = {"prefect.resource.id": "prefect.flow.1", "prefect.resource.role": "flow"}
    deployment = {"prefect.resource.id": "prefect.deployment.2", "prefect.resource.role": "deployment"}
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "event": f"prefect.flow-run.{name}",
            "resource": {"prefect.resource.id": "prefect.flow-run.3"},
            "related": [{**flow, "prefect.resource.name": "generate-images"}, *([deployment] if deployed else [])],
        }
    )


def test_the_run_form_has_every_parameter_of_a_run_described_and_in_the_order_of_the_flow() -> None:
    properties = form()["properties"]
    assert set(properties) == set(RunSettings.model_fields)
    assert [schema["position"] for schema in properties.values()] == list(range(len(properties)))
    assert [name for name, schema in properties.items() if not schema.get("description")] == []
    assert list(properties)[:3] == ["source", "out", "model"]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"modell": "placeholder"}, "modell"),
        ({"out": "out/cats"}, "out"),
        ({"source": "prompts.csv"}, "source"),
        ({"source": ["/a.csv", "b.csv"]}, "source"),
        ({"source": None}, "source"),
        ({"model": "dall-e:3"}, "model"),
        ({"model": ["placeholder", "dall-e"]}, "model"),
        ({"model": []}, "model"),
        ({"num_generations": 0}, "num_generations"),
        ({"width": "wide"}, "width"),
        ({"timeout": 0}, "timeout"),
        ({"seed": -1}, "seed"),
        ({"base_url": "http://me:secret@host/v1"}, "base_url"),
        ({"store": "cache"}, "store"),
        ({"task": "MyTask"}, "task"),
        ({"param": {"api_key": "sk-1"}}, "param"),
    ],
)
def test_the_run_form_refuses_what_a_run_would(parameters: dict[str, Any], named: str) -> None:
    errors = validate({"source": "/p.csv", "out": "/out", **parameters}, form())
    assert [error for error in errors if named in f"{error.json_path} {error.message}"]


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


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("p.csv", "--out", "d"), "no schedule was given"),
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
