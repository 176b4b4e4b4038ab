"""Parts become shards: cut by bytes, kept where nothing changed, and nobody else's file touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imagetask import ImageDataset, StorageError
from tests.small_datasets import make_dataset

PROMPTS = ["a cat", "a dog", "a cow", "a hen", "a fox"]


def rows(prompts: list[str], note: str = "") -> list[dict[str, Any]]:
    return [{"prompt": prompt, "note": note} for prompt in prompts]


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Shard → its inode and the time it was written (ns)."""
    found = {path.name: path.stat() for path in sorted((folder / "data").iterdir())}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def prompts_of(dataset: ImageDataset) -> list[str]:
    cells: list[str] = dataset.scan().select("prompt").collect()["prompt"].to_list()
    return cells


@pytest.fixture
def one_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard for each row group, and so for each chunk."""
    monkeypatch.setattr("imagetask.shards.SHARD_BYTES", 1)


def test_shards_are_cut_by_the_bytes_of_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_dataset(tmp_path / "whole", rows(PROMPTS), chunk_rows=1)
    assert list(shards(whole.folder)) == ["train-00000.parquet"]
    cells = whole.scan().select("image").collect()["image"]
    sizes = [len(cell["bytes"]) for cell in cells]
    monkeypatch.setattr("imagetask.shards.SHARD_BYTES", max(sizes) * 2)
    cut = make_dataset(tmp_path / "cut", rows(PROMPTS), chunk_rows=1)
    files = sorted((cut.folder / "data").iterdir())
    assert [file.name for file in files] == [f"train-0000{number}.parquet" for number in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [2, 2, 1]
    assert prompts_of(cut) == PROMPTS
    assert cut.scan().select("image").collect()["image"].to_list() == cells.to_list()


@pytest.mark.usefixtures("one_a_chunk")
def test_shards_whose_parts_did_not_change_are_kept_as_they_are(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    before = shards(tmp_path / "out")
    assert len(before) == 3
    make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    assert shards(tmp_path / "out") == before


@pytest.mark.usefixtures("one_a_chunk")
def test_shard_is_written_anew_where_its_part_changed_and_only_there(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    before = shards(tmp_path / "out")
    changed = rows(PROMPTS)
    changed[2]["note"] = "another"
    dataset = make_dataset(tmp_path / "out", changed, chunk_rows=2)
    after = shards(tmp_path / "out")
    assert [name for name in after if after[name] != before[name]] == ["train-00001.parquet"]
    assert dataset.scan().select("note").collect()["note"].to_list() == ["", "", "another", "", ""]


@pytest.mark.usefixtures("one_a_chunk")
def test_damaged_shard_is_written_anew(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    whole = dataset.scan().collect()
    damaged = tmp_path / "out" / "data" / "train-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    assert make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2).scan().collect().equals(whole)


@pytest.mark.usefixtures("one_a_chunk")
def test_shards_that_are_left_over_go_and_files_of_others_stay(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    data = tmp_path / "out" / "data"
    for name in ("mine.parquet", "train-mine.parquet"):
        (data / name).write_bytes((data / "train-00000.parquet").read_bytes())
    assert len(ImageDataset(dataset.folder)) == 5
    fewer = make_dataset(tmp_path / "out", rows(PROMPTS[:2]), chunk_rows=2)
    assert list(shards(tmp_path / "out")) == ["mine.parquet", "train-00000.parquet", "train-mine.parquet"]
    assert prompts_of(fewer) == PROMPTS[:2]


@pytest.mark.usefixtures("one_a_chunk")
def test_shards_that_could_not_all_be_put_in_place_are_made_by_the_next_run(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    data = tmp_path / "out" / "data"
    (data / "train-00001.parquet").unlink()
    (data / "train-00001.parquet").mkdir()
    with pytest.raises(StorageError, match="could not write"):
        make_dataset(tmp_path / "out", rows(PROMPTS, note="new"), chunk_rows=2)
    assert not list((tmp_path / "out" / "_imagetask").glob(".train*")), "what was written is not left behind"
    (data / "train-00001.parquet").rmdir()
    dataset = make_dataset(tmp_path / "out", rows(PROMPTS), chunk_rows=2)
    assert prompts_of(dataset) == PROMPTS
    assert dataset.scan().select("note").collect()["note"].to_list() == [""] * 5
