"""The store on an object store: as on disk where it works, and told in one sentence where it does not."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import pytest
from obstore.store import from_url

from imagetask import GenerationStore, ImageDataset, ManagedModel
from imagetask.errors import LostImage, RunStopped, StorageError, UsageError
from imagetask.images import Image
from imagetask.models.event_loop import IMAGE_THREADS, STORE_THREADS
from tests.canary import found, new_key
from tests.command_line import DONE, STOPPED, environment
from tests.conftest import prefect_folders
from tests.faulty_disk import Counting
from tests.model_server import RemoteModelServer, start_model_server
from tests.s3_server import SECRET, S3Server, start_s3_server
from tests.test_store import KEY, picture
from tests.torture.forks import Command, Forks, forks

ROWS = 720
AT_ONCE = 24
IN_FLIGHT = AT_ONCE + 2 * IMAGE_THREADS + STORE_THREADS
"""Pictures that a run has asked for and that are not in the store yet, at most."""
ENOUGH = 200
"""Calls of a run before it is stopped: most of their pictures have to be in the store by then."""
SMALL = {"width": 16, "height": 16}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with start_s3_server() as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, which the environment of this process names; it refuses nothing, and counts from here on."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.refuse(0)
    server.requests()
    return server


@pytest.fixture
def store(s3: S3Server, request: pytest.FixtureRequest) -> GenerationStore:
    """A folder of the bucket for each test."""
    return GenerationStore(s3.store_url(request.node.name))


def test_generation_comes_back_from_s3_as_it_was_put_in_so_many_requests(s3: S3Server, store: GenerationStore) -> None:
    store.check()
    assert s3.requests() == {"PUT": 1, "POST": 1}
    assert store.get(KEY) is None
    image = picture()
    handle = store.put(KEY, {"prompt": "a cat – 猫"}, image)
    assert s3.requests() == {"GET": 1, "PUT": 2}, "of a new generation"
    record = GenerationStore(store.url).get(KEY)
    assert s3.requests() == {"GET": 1, "HEAD": 1}, "of one that is reused"
    assert record is not None
    assert record["prompt"] == "a cat – 猫"
    assert handle is not None
    assert handle.data == store.read(record["image"]["path"]) == image.data
    store.discard(record["image"]["path"])
    assert store.get(KEY) is None
    with pytest.raises(LostImage, match="is not in the store s3://"):
        _ = handle.data


def test_image_of_an_object_store_is_read_in_the_process_that_it_is_sent_to(store: GenerationStore) -> None:
    handle = store.put(KEY, {}, picture())
    script = "import pickle, sys; sys.stdout.buffer.write(pickle.load(sys.stdin.buffer).data)"
    read = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(handle), capture_output=True, timeout=60)
    assert read.stdout == picture().data, read.stderr


def test_images_of_one_folder_share_a_store_where_they_are_sent_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = (GenerationStore("here").put_image(picture(number)) for number in (1, 2))
    monkeypatch.chdir("/")
    sent: list[Image] = pickle.loads(pickle.dumps([one, other]))
    assert [image.data for image in sent] == [picture(1).data, picture(2).data]
    store = pickle.loads(pickle.dumps(GenerationStore(tmp_path / "here")))
    assert store is pickle.loads(pickle.dumps(store))


FAULTS: Mapping[str, tuple[dict[str, str], str]] = {
    "a bucket that does not exist": ({}, "the bucket does not exist"),
    "a wrong key": ({"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "the answer was 403 Forbidden, InvalidAccessKeyId"),
    "no key": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"},
        "there are no credentials in the environment, and this machine gives none",
    ),
    "an endpoint that refuses": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9 refuses connections"),
    "a host that is not known": ({"AWS_ENDPOINT_URL": "http://store.invalid"}, "store.invalid is not known"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_store_that_cannot_work_is_told_in_one_sentence_before_an_image_is_paid_for(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    change, told = FAULTS[fault]
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    url = "s3://no-such-bucket/x" if "bucket" in fault else s3.store_url("x")
    model = Counting(generation_kwargs=SMALL)
    began = time.monotonic()
    with pytest.raises(RunStopped) as caught, ManagedModel(model, store=GenerationStore(url)) as managed:
        managed.generate_outputs(["a cat"])
    assert time.monotonic() - began < 15
    assert caught.value.kind == "storage"
    retries = r"( \(after \d retries\))?"
    assert re.fullmatch(rf"could not write to the store {url}: {re.escape(told)}{retries}", caught.value.message)
    assert model.made == 0


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "is no URL of a server: expected http://… or https://…"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:999999", "is no URL of a server: expected http://… or https://…"),
        ("AWS_SECRET_ACCESS_KEY", "of-a-file\n", "has a space or a line break in it: set it without"),
        ("AWS_REGION", "us-east-1\n", "has a space or a line break in it: set it without"),
        ("AWS_SESSION_TOKEN", "pasted twice", "has a space or a line break in it: set it without"),
    ],
)
def test_settings_on_which_the_client_panics_are_refused(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"^{name} {told}$"):
        GenerationStore(s3.store_url("x"))


def test_bucket_that_is_gone_is_no_store_without_generations(s3: S3Server) -> None:
    """Else each of them would be paid for again."""
    store = GenerationStore("s3://no-such-bucket/x")
    for refused in (lambda: store.get(KEY), lambda: store.read("ab/x.png"), lambda: store.put(KEY, {}, picture())):
        with pytest.raises(StorageError, match="the bucket does not exist") as caught:
            refused()
        assert not isinstance(caught.value, LostImage)


def test_secrets_that_a_store_repeats_are_not_shown(
    s3: S3Server, store: GenerationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As S3 does: what it answers to a wrong signature has all headers of the request.

    Also where errors are pickled with all that stands behind them, as Dask does.
    """
    importlib.import_module("tblib.pickling_support").install()
    token = new_key()
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    store = GenerationStore(store.url)
    s3.refuse(403, "SignatureDoesNotMatch")
    with pytest.raises(obstore.exceptions.PermissionDeniedError) as shown:
        obstore.get(obstore_of(store), "x")
    assert found(token, shown.value), "the store does repeat it"
    for refused in (lambda: store.get(KEY), store.check, lambda: store.put(KEY, {}, picture())):
        with pytest.raises(StorageError, match=r"the answer was 403 Forbidden, SignatureDoesNotMatch$") as caught:
            refused()
        assert found(token, caught.value, repr(pickle.dumps(caught.value))) == []


@pytest.mark.parametrize("outage", ["answers 503", "is silent"])
def test_store_that_is_away_for_a_while_costs_time_and_nothing_else(
    s3: S3Server, store: GenerationStore, outage: str
) -> None:
    def end() -> None:
        time.sleep(2)
        s3.refuse(0)

    def begin() -> None:
        if outage == "is silent":
            s3.silence(2.0)
        else:
            s3.refuse(503, "SlowDown")
            threading.Thread(target=end).start()

    model = Counting(generation_kwargs=SMALL, happens=begin, before=10)
    with ManagedModel(model, store=store) as managed:
        began = time.monotonic()
        made = [one.status for row in managed.generate_outputs([f"prompt {n}" for n in range(40)]) for one in row]
        assert time.monotonic() - began > 1.5
    assert made == ["done"] * 40
    assert model.made == 40
    assert len(kept_in(store)) == 40


def obstore_of(store: GenerationStore) -> Any:
    """The same place, looked at with obstore itself."""
    return from_url(store.url, client_options={"allow_http": True})


def names_in(store: GenerationStore) -> list[str]:
    return [entry["path"] for page in obstore.list(obstore_of(store)) for entry in page]


def kept_in(store: GenerationStore) -> set[str]:
    """The hashes of the pictures that the store has; each record is whole, and so is its picture."""
    records = [store.get(Path(path).stem) for path in names_in(store) if path.endswith(".json")]
    pictures = [record["image"] for record in records if record is not None]
    assert len(pictures) == len(records)
    for entry in pictures:
        assert sha256(store.read(entry["path"])).hexdigest() == entry["sha256"]
    return {entry["sha256"] for entry in pictures}


class Runs:
    """Runs of one command into one folder, with a store on S3; each a process of its own."""

    def __init__(self, forking: Forks, model_server: RemoteModelServer, work: Path, store: GenerationStore) -> None:
        self.store, self.log, self.out = store, work / "log", work / "out"
        self.server, self._forks, self._work = model_server, forking, work
        self.words = ["generate", "rows.csv", "--out", "out", "--store", store.url, "--chunk-rows", "40"]
        self.words += ["--model", "openai:m", "--base-url", model_server.openai_url]
        self.words += ["--max-concurrency", str(AT_ONCE)]
        (work / "rows.csv").write_text("prompt,number\n" + "".join(f"picture {i},{i}\n" for i in range(ROWS)))

    def start(self) -> int:
        return self._forks.start(Command(self.words, str(self._work), str(self.log)))

    def end(self) -> int:
        return self._forks.wait()

    def settled(self) -> int:
        """How many calls there were, once the server has seen that those who made them are gone."""
        while self.server.counts().in_flight:
            time.sleep(0.02)
        return len(self.server.calls)

    def lost(self) -> int:
        """Calls whose picture is not in the store, once that has written what it took from those who are gone."""
        calls, before = self.settled(), -1
        while before != (now := len(names_in(self.store))):
            before = now
            time.sleep(1)
        kept = kept_in(self.store)
        return calls - sum(call.sha256 in kept for call in self.server.calls)

    def check_dataset(self) -> None:
        """Every row is in its place, with a picture of its own that the server delivered for its prompt."""
        frame = ImageDataset(self.out).scan().collect()
        assert frame["number"].to_list() == list(range(ROWS))
        cells = frame.select("prompt", pl.col("image").struct.field("bytes")).rows()
        delivered = self.server.delivered
        assert [delivered[sha256(data).hexdigest()].prompt for _, data in cells] == [prompt for prompt, _ in cells]
        assert len({data for _, data in cells}) == ROWS


@pytest.fixture
def runs(tmp_path: Path, server_url: dict[str, str], canary: str, store: GenerationStore) -> Iterator[Runs]:
    work = tmp_path / "work"
    work.mkdir()
    env = environment(work, **server_url, OPENAI_API_KEY=canary)
    with start_model_server(latency=0.1) as model_server, forks(env) as forking:
        yield Runs(forking, model_server, work, store)
    assert found(SECRET, tmp_path, *prefect_folders()) == []


def test_run_whose_store_refuses_in_the_middle_stops_and_the_same_command_goes_on(s3: S3Server, runs: Runs) -> None:
    runs.start()
    runs.server.wait_for_calls(ENOUGH, timeout=60)
    s3.refuse(403, "AccessDenied")
    assert runs.end() == STOPPED
    told = runs.log.read_text()
    assert re.search(
        rf"could not \w+( \w+)? the store {runs.store.url}: the answer was 403 Forbidden, AccessDenied\b", told
    )
    assert "Traceback" not in told
    s3.refuse(0)
    lost = runs.lost()
    assert runs.settled() > 2 * IN_FLIGHT, "else it says little that so few are lost"
    assert lost <= IN_FLIGHT
    runs.start()
    assert runs.end() == DONE, runs.log.read_text()
    assert runs.settled() == ROWS + lost
    runs.check_dataset()


def test_killed_runs_with_a_store_on_s3_lose_no_row_and_pay_again_only_for_what_was_in_flight(
    runs: Runs,
) -> None:
    lost = 0
    for kill in range(3):
        known = runs.settled()
        pid = runs.start()
        runs.server.wait_for_calls(known + ENOUGH, timeout=60)
        time.sleep(0.03 * kill)
        os.killpg(pid, signal.SIGKILL)
        assert runs.end() == -signal.SIGKILL
        before, lost = lost, runs.lost()
        assert runs.settled() - known > 2 * IN_FLIGHT, "else it says little that so few are lost"
        assert lost - before <= IN_FLIGHT
    runs.start()
    assert runs.end() == DONE, runs.log.read_text()
    assert lost > 0
    assert runs.settled() == ROWS + lost
    runs.check_dataset()
