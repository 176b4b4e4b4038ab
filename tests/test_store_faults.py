"""The store under faults: what is damaged is found, told, made again; two processes and jumping clocks do no harm."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagetask import GenerationStore, ImageDataset, ManagedModel
from imagetask.errors import DatasetError, LostImage, RunStopped, StorageError
from tests.faulty_disk import Counting, run, settings_for
from tests.small_datasets import make_dataset
from tests.test_store import KEY, picture

PROMPTS = [{"prompt": f"prompt {number}"} for number in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    return GenerationStore(tmp_path / "store")


def change(path: Path, changes: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_bytes())
    changes(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "changes",
    [
        lambda record: record.pop("image"),
        lambda record: record.update(image=None),
        lambda record: record.update(image=[]),
        lambda record: record.update(image={}),
        lambda record: record.update(key="cd" + KEY[2:]),
        lambda record: record.update(version="1"),
        lambda record: record.update(attempts="many"),
        lambda record: record.update(latency=[1]),
        lambda record: record.update(parameters="none"),
        lambda record: record.update(error_kind="banana"),
        lambda record: record["image"].pop("sha256"),
        lambda record: record["image"].update(bytes="12"),
        lambda record: record["image"].update(width=None),
        lambda record: record["image"].update(format="EXE"),
        lambda record: record["image"].update(path="/etc/passwd"),
        lambda record: record["image"].update(path="../../outside.png"),
        lambda record: record["image"].update(sha256="0" * 64),
    ],
)
def test_record_that_holds_what_no_generation_could_is_told_and_made_again(
    store: GenerationStore, caplog: pytest.LogCaptureFixture, changes: Callable[[dict[str, Any]], object]
) -> None:
    store.put(KEY, {"attempts": 1, "latency": 0.5, "error_kind": None, "parameters": {}}, picture())
    [path] = Path(store.url).rglob("*.json")
    change(path, changes)
    assert store.get(KEY) is None
    assert ["damaged" in record.message for record in caplog.records] == [True]
    store.put(KEY, {"attempts": 2}, picture())
    assert store.get(KEY) is not None


def test_record_nested_too_deeply_to_be_read_is_damaged(store: GenerationStore) -> None:
    store.put(KEY, {}, picture())
    [path] = Path(store.url).rglob("*.json")
    path.write_text("[" * 100_000)
    assert store.get(KEY) is None


def test_image_whose_bytes_are_others_than_were_kept_is_never_given_out(store: GenerationStore) -> None:
    made = store.put(KEY, {}, picture())
    own = store.put_image(picture(2))
    for handle, path in [
        (made, next(Path(store.url).glob("ab/*.png"))),
        (own, next(Path(store.url).rglob("own/**/*.png"))),
    ]:
        assert handle is not None
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(LostImage, match=rf"the image .*{path.name} in the store .* is damaged"):
            _ = handle.data


def hashes(dataset: ImageDataset) -> list[str | None]:
    images = [dataset.image(number) for number in range(len(dataset))]
    return [None if image is None else image.sha256 for image in images]


@pytest.mark.parametrize("fault", ["a bit is turned", "it is deleted"])
def test_image_that_was_lost_is_told_when_the_dataset_is_made_and_the_same_command_makes_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    first = make_dataset(tmp_path / "out", PROMPTS, chunk_rows=2)
    before = hashes(first)
    pictures = sorted((tmp_path / "out" / "_imagetask" / "store").rglob("*.jpg"))
    for path in (pictures[0], pictures[3]):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data) if fault == "a bit is turned" else path.unlink()
    (tmp_path / "out" / "_imagetask" / "shards.json").unlink()

    with pytest.raises(StorageError, match="2 such in all: run the same command again to make them anew") as caught:
        make_dataset(tmp_path / "out", PROMPTS, chunk_rows=2)
    assert "\n" not in str(caught.value)
    assert len([record for record in caplog.records if "is made again" in record.message]) == 2
    again = make_dataset(tmp_path / "out", PROMPTS, chunk_rows=2)
    assert hashes(again) == before
    assert again.scan().select("reused").collect()["reused"].to_list().count(False) >= 2


def test_store_that_is_deleted_while_a_run_goes_on_stops_it_before_more_is_paid(tmp_path: Path) -> None:
    model = Counting(generation_kwargs={"width": 16, "height": 16})
    place = tmp_path / "store"
    model.happens, model.before = lambda: shutil.rmtree(place), 10
    gone = r"could not (write to|read from) the store: the folder .* is gone"
    with ManagedModel(model, store=GenerationStore(place)) as managed:
        for number in range(10):
            managed.generate_outputs([f"prompt {number}"])
        with pytest.raises(RunStopped, match=gone) as caught:
            managed.generate_outputs(["prompt 10"])
        with pytest.raises(RunStopped, match=gone):
            managed.generate_outputs(["prompt 11"])
    assert caught.value.kind == "storage"
    assert model.made == 11
    assert not place.exists()


def test_folder_that_is_deleted_while_a_run_goes_on_is_told_and_made_again_by_the_same_command(tmp_path: Path) -> None:
    source = tmp_path / "prompts.csv"
    source.write_text("prompt\n" + "".join(f"prompt {number}\n" for number in range(60)))
    settings = settings_for(tmp_path / "out", source)
    model = Counting(generation_kwargs={"width": 16, "height": 16}, before=25)
    model.happens = lambda: shutil.rmtree(settings.out)
    with pytest.raises((RunStopped, StorageError, DatasetError), match=r"out/.*gone|could not"):
        run(settings, model)
    assert model.made <= 45
    assert len(run(settings, Counting(generation_kwargs={"width": 16, "height": 16}))) == 60


def test_file_that_is_being_written_is_not_swept_though_a_clock_jumped(store: GenerationStore) -> None:
    store.put(KEY, {}, picture())
    live, dead, future = (Path(store.url) / "ab" / f"{name}.png#1" for name in ("live", "dead", "future"))
    long_ago = time.time() - 3600
    for path in (live, dead, future):
        path.write_bytes(b"half")
        os.utime(path, (long_ago, long_ago))
    os.utime(future, (time.time() + 86_400,) * 2)
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.05):
            with live.open("ab") as file:
                file.write(b"more")
            os.utime(live, (long_ago, long_ago))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert store.sweep() == 1
    finally:
        ended.set()
        writer.join()
    assert [path.exists() for path in (live, dead, future)] == [True, False, True]
    assert store.get(KEY) is not None


def test_two_sweeps_at_once_do_not_trip_over_each_other(store: GenerationStore) -> None:
    folder = Path(store.url) / "ab"
    folder.mkdir()
    for number in range(100):
        path = folder / f"{number}.png#1"
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    counts: list[int] = []
    sweeps = [threading.Thread(target=lambda: counts.append(store.sweep())) for _ in range(4)]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join()
    assert sum(counts) == 100
    assert list(folder.iterdir()) == []


_BACKWARDS = """
import sys, time, itertools
ticks = itertools.count()
time.time = lambda: 1e9 - 1000.0 * next(ticks)
from imagetask import GenerationStore, ManagedModel, PlaceholderImageGeneration
model = PlaceholderImageGeneration(generation_kwargs={"width": 16, "height": 16})
with ManagedModel(model, store=GenerationStore(sys.argv[1])) as managed:
    made = managed.generate_outputs([f"prompt {number}" for number in range(5)])
    again = managed.generate_outputs([f"prompt {number}" for number in range(5)])
    for [one], [other] in zip(made, again, strict=True):
        assert one.status == "done" and 0 <= one.latency < 30, one
        assert other.reused and other.latency == one.latency, other
    managed.store.sweep()
print("well")
"""


def test_clock_that_runs_backwards_makes_no_negative_times_and_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _BACKWARDS, str(tmp_path / "store")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ran.stdout == "well\n", ran.stderr


_SAME_KEYS = """
import sys
from tests.test_store import picture
from imagetask.store import GenerationStore, generation_key

store = GenerationStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    store.put(generation_key({"number": number % 20}), {"writer": sys.argv[2]}, picture(int(sys.argv[2]), 40))
    record = store.get(generation_key({"number": number % 20}))
    assert record is not None and len(store.read(record["image"]["path"])) == record["image"]["bytes"]
"""


def test_two_processes_that_put_the_same_keys_leave_whole_generations(
    store: GenerationStore, caplog: pytest.LogCaptureFixture
) -> None:
    commands = [[sys.executable, "-c", _SAME_KEYS, store.url, str(number)] for number in (1, 2)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes) for command in commands]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    ended = [writer.communicate("go\n", timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], ended
    records = list(Path(store.url).rglob("*.json"))
    assert len(records) == 20
    with caplog.at_level(logging.WARNING):
        for path in records:
            record = store.get(path.stem)
            assert record is not None
            assert store.image(record["image"]).data == picture(int(record["writer"]), 40).data
    assert caplog.records == []
    assert not list(Path(store.url).rglob("*#*"))


def test_dataset_opens_without_the_store_once_it_is_made(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", PROMPTS)
    shutil.rmtree(tmp_path / "out" / "_imagetask" / "store")
    assert all(ImageDataset(tmp_path / "out").image(number) for number in range(6))
