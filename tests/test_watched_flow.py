"""A run as Prefect's server shows it, through the flow itself: its log, its artifacts, its tags, and its end."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import polars as pl
import pytest
from imagetask_flows.generate_images import generate_images
from imagetask_flows.watching import artifacts
from imagetask_flows.watching.artifacts import Seconds
from imagetask_flows.watching.telling import tag_run, tell_dead
from imagetask_flows.wording import dollars
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Running
from pydantic import SecretStr

from imagetask.blocks import OpenAIImageCredentials
from imagetask.settings import RunSettings
from tests.model_server import ModelServer
from tests.model_server.faults import Fault
from tests.watched_runs import artifacts_of, wait_for

pytestmark = pytest.mark.prefect_server

USD = 0.04
QUICK = Seconds(progress=0.2, images=0.2, state=0.2, moment=0.1, answer=20.0, end=60.0)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are updated more often than a run of minutes needs."""
    monkeypatch.setattr(artifacts, "SECONDS", QUICK)


@pytest.fixture
def block(prefect_server: None, model_server: ModelServer) -> str:
    """The name of a block with a price for the model m."""
    saved = OpenAIImageCredentials(
        api_key=SecretStr("sk-of-nobody-4711"), base_url=model_server.openai_url, prices={"m": USD}
    )
    saved.save("watched", overwrite=True)
    return "watched"


def ended(out: Path, prompts: list[str], **parameters: Any) -> tuple[str, State[Any]]:
    """A run of the flow in this process: its id, and its state as the server tells it."""
    source = out.with_suffix(".parquet")
    pl.DataFrame({"prompt": prompts}).write_parquet(source)
    told: State[Any] = generate_images(str(source), str(out), return_state=True, **parameters)
    run = told.state_details.flow_run_id
    assert run is not None
    with get_client(sync_client=True) as client:
        known = client.read_flow_run(run).state
    assert known is not None
    return str(run), known


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Does `work` in a thread while the block goes on; what it raises is raised at the end."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(copy_context().run, work)
        yield
        done.result()


def newest(key: str) -> Artifact | None:
    """The artifact of the latest run that has one of this key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return max(found, key=lambda one: str(one.created), default=None)


def data(key: str) -> str:
    return str(getattr(newest(key), "data", ""))


def log_of(run: str) -> list[str]:
    """The lines in the run's log on the server."""
    wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
    with get_client(sync_client=True) as client:
        return [str(line["message"]) for line in client.request("POST", "/logs/filter", json=wanted).json()]


def wait_for_lines(run: str, *patterns: str) -> None:
    """Fails where one of the patterns is in no line of the run's log; the log reaches the server a little later."""

    def told(pattern: str) -> bool:
        return any(re.search(pattern, line) for line in log_of(run))

    for pattern in patterns:
        wait_for(partial(told, pattern), f"the log has no line with {pattern}")


def row(markdown: str, name: str) -> str:
    """The value of a row of a table."""
    [value] = set(re.findall(rf"^\| \*\*{name}\*\* \| (.*) \|$", markdown, re.MULTILINE))
    return str(value)


ANIMALS = ["a fox", "an owl", "a crow", "a goat", "a fish", "a newt", "a hare", "a bat"]


def test_log_and_artifacts_tell_what_the_ledger_of_the_model_server_tells(
    block: str, tmp_path: Path, model_server: ModelServer
) -> None:
    out, options = tmp_path / "animals", {"model": "openai:m", "credentials": block}
    ended(out, ANIMALS, limit=2, **options)
    first = newest("progress-animals")
    assert first is not None
    model_server.reset()
    model_server.fail("goat", "refused")
    model_server.fail("fish", "server_error")
    model_server.fail("bat", Fault("rate_limited", retry_after=0.3), forever=True)
    during: list[str] = []

    def until_all_but_the_bat_are_done() -> None:
        try:
            wait_for(lambda: "7 of 8 done" in data("progress-animals"), "the progress was not updated", 60)
            wait_for(lambda: "The 6 newest of 6 images" in data("images-animals"), "the sheet was not updated", 60)
            during.extend([data("progress-animals"), data("images-animals")])
        finally:
            model_server.recover()

    with beside(until_all_but_the_bat_are_done):
        run, state = ended(out, ANIMALS, **options)
    calls, delivered = len(model_server.calls), len(model_server.delivered)
    assert (delivered, state.name, state.message) == (
        5,
        "Completed with failures",
        "7 of 8 images; failed: 1 refused",
    )

    assert "**Running**" in during[0]
    assert row(during[0], "images") == "6 (2 reused, 4 new)"
    assert row(during[0], "cost so far") == dollars(4 * USD)
    found = artifacts_of(run)
    assert found.keys() == {"progress-animals", "images-animals", "report-animals"}
    progress, sheet, report = (str(found[f"{kind}-animals"].data) for kind in ("progress", "images", "report"))
    assert "8 of 8 done" in progress
    assert "**Completed with failures** · 7 of 8 images; failed: 1 refused" in progress
    for text in (progress, report):
        assert row(text, "failed") == "1 (1 refused)"
    assert row(progress, "images") == "7 (2 reused, 5 new)"
    assert row(progress, "calls") == str(calls)
    assert row(progress, "cost so far") == row(report, "cost") == dollars(delivered * USD)
    assert "The 7 newest of 7 images" in sheet
    assert sheet != during[1]
    assert report.startswith("# animals: Completed with failures\n\n**7 of 8 images · 1 failed")
    assert (row(report, "new in this run"), row(report, "reused")) == ("5", "2")
    assert row(report, "calls") == f"{calls}, of which {delivered} brought an image"
    assert "### refused: 1" in report
    wait_for_lines(
        run,
        r"waiting \d.* s, then asking again: rate_limited",
        r"attempt 2 in \d.* s: server: .*prompt: a fish",
        r"a row failed after attempt 1: refused: .*prompt: a goat",
        r"animals.*rows 8, chunks",
    )
    with get_client(sync_client=True) as client:
        tags = client.read_flow_run(UUID(run)).tags
    assert {tag.partition(":")[0] for tag in tags} == {"dataset", "model", "day"}
    assert {"dataset:animals", "model:openai:m"} <= set(tags)


def test_a_run_that_is_cancelled_on_the_server_makes_no_new_calls_keeps_its_images_and_says_so(
    block: str, tmp_path: Path, model_server: ModelServer
) -> None:
    model_server.latency = 0.2
    prompts = [f"a boat {number}" for number in range(400)]

    def cancel() -> None:
        model_server.wait_for_calls(12)
        wait_for(lambda: newest("progress-boats") is not None, "the run has no artifact")
        shown = newest("progress-boats")
        assert shown is not None
        assert shown.flow_run_id is not None
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(shown.flow_run_id, Cancelling(), force=True)

    out = tmp_path / "boats"
    with beside(cancel):
        run, state = ended(out, prompts, model="openai:m", credentials=block, max_concurrency=4, chunk_rows=50)
    asked = len(model_server.calls)
    assert (state.type.value, state.name) == ("CANCELLED", "Cancelled")
    time.sleep(1)
    assert len(model_server.calls) == asked < len(prompts)
    assert len(list(out.glob("_imagetask/store/*/*.json"))) == asked, "an image that was asked for was not kept"
    found = artifacts_of(run)
    assert "**Cancelled** · it was cancelled on the Prefect server" in str(found["progress-boats"].data)
    report = str(found["report-boats"].data)
    assert report.startswith(f"# boats: Cancelled\n\n**{asked} of 400 images")
    assert "## How to go on\n\nThe run did not come to its end: it was cancelled on the Prefect server" in report
    assert row(report, "new in this run") == str(asked)
    assert (out / "_imagetask" / "report.md").read_text().startswith("# boats: Cancelled")


def test_only_hosted_models_cost_something(block: str, tmp_path: Path, model_server: ModelServer) -> None:
    models = ["placeholder", "openai:m", "openai:of-unknown-price"]
    run, state = ended(tmp_path / "mixed", ANIMALS[:3], model=models, credentials=block)
    assert (state.name, len(model_server.calls)) == ("Completed", 6)
    report = str(artifacts_of(run)["report-mixed"].data)
    assert row(report, "cost") == f"{dollars(3 * USD)}, and 3 images for which the block has no price"
    priced, _ = ended(tmp_path / "priced", ANIMALS[:3], model=models[:2], credentials=block)
    assert row(str(artifacts_of(priced)["report-priced"].data), "cost") == dollars(3 * USD)


def test_what_the_run_cannot_write_or_post_is_in_its_log_on_the_server(prefect_server: None, tmp_path: Path) -> None:
    out = tmp_path / "full-disk"
    (out / "_imagetask" / "report.md").mkdir(parents=True)
    run, state = ended(out, ["a fox"], width=32, height=32)
    assert state.name == "Completed"
    assert "report-full-disk" in artifacts_of(run)
    wait_for_lines(run, "the report of the run is not complete: it was not written: StorageError")


def test_a_dead_run_is_told_crashed_once_and_only_where_it_looks_alive(
    prefect_server: None, caplog: pytest.LogCaptureFixture
) -> None:
    @flow(name="of-the-dead")
    def nothing() -> None:
        return

    def told(state: State[Any]) -> State[Any]:
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(nothing, state=state)
            tell_dead(str(run.id))
            known = client.read_flow_run(run.id).state
        assert known is not None
        return known

    dead = told(Running())
    assert (dead.type.value, dead.name) == ("CRASHED", "Crashed")
    assert "its process is gone: another run into the same folder" in str(dead.message)
    assert told(Completed(name="Completed with failures")).name == "Completed with failures"
    tell_dead(str(uuid4()))
    assert [record.message for record in caplog.records if record.name.startswith("imagetask")] == []


def test_a_server_that_takes_neither_tags_nor_a_death_does_the_run_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RunSettings(source="prompts.csv", out=tmp_path / "out")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        tag_run(settings, str(uuid4()))
        tell_dead(str(uuid4()))
        tell_dead("not an id of Prefect's")
    told = [(record.levelno, record.message) for record in caplog.records if record.name.startswith("imagetask")]
    assert [level for level, _ in told] == [logging.WARNING] * 3
    assert "the run has no tags: " in told[0][1]
    assert "the server was not told that the run " in told[1][1]
