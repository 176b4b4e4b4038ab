"""Chunks on the workers of a Dask cluster: a real scheduler and two real worker processes on loopback."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from imagetask_flows import monitoring
from imagetask_flows.dask_workers import _check_scheduler
from imagetask_flows.generate_images import generate_images
from imagetask_flows.models_in_use import stop_models
from obstore.store import from_url

from imagetask import ImageDataset
from imagetask.errors import ImageTaskError, UsageError
from imagetask.models.budget import spent
from imagetask.models.event_loop import IMAGE_THREADS, event_loop
from imagetask.runs import Run
from imagetask.settings import RunSettings
from tests.dask_cluster import DaskCluster, dask_cluster
from tests.model_server import Call, ModelServer, RemoteModelServer, start_model_server
from tests.s3_server import S3Server, start_s3_server

pytestmark = pytest.mark.prefect_server
PLACES = 12


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers, each with a key of its own, by which the model server's ledger tells them."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), workers=0, environment=s3.environment) as cluster:
        cluster.add_workers(*({"OPENAI_API_KEY": f"key-of-worker-{number}"} for number in (1, 2)))
        yield cluster


@pytest.fixture(autouse=True)
def _its_store(s3: S3Server, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-flow")


def run(
    cluster: DaskCluster, server: ModelServer | RemoteModelServer, folder: Path, rows: int, **parameters: Any
) -> Any:
    """The state of a run over so many rows."""
    source = folder / "prompts.csv"
    source.write_text("prompt\n" + "".join(f"teapot number {number}\n" for number in range(rows)))
    given = {"max_concurrency": PLACES, "chunk_rows": 10, **parameters}
    return generate_images(
        str(source),
        str(folder / "out"),
        model="openai:m",
        base_url=server.openai_url,
        runner="dask",
        dask_address=cluster.address,
        return_state=True,
        **given,
    )


def counts_of(state: Any) -> dict[str, Any]:
    counts: dict[str, Any] = state.result()
    return counts


def pictures(folder: Path) -> dict[str, str]:
    """Prompt → the hash of the bytes of its image, of the rows that have one."""
    rows = ImageDataset(folder / "out").scan().collect().to_dicts()
    return {row["prompt"]: hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows if row["image"]}


def kept(store: str) -> set[str]:
    """The first eight digits of the hashes of the images that a store (a URL) has with their records, by its names."""
    options: Any = {"client_options": {"allow_http": True}} if store.startswith("s3:") else {}
    names = [Path(entry["path"]) for page in obstore.list(from_url(store, **options)) for entry in page]
    records = {name.stem for name in names if name.suffix == ".json"}
    images = [name.stem.rpartition("-") for name in names if name.suffix == ".png"]
    return {sha256 for key, _, sha256 in images if key in records}


def made_again(calls: list[Call]) -> list[Call]:
    """The first calls for the prompts that were asked for a second time; none was a third time."""
    first: dict[str, Call] = {}
    again: dict[str, Call] = {}
    for call in calls:
        assert call.prompt not in again
        (again if call.prompt in first else first)[call.prompt] = call
    return [first[prompt] for prompt in again]


def test_both_workers_make_images_within_the_limits_of_the_run_with_their_own_keys(
    cluster: DaskCluster, s3: S3Server, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.latency = 0.2
    counts = counts_of(run(cluster, model_server, tmp_path, 400, store=s3.store_url("both")))
    assert (counts["done"], counts["reused"]) == (400, 0)
    calls = model_server.calls
    assert Counter(call.prompt for call in calls).most_common(1)[0][1] == 1
    by_key = Counter(call.authorization for call in calls)
    assert by_key.keys() == {"Bearer key-of-worker-1", "Bearer key-of-worker-2"}
    assert min(by_key.values()) > 20
    assert PLACES / 2 < model_server.max_in_flight <= PLACES
    assert pictures(tmp_path) == {call.prompt: call.sha256 for call in calls}
    progress = monitoring.current()
    assert progress is not None
    assert (progress.calls, progress.new_images, progress.finished, len(progress.latencies)) == (400, 400, 400, 400)

    again = counts_of(run(cluster, model_server, tmp_path, 400, store=s3.store_url("both")))
    assert (again["done"], again["reused"], len(model_server.calls)) == (400, 400, 400)


def may_be_charged(calls: list[Call]) -> int:
    return sum(call.status is None or call.status < 400 for call in calls)


def test_requests_per_minute_hold_over_both_workers_together(
    cluster: DaskCluster, s3: S3Server, tmp_path: Path
) -> None:
    """In any time no more calls come than the rate allows, and two more of each worker: the first, and one that was
    sent when its turn came and took longer on its way than the next."""
    store = s3.store_url("paced")
    with start_model_server() as server:
        counts = counts_of(run(cluster, server, tmp_path, 40, store=store, chunk_rows=4, requests_per_minute=180))
        calls = server.calls
    assert counts["done"] == len(calls) == 40
    assert {str(call.authorization)[-1] for call in calls} == {"1", "2"}
    came = [call.time for call in calls]
    for first, began in enumerate(came):
        for last in range(first, len(came)):
            assert last - first + 1 <= (came[last] - began) * 180 / 60 + 4


def test_a_budget_is_spent_to_the_last_image_and_not_exceeded_over_all_processes(
    cluster: DaskCluster, s3: S3Server, model_server: ModelServer, tmp_path: Path
) -> None:
    store = s3.store_url("budget")
    model_server.latency = lambda prompt: 0.1 + 0.05 * (int(prompt.split()[-1]) % 7)
    for number in range(0, 200, 9):
        model_server.fail(f"teapot number {number}", "refused", forever=True)
    state = run(cluster, model_server, tmp_path, 200, store=store, max_images=60)
    counts = counts_of(state)
    assert state.name == "Budget reached"
    assert may_be_charged(model_server.calls) == counts["done"] == 60
    assert spent(tmp_path / "out/_imagetask/spent.txt").images == 60
    assert counts["pending"] + counts["failed"]["refused"] == 140
    more = run(cluster, model_server, tmp_path, 200, store=store, max_images=500)
    assert counts_of(more)["pending"] == 0
    assert len({call.prompt for call in model_server.calls}) == len(model_server.calls) == 200


def test_what_stops_a_run_in_a_worker_stops_it_everywhere_and_is_told_as_it_is(
    cluster: DaskCluster, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(None, "unauthorized", forever=True)
    state = run(cluster, model_server, tmp_path, 200)
    assert state.name == "Stopped: auth"
    assert "Incorrect API key" in state.message
    assert "the same parameters go on from there" in state.message
    assert len(model_server.calls) <= 2 * PLACES
    assert Run.read(tmp_path / "out").state == "stopped"


def test_a_run_that_is_cancelled_makes_no_more_calls_anywhere(
    cluster: DaskCluster, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.latency = 0.5

    def cancel() -> None:
        model_server.wait_for_calls(30, timeout=60)
        progress = monitoring.current()
        assert progress is not None
        stop_models(progress.run, "interrupted", "it was cancelled")

    thread = threading.Thread(target=cancel)
    thread.start()
    state = run(cluster, model_server, tmp_path, 200)
    thread.join()
    assert state.name == "Cancelled"
    assert model_server.counts().in_flight == 0
    made = len(model_server.calls)
    time.sleep(2)
    assert len(model_server.calls) == made
    assert 30 <= made < 200
    model_server.latency = 0.05
    counts = counts_of(run(cluster, model_server, tmp_path, 200))
    assert counts["done"] == 200
    assert len(model_server.calls) == 200, "what came in is kept"


def test_a_run_whose_workers_are_all_gone_says_so_waits_for_others_and_can_be_cancelled(
    model_server: ModelServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model_server.latency = 0.3

    def kill_and_cancel() -> None:
        model_server.wait_for_calls(8, timeout=60)
        os.killpg(emptied.workers[0].pid, signal.SIGKILL)
        until = time.monotonic() + 30
        while "no workers are left on the Dask cluster" not in caplog.text and time.monotonic() < until:
            time.sleep(0.05)
        progress = monitoring.current()
        assert progress is not None
        stop_models(progress.run, "interrupted", "it was cancelled")

    with dask_cluster(tmp_path / "dask", workers=1, environment={"OPENAI_API_KEY": "k"}) as emptied:
        thread = threading.Thread(target=kill_and_cancel)
        thread.start()
        state = run(emptied, model_server, tmp_path, 100)
        thread.join()
    assert state.name == "Cancelled"
    assert caplog.text.count("no workers are left on the Dask cluster") == 1


def test_a_killed_worker_costs_no_finished_image_and_one_that_joins_takes_its_part(
    cluster: DaskCluster, model_server: ModelServer, s3: S3Server, tmp_path: Path
) -> None:
    model_server.latency = 0.5
    store = s3.store_url("killed")
    finished: set[str] = set()
    killed = 0.0

    def calls_of(worker: int) -> list[Call]:
        return [call for call in model_server.calls if call.authorization == f"Bearer key-of-worker-{worker}"]

    def wait_for(worker: int, calls: int) -> None:
        until = time.monotonic() + 90
        while len(calls_of(worker)) < calls and time.monotonic() < until:
            time.sleep(0.05)

    def kill() -> None:
        nonlocal killed
        wait_for(worker=2, calls=1)
        wait_for(worker=1, calls=20)
        model_server.latency = 4.0  # some are in flight when it dies, and there is work left when another one joins
        wait_for(worker=1, calls=len(calls_of(1)) + 1)
        finished.update(kept(store))
        killed = time.time()
        os.killpg(cluster.workers[0].pid, signal.SIGKILL)
        cluster.add_workers({"OPENAI_API_KEY": "key-of-worker-3"})
        wait_for(worker=3, calls=1)
        model_server.latency = 0.05

    thread = threading.Thread(target=kill)
    thread.start()
    counts = counts_of(run(cluster, model_server, tmp_path, 360, store=store))
    thread.join()
    assert counts["done"] == 360
    calls = model_server.calls
    assert len({str(call.sha256)[:8] for call in calls_of(1)} & finished) >= 5, "of the killed worker"
    again = made_again(calls)
    assert 0 < len(again) <= PLACES
    for call in again:
        assert call.authorization == "Bearer key-of-worker-1"
        assert str(call.sha256)[:8] not in finished
        assert call.time + (call.seconds or 0.0) > killed - 1.0, "in flight, or answered just before"
    assert {str(call.authorization)[-1] for call in calls} == {"1", "2", "3"}
    assert model_server.max_in_flight <= PLACES
    came = pictures(tmp_path)
    assert len(came) == 360
    assert set(came.values()) <= {call.sha256 for call in calls}
    progress = monitoring.current()
    assert progress is not None
    assert progress.finished <= 360 + 10


def test_a_scheduler_that_does_not_answer_or_has_no_workers_is_told_in_a_sentence(
    model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask_flows.dask_workers.CONNECT_SECONDS", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with dask_cluster(tmp_path / "dask", workers=0) as empty:
        state = run(empty, model_server, tmp_path, 3)
        assert state.message == (
            f"the Dask scheduler at {empty.address} has no workers: start some with dask worker {empty.address}"
        )
        empty.address = nobody
        state = run(empty, model_server, tmp_path, 3)
    assert state.message.startswith(f"no Dask scheduler answers at {nobody}: ")
    assert "\n" not in state.message
    assert model_server.calls == []


def test_a_server_of_another_kind_is_told_to_be_no_scheduler(
    model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask_flows.dask_workers.CONNECT_SECONDS", 1)
    address = model_server.openai_url.replace("http://", "tcp://").removesuffix("/v1")
    with pytest.raises(UsageError, match=f"^what answers at {address} is no Dask scheduler: give the address"):
        event_loop().run(_check_scheduler(address))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"runner": "dask"}, "--runner dask: name its scheduler with --dask-address"),
        ({"runner": "dask", "dask_address": "tcp://user:pass5word@host:1"}, "--dask-address: expected the address"),
        ({"runner": "ray"}, "--runner: must be 'threads' or 'dask'"),
    ],
)
def test_settings_that_name_no_cluster_are_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}") as caught:
        RunSettings.checked(source="rows.csv", out="out", **given)
    assert "pass5word" not in str(caught.value)


WITHOUT_DASK = """
import sys
sys.modules["prefect_dask"] = None
from imagetask.settings import RunSettings
from imagetask_flows.task_runners import chunk_runner
settings = RunSettings.checked(source="a.csv", out="out", runner="dask", dask_address="tcp://127.0.0.1:1")
try:
    with chunk_runner(settings, "run"):
        pass
except Exception as error:
    print(type(error).__name__, error)
"""


def test_dask_that_is_not_installed_is_named_with_what_to_install() -> None:
    command = [sys.executable, "-c", WITHOUT_DASK]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert told == "UsageError --runner dask needs prefect_dask: pip install 'imagetask[dask]'"


def test_a_lost_scheduler_ends_the_run_with_a_sentence_and_the_same_run_goes_on_elsewhere(
    cluster: DaskCluster, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.latency = 0.3
    finished: set[str] = set()
    with dask_cluster(tmp_path / "dask", workers=1, environment={"OPENAI_API_KEY": "k"}) as lost:

        def kill() -> None:
            model_server.wait_for_calls(60, timeout=60)
            finished.update(kept(f"file://{tmp_path}/out/_imagetask/store"))
            lost.stop()

        thread = threading.Thread(target=kill)
        thread.start()
        started = time.monotonic()
        state = run(lost, model_server, tmp_path, 100)
        thread.join()
    assert time.monotonic() - started < 60
    assert isinstance(state.data if isinstance(state.data, Exception) else state.data.result, ImageTaskError)
    assert "a chunk was lost on the Dask cluster" in state.message
    made = len(model_server.calls)
    model_server.latency = 0.05
    assert counts_of(run(cluster, model_server, tmp_path, 100))["done"] == 100
    assert made >= 60
    assert len(finished) > PLACES
    again = made_again(model_server.calls)
    assert len(again) <= PLACES + 2 * IMAGE_THREADS
    assert finished.isdisjoint(str(call.sha256)[:8] for call in again)
