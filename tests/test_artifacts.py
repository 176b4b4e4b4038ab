"""What one sees of a run while it goes on: progress and newest images, updated in place, at no harm to the run."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from imagetask_flows.models_in_use import stop_models
from imagetask_flows.watching.artifacts import Seconds, live_artifacts
from imagetask_flows.watching.contact_sheets import MOST_BYTES
from imagetask_flows.watching.posting import artifact_key
from PIL import Image as PILImage
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from imagetask.errors import RunStopped
from tests.model_server import ModelServer
from tests.watched_runs import WatchedRun, artifacts_of, in_flow_run, wait_for, watched_run

QUICK = Seconds(progress=0.05, images=0.05, state=0.05, moment=0.02, answer=1.0, end=5.0)
PROMPTS = [f"a kite over the {place}" for place in ("sea", "moor", "city", "lake", "dune", "wood", "hill", "pier")]


def picture_in(markdown: str) -> PILImage.Image:
    """The one picture that is part of a text."""
    [data] = re.findall(r"!\[[^\]]+\]\(data:image/jpeg;base64,([^)]+)\)", markdown)
    picture = PILImage.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


@pytest.mark.prefect_server
def test_progress_and_pictures_grow_in_one_artifact_each(prefect_server: None, tmp_path: Path) -> None:
    texts: list[str] = []

    def work(run: str) -> str:
        def told(wanted: str) -> bool:
            texts[-1:] = [str(artifacts_of(run).get("progress-kites"))]
            return wanted in texts[-1]

        def height() -> int:
            found = artifacts_of(run).get("images-kites")
            return 0 if found is None else picture_in(str(found.data)).height

        def higher(before: int) -> bool:
            return height() > before

        with watched_run(tmp_path / "Kites", PROMPTS, run, chunk_rows=4, width=64, height=64) as small:
            with live_artifacts(small.settings, small.progress, seconds=QUICK):
                for chunk, wanted in enumerate(("4 of 8 done", "8 of 8 done")):
                    before = height()
                    small.answer(chunk)
                    texts.append("")
                    wait_for(partial(told, wanted))
                    wait_for(partial(higher, before))
                small.progress.end_chunks(small.counts)
            return run

    run = in_flow_run(work)
    half, whole = texts
    assert "50 %" in half
    assert "**Running**" in half
    assert half.count("█") == half.count("░") == 20
    assert (whole.count("█"), whole.count("░")) == (40, 0)
    found = artifacts_of(run)
    assert found.keys() == {"progress-kites", "images-kites"}
    assert "**Completed** · 8 images" in str(found["progress-kites"].data)
    last = str(found["images-kites"].data)
    newest = tmp_path / "Kites" / "_imagetask" / "newest.jpg"
    assert picture_in(last).tobytes() == PILImage.open(newest).tobytes()
    assert str(newest) in last
    assert newest.stat().st_size <= MOST_BYTES


@pytest.mark.prefect_server
def test_failures_waiting_and_the_end_are_told(prefect_server: None, tmp_path: Path, model_server: ModelServer) -> None:
    model_server.fail("moor", "refused")
    model_server.fail("city", "insufficient_quota")

    def work(run: str) -> str:
        options = {"model": "openai:m", "base_url": model_server.openai_url, "chunk_rows": 2}
        with (
            watched_run(tmp_path / "kites", PROMPTS, run, **options) as small,
            pytest.raises(RunStopped),
            live_artifacts(small.settings, small.progress, seconds=QUICK),
        ):
            small.answer()
        return run

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OPENAI_API_KEY", "sk-of-nobody-4711")
        told = str(artifacts_of(in_flow_run(work))["progress-kites"].data)
    assert "1 (1 refused)" in told
    assert re.search(r"\*\*Stopped: billing\*\* · .*quota", told)
    assert "not known: prices belong in the block" in told
    assert "sk-of-nobody" not in told


@pytest.mark.prefect_server
def test_a_run_that_is_cancelled_on_the_server_is_told_so_once(prefect_server: None, tmp_path: Path) -> None:
    cancelled, told = [], []

    def work(run: str) -> None:
        def stop() -> None:
            cancelled.append(run)
            stop_models(run, "interrupted", "it was cancelled")

        with watched_run(tmp_path / "kites", PROMPTS, run, chunk_rows=4, width=64, height=64) as small:

            def go_on() -> None:
                with live_artifacts(small.settings, small.progress, stop, QUICK):
                    small.answer(0)
                    with get_client(sync_client=True) as client:
                        client.set_flow_run_state(UUID(run), Cancelling(), force=True)
                    wait_for(lambda: "Being cancelled" in str(artifacts_of(run).get("progress-kites")))
                    small.answer(1)

            with pytest.raises(RunStopped, match="it was cancelled"):
                go_on()
            told.append(str(artifacts_of(run)["progress-kites"].data))

    in_flow_run(work)
    assert len(cancelled) == 1
    assert "**Cancelled** · it was cancelled" in told[0]


class Api:
    """The few answers of a Prefect server that artifacts need; behaves as it is told.

    status: what is answered instead; pause: seconds before any answer. state: of the run. texts: of its artifacts.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.pause = 0.0
        self.state = "RUNNING"
        self.requests: list[str] = []
        self.texts: list[str] = []
        self.dead = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                api.requests.append(f"{self.command} {self.path}")
                api.texts.append(json.loads(sent or b"{}").get("data") or "")
                api.dead.wait(api.pause)
                body = json.dumps(api.body(self.command, self.path)).encode()
                self.send_response(404 if "csrf" in self.path else api.status or 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = answer

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def body(self, method: str, path: str) -> Any:
        if path.endswith("/filter"):
            return [{"id": str(uuid4()), "key": "an-earlier-one"}]
        state = {"type": self.state, "name": self.state.capitalize()}
        return {} if method == "PATCH" else {"id": str(uuid4()), "flow_id": str(uuid4()), "name": "a", "state": state}

    def die(self) -> None:
        self.dead.set()
        self.server.shutdown()
        self.server.server_close()

    def updates(self) -> int:
        return sum(request.startswith("PATCH") for request in self.requests)


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.die()


@contextmanager
def watched_on(api: Api, out: Path) -> Iterator[WatchedRun]:
    with temporary_settings({PREFECT_API_URL: api.url}), watched_run(out, PROMPTS, str(uuid4()), width=64) as small:
        yield small


def test_a_server_that_dies_does_the_run_no_harm(api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with watched_on(api, tmp_path / "kites") as small:
        with live_artifacts(small.settings, small.progress, seconds=replace(QUICK, end=120.0)):
            wait_for(lambda: api.updates() > 2)
            api.die()
            small.answer()
            left = time.monotonic()
        assert time.monotonic() - left < 30, "an attempt under way, and one more"
        assert small.counts.done == len(PROMPTS)
    told = [record for record in caplog.records if "an artifact was not updated" in record.message]
    assert 1 <= [record.levelno for record in told].count(logging.WARNING) <= 3, "one for each artifact, and the state"


def test_a_server_that_hangs_does_not_hold_up_the_end(api: Api, tmp_path: Path) -> None:
    api.pause = 120.0
    with watched_on(api, tmp_path / "kites") as small:
        with live_artifacts(small.settings, small.progress, seconds=Seconds(answer=120.0, end=0.5)):
            wait_for(lambda: bool(api.requests))
            left = time.monotonic()
        assert time.monotonic() - left < 30


def test_an_overloaded_server_is_asked_rarely(api: Api, tmp_path: Path) -> None:
    api.pause = 0.2
    with watched_on(api, tmp_path / "kites") as small, live_artifacts(small.settings, small.progress, seconds=QUICK):
        small.answer()
        time.sleep(3)
        assert 1 <= len(api.requests) <= 8, "after each update a rest of ten times what it took"


def test_an_update_that_fails_is_skipped_and_the_next_one_comes(api: Api, tmp_path: Path) -> None:
    api.status = 500
    with watched_on(api, tmp_path / "kites") as small, live_artifacts(small.settings, small.progress, seconds=QUICK):
        wait_for(lambda: len(api.requests) > 3)
        assert api.updates() == 0
        api.status = None
        wait_for(lambda: api.updates() > 1)


def test_an_unforeseen_error_neither_ends_the_updates_nor_hides_a_cancel(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = threading.Event()
    with watched_on(api, tmp_path / "kites") as small:
        small.answer()
        damaged = small.progress.newest(1)[0]
        object.__setattr__(damaged, "image", 0)  # what no code of ours makes
        with live_artifacts(small.settings, small.progress, cancelled.set, QUICK):
            wait_for(lambda: "an artifact was not updated: AttributeError" in caplog.text)
            before = api.updates()
            api.state = "CANCELLING"
            wait_for(cancelled.is_set)
            wait_for(lambda: api.updates() > before)
    told = [record.levelno for record in caplog.records if "AttributeError" in record.message]
    assert told.count(logging.WARNING) == 1


def test_a_slow_server_is_asked_for_the_state_of_the_run_before_anything_else(api: Api, tmp_path: Path) -> None:
    api.pause, api.state = 0.5, "CANCELLING"
    cancelled = threading.Event()
    with watched_on(api, tmp_path / "kites") as small:
        small.answer()
        with live_artifacts(small.settings, small.progress, cancelled.set, replace(QUICK, answer=120.0, end=120.0)):
            wait_for(cancelled.is_set)
            asked = [request for request in api.requests if "csrf" not in request]
    assert asked[0] == f"GET /api/flow_runs/{small.progress.run}"


def test_a_picture_that_the_disk_does_not_take_is_posted_all_the_same(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watched_on(api, tmp_path / "kites") as small:
        newest = small.settings.layout.newest
        newest.mkdir()
        with live_artifacts(small.settings, small.progress, seconds=QUICK):
            small.answer()
            wait_for(lambda: any("Contact sheet of the 8 newest" in text for text in api.texts))
    posted = [text for text in api.texts if "Contact sheet" in text]
    assert not any(str(newest) in text for text in posted), "it names a file that is not there"
    assert "the picture of the newest images was not written: StorageError" in caplog.text


def test_a_picture_that_the_server_does_not_take_is_written_all_the_same(api: Api, tmp_path: Path) -> None:
    api.status = 500
    with watched_on(api, tmp_path / "kites") as small, live_artifacts(small.settings, small.progress, seconds=QUICK):
        small.answer()
        wait_for(small.settings.layout.newest.is_file)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("cats", "images-cats"),
        ("My Cats_2026!", "images-my-cats-2026"),
        ("猫", "images-dataset"),
        ("..", "images-dataset"),
    ],
)
def test_keys_hold_only_what_prefect_allows(name: str, key: str) -> None:
    assert artifact_key("images", name) == key


def test_speed_and_time_left_are_those_of_the_last_moments_and_reused_images_do_not_count(tmp_path: Path) -> None:
    options = {"chunk_rows": 2, "width": 32, "height": 32}
    with watched_run(tmp_path / "kites", PROMPTS, str(uuid4()), **options) as earlier:
        earlier.answer(0)
    with watched_run(tmp_path / "kites", PROMPTS, str(uuid4()), **options) as small:
        progress = small.progress
        small.answer(0)
        progress.note_moment(1000.0)
        assert (progress.speed, progress.time_left) == (None, None), "too early to tell"
        small.answer(1)
        progress.note_moment(1010.0)
        assert (progress.speed, progress.time_left) == (12.0, 20.0), "2 in 10 s, and 4 are left"
        assert (progress.finished, progress.images, progress.new_images) == (4, 4, 2)
        assert {one.prompt for one in progress.newest(2)} == set(PROMPTS[2:4])
        small.answer(2)
        progress.note_moment(1069.0)
        assert progress.speed == pytest.approx(60 * 4 / 69), "from the last moment that is 60 s old"
        progress.note_moment(1080.0)
        assert progress.speed == pytest.approx(60 * 2 / 70)
