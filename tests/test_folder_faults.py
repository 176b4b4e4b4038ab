"""The dataset folder under faults of its disk: each is told in a sentence, and the same command goes on afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagetask.errors import DatasetError, StorageError
from imagetask.layout import Layout, alone_in, read_json, write_json, write_whole
from tests.faulty_disk import ROOT, ROWS, WITH_A_DISK, Happened, whole_images
from tests.small_datasets import make_dataset

PROMPTS = [{"prompt": f"prompt {number}"} for number in range(6)]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which anyone may work."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def can_mount() -> bool:
    tried = subprocess.run([*WITH_A_DISK, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return tried.returncode == 0


def happened(fault: str, folder: Path) -> Happened:
    prefix = [] if fault == "denied" else WITH_A_DISK
    if prefix and not can_mount():
        pytest.skip("no disk of its own can be mounted here: unshare -rm is not allowed")
    (folder / "disk").mkdir()
    command = [*prefix, sys.executable, "-m", "tests.faulty_disk", fault, str(folder / "disk")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return Happened(**json.loads(ran.stdout))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("full", "No space left on device"), ("read-only", "Read-only file system"), ("denied", "Permission denied")],
)
def test_disk_that_refuses_stops_the_run_and_the_same_command_goes_on_where_it_ended(
    open_folder: Path, fault: str, sentence: str
) -> None:
    came = happened(fault, open_folder)
    assert came.kind == "RunStopped"
    assert came.told.startswith("storage: could not write to the store: ")
    assert sentence in came.told
    assert "\n" not in came.told
    assert not came.finished
    assert 1 <= came.kept <= came.calls[0]
    assert came.calls[0] <= 40, "no chunk was begun after the fault"
    assert came.calls[1] == ROWS - came.kept, "what is durable is not paid for again, all else is"
    assert (came.rows, came.images) == (ROWS, ROWS)


def test_file_is_written_whole_or_not_at_all_and_gives_its_room_back(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"before")
    (tmp_path / "dir").mkdir()
    with pytest.raises(StorageError, match=r"could not write .*/dir: Is a directory"):
        write_whole(tmp_path / "dir", b"after")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "dir"]
    with pytest.raises(StorageError, match=r"could not write .*: No such file"):
        write_whole(tmp_path / "none" / "b", b"after")


@pytest.mark.parametrize("damage", [b"", b'{"version": 1', b"[]", b"\xff\xfe{", b"[" * 100_000])
def test_state_that_was_damaged_is_as_if_it_was_not_there(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "run.json").write_bytes(damage)
    assert read_json(tmp_path / "run.json") is None


def test_state_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(StorageError, match=r"could not read .*run\.json: Is a directory"):
        read_json(tmp_path / "run.json")


def test_state_holds_a_path_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    write_json(tmp_path / "run.json", {"source": name})
    assert read_json(tmp_path / "run.json") == {"source": name}


@pytest.mark.parametrize("name", ["plan/plan.json", "shards.json", "card.json", "plan/rows.parquet", "parts"])
@pytest.mark.parametrize("damage", [b"", b'{"half', None])
def test_dataset_is_made_again_when_what_it_takes_to_go_on_was_damaged(
    tmp_path: Path, name: str, damage: bytes | None
) -> None:
    first = make_dataset(tmp_path / "out", PROMPTS, chunk_rows=2)
    rows = first.scan().drop("image", "reused").collect()
    state = tmp_path / "out" / "_imagetask"
    for path in sorted((state / name).iterdir()) if (state / name).is_dir() else [state / name]:
        path.unlink() if damage is None else path.write_bytes(damage)
    again = make_dataset(tmp_path / "out", PROMPTS, chunk_rows=2)
    assert again.scan().drop("image", "reused").collect().equals(rows)
    assert all(again.image(number) for number in range(6))
    assert whole_images(state / "store") == 6


def test_shard_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", PROMPTS)
    [shard] = (tmp_path / "out" / "data").iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    make_dataset(tmp_path / "out", PROMPTS)
    assert shard.read_bytes() == whole


def test_lock_of_the_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    layout.make()
    layout.lock.mkdir()
    with pytest.raises(DatasetError, match=r"cannot be written: .*; choose another folder"), alone_in(layout):
        pass
