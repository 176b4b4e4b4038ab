"""The generation store: what is in it is whole, whatever was killed, damaged or lost."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from imagetask.errors import StorageError, UsageError
from imagetask.images import Image, check_image, encode_picture
from imagetask.store import GenerationStore, generation_key

KEY = "ab" + "0" * 30


def picture(number: int = 0, side: int = 16) -> Image:
    """An encoded picture; another number gives other bytes."""
    pixels = random.Random(number).randbytes(side * side * 3)
    return Image.from_bytes(encode_picture(PILImage.frombytes("RGB", (side, side), pixels), "PNG"))


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    return GenerationStore(tmp_path / "store")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_generation_comes_back_as_it_was_put(store: GenerationStore, tmp_path: Path) -> None:
    image = picture()
    handle = store.put(KEY, {"prompt": "a cat – 猫", "attempts": 2}, image)
    record = GenerationStore(tmp_path / "store").get(KEY)
    assert record is not None
    assert (record["key"], record["prompt"], record["attempts"]) == (KEY, "a cat – 猫", 2)
    again = store.image(record["image"])
    for one in (handle, again):
        assert one is not None
        assert (one.data, one.sha256, one.num_bytes) == (image.data, image.sha256, len(image.data))
        assert (one.format, one.width, one.height, one.path) == ("PNG", 16, 16, record["image"]["path"])
    assert store.read(record["image"]["path"]) == image.data


def test_image_lies_in_the_store_as_a_file_that_opens_by_its_suffix(store: GenerationStore, tmp_path: Path) -> None:
    store.put(KEY, {}, picture())
    [file] = (tmp_path / "store").rglob("*.png")
    with PILImage.open(file) as opened:
        assert opened.size == (16, 16)


def test_failure_is_remembered_without_an_image(store: GenerationStore) -> None:
    assert store.put(KEY, {"error_kind": "refused"}, None) is None
    record = store.get(KEY)
    assert record is not None
    assert record["error_kind"] == "refused"
    assert "image" not in record


def test_unknown_key_is_nothing_and_no_warning(store: GenerationStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.get(KEY) is None
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("damage", [b"", b'{"version": 1, "key": "ab', b"[]", b'{"version": 99}', b"\xff\xfe"])
def test_damaged_record_is_told_and_taken_as_none(
    damage: bytes, store: GenerationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(KEY, {}, picture())
    [record] = (tmp_path / "store").rglob("*.json")
    record.write_bytes(damage)
    assert store.get(KEY) is None
    assert ["damaged" in message for message in warnings_of(caplog)] == [True]
    store.put(KEY, {"attempts": 1}, picture())
    assert store.get(KEY) is not None


def test_record_of_another_key_is_not_taken(store: GenerationStore, tmp_path: Path) -> None:
    store.put(KEY, {}, picture())
    other = KEY[:-1] + "1"
    [record] = (tmp_path / "store").rglob("*.json")
    record.rename(record.with_name(f"{other}.json"))
    assert store.get(other) is None


@pytest.mark.parametrize("loss", ["gone", "cut"])
def test_record_whose_image_is_gone_or_cut_is_told_and_taken_as_none(
    loss: str, store: GenerationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(KEY, {}, picture())
    [file] = (tmp_path / "store").rglob("*.png")
    if loss == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    assert store.get(KEY) is None
    assert ["image of generation" in message for message in warnings_of(caplog)] == [True]


def test_image_that_was_lost_after_it_was_found_is_an_error_that_names_it(
    store: GenerationStore, tmp_path: Path
) -> None:
    handle = store.put(KEY, {}, picture())
    assert handle is not None
    [file] = (tmp_path / "store").rglob("*.png")
    file.unlink()
    with pytest.raises(StorageError, match=file.name):
        _ = handle.data


def test_images_of_equal_keys_do_not_write_over_each_other(store: GenerationStore) -> None:
    first = store.put(KEY, {}, picture(1))
    second = store.put(KEY, {}, picture(2))
    record = store.get(KEY)
    assert first is not None
    assert second is not None
    assert record is not None
    assert (first.data, second.data) == (picture(1).data, picture(2).data)
    assert record["image"]["path"] == second.path


def test_image_of_a_tasks_own_is_stored_once_under_its_hash(store: GenerationStore, tmp_path: Path) -> None:
    own = store.put_image(picture(1))
    assert own.path is not None
    assert own.sha256[:32] in own.path
    assert store.put_image(picture(1)).path == own.path
    assert store.put_image(own) is own
    assert store.put_image(picture(2)).path != own.path
    assert own.data == picture(1).data
    assert len([file for file in (tmp_path / "store").rglob("*") if file.is_file()]) == 2


def test_debris_of_killed_processes_is_swept_when_it_is_old(store: GenerationStore, tmp_path: Path) -> None:
    store.put(KEY, {}, picture())
    store.put_image(picture(3))
    root = tmp_path / "store"
    old, new, own = root / "ab" / "x.png#1", root / "ab" / "y.png#2", root / "own" / "ab" / "z.png#1"
    own.parent.mkdir(parents=True, exist_ok=True)
    for debris in (old, new, own):
        debris.write_bytes(b"half")
    for debris in (old, own):
        os.utime(debris, (time.time() - 3600,) * 2)
    assert store.sweep() == 2
    assert [debris.exists() for debris in (old, new, own)] == [False, True, False]
    assert store.get(KEY) is not None


def test_processes_of_one_number_probe_a_store_at_once(store: GenerationStore, tmp_path: Path) -> None:
    """As in containers, where each first process is number 1."""
    with ThreadPoolExecutor(8) as pool:
        for probed in [pool.submit(store.check) for _ in range(200)]:
            probed.result(10)
    assert list((tmp_path / "store").iterdir()) == []


def test_probe_of_a_killed_process_is_swept_when_it_is_old(store: GenerationStore, tmp_path: Path) -> None:
    store.put(KEY, {}, picture())
    old, new = tmp_path / "store" / "probe-1", tmp_path / "store" / "probe-2"
    for probe in (old, new):
        probe.write_bytes(b"imagetask")
    os.utime(old, (time.time() - 3600,) * 2)
    assert store.sweep() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_store_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not open the store"):
        GenerationStore(tmp_path / "file")


@pytest.mark.parametrize(
    "url",
    ["s3://AKIAKEY:verysecret@bucket/path", "s3://bucket/path?secret_access_key=verysecret", "gs://verysecret@bucket"],
)
def test_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="in the environment, not in the URL") as caught:
        GenerationStore(url)
    assert "verysecret" not in str(caught.value)


def test_unknown_kind_of_store_is_a_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"a store is a folder, or one of s3://…, gs://… and az://…, not ftpx://…"):
        GenerationStore("ftpx://bucket/path")


def test_object_store_works_as_a_folder_does() -> None:
    """In memory: the same code paths as s3://, gs:// and az://."""
    store = GenerationStore("memory://")
    assert store.get(KEY) is None
    handle = store.put(KEY, {"attempts": 1}, picture())
    assert handle is not None
    assert handle.data == picture().data
    assert store.get(KEY) is not None
    assert store.sweep() == 0
    with pytest.raises(StorageError, match="nowhere"):
        store.read("nowhere.png")


def test_folder_may_be_given_as_a_file_url(tmp_path: Path) -> None:
    GenerationStore(f"file://{tmp_path}/store").put(KEY, {}, picture())
    assert GenerationStore(tmp_path / "store").get(KEY) is not None


def test_key_does_not_depend_on_the_order_of_what_it_is_made_of() -> None:
    one: dict[str, Any] = {"prompt": "猫", "parameters": {"width": 1, "height": 2}}
    other: dict[str, Any] = {"parameters": {"height": 2, "width": 1}, "prompt": "猫"}
    assert generation_key(one) == generation_key(other) != generation_key({**one, "seed": 1})
    assert len(generation_key(one)) == 32


_WRITER = """
import sys
from tests.test_store import picture
from imagetask.store import GenerationStore, generation_key

images = [picture(number, side=200) for number in range(4)]
store = GenerationStore(sys.argv[1])
print("ready", flush=True)
for number in range(100_000):
    store.put(generation_key({"writer": sys.argv[2], "number": number}), {"number": number}, images[number % 4])
"""


def test_killed_writer_leaves_no_record_without_its_whole_image(store: GenerationStore, tmp_path: Path) -> None:
    for kill in range(4):
        command = [sys.executable, "-c", _WRITER, str(tmp_path / "store"), str(kill)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.1 + 0.05 * kill)
            writer.send_signal(signal.SIGKILL)
    records = list((tmp_path / "store").rglob("*.json"))
    assert len(records) > 40
    for path in records:
        record = json.loads(path.read_bytes())
        image = store.image(record["image"])
        check_image(image)
        assert len(image.data) == record["image"]["bytes"]
        assert store.get(record["key"]) == record
