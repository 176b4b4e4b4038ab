"""Parts become shards: cut by bytes, kept where nothing changed, and nobody else's file touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from imagetask import ImageDataset, StorageError
from imagetask.cutting import cut_shards
from imagetask.layout import Layout
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


def cut(parts: list[list[tuple[int, int]]], earlier: list[int], most_bytes: int = 1000) -> list[list[str]]:
    """The shards of parts with row groups of (rows, bytes); a group is named by its part and its first row."""
    manifests = [{"digest": str(n), "content": str(n), "row_groups": groups} for n, groups in enumerate(parts)]
    shards = cut_shards(Layout(Path("out")), manifests, earlier, most_bytes)
    return [[f"{group.content}:{group.start}" for group in shard] for shard in shards]


def test_shards_hold_whole_parts_and_no_more_bytes_than_they_may() -> None:
    parts = [[(10, 200), (10, 200)], [(10, 300)], [(10, 400)], [(10, 100)]]
    assert cut(parts, []) == [["0:0", "0:10", "1:0"], ["2:0", "3:0"]]


def test_part_larger_than_a_shard_is_cut_into_shards_of_its_own() -> None:
    parts = [[(10, 100)], [(10, 600), (10, 300), (10, 200), (10, 1500)], [(10, 100)]]
    assert cut(parts, []) == [["0:0"], ["1:0", "1:10"], ["1:20"], ["1:30"], ["2:0"]]


def test_shards_of_many_small_images_are_cut_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.cutting.SHARD_ROWS", 20)
    assert cut([[(10, 1)], [(10, 1)], [(10, 1), (10, 1), (10, 1)]], []) == [["0:0", "1:0"], ["2:0", "2:10"], ["2:20"]]


@pytest.mark.parametrize("num_bytes", [150, 1, 350])
def test_part_with_more_or_fewer_bytes_than_before_moves_no_other_shard(num_bytes: int) -> None:
    parts = [[(10, 250)] for _ in range(12)]
    before = cut(parts, [])
    assert [len(shard) for shard in before] == [4, 4, 4]
    parts[1] = [(4, num_bytes // 2), (6, num_bytes - num_bytes // 2)]
    changed = cut(parts, [40, 40, 40])
    assert changed[0] == ["0:0", "1:0", "1:4", "2:0", "3:0"]
    assert changed[1:] == before[1:]


def test_part_that_grew_far_moves_the_end_of_its_shard() -> None:
    parts = [[(10, 250)] for _ in range(8)]
    parts[1] = [(10, 600)]
    assert [len(shard) for shard in cut(parts, [40, 40])] == [2, 4, 2]


def test_shards_far_smaller_than_they_may_be_are_not_kept_so() -> None:
    assert [len(shard) for shard in cut([[(10, 100)] for _ in range(12)], [40, 40, 40])] == [10, 2]


def test_rows_that_are_added_go_into_the_last_shard_first() -> None:
    parts = [[(10, 250)] for _ in range(7)]
    assert [len(shard) for shard in cut(parts, [40, 10])] == [4, 3]


def test_changed_prompt_writes_the_shard_that_holds_it_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"a cat number {number}" for number in range(24)]
    cells = make_dataset(tmp_path / "one", rows(prompts)).scan().collect()["image"]
    sizes = dict(sorted(((p, len(cell["bytes"])) for p, cell in zip(prompts, cells, strict=True)), key=lambda s: -s[1]))
    prompts, limit = list(sizes), sum(list(sizes.values())[:8])
    monkeypatch.setattr("imagetask.shards.SHARD_BYTES", limit)
    make_dataset(tmp_path / "out", rows(prompts), chunk_rows=2)
    before = shards(tmp_path / "out")
    assert len(before) == 3
    prompts[1] = "another picture, whose words are many more, so that its file is larger than the one before it"
    dataset = make_dataset(tmp_path / "out", rows(prompts), chunk_rows=2)
    after = shards(tmp_path / "out")
    first = dataset.scan().select("image").head(8).collect()["image"]
    assert sum(len(cell["bytes"]) for cell in first) > limit, "cut by bytes alone, the first shard would end earlier"
    assert [name for name in after if after[name] != before.get(name)] == ["train-00000.parquet"]
    assert prompts_of(dataset) == prompts


def test_rows_and_pictures_stay_together_over_groups_pieces_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.parts.ROW_GROUP_ROWS", 100)
    monkeypatch.setattr("imagetask.shards._PIECE_BYTES", 1500)
    monkeypatch.setattr("imagetask.cutting.SHARD_ROWS", 120)
    prompts = [f"prompt {number}" if number % 7 else "" for number in range(230)]
    dataset = make_dataset(tmp_path / "out", rows(prompts), chunk_rows=115)
    store = tmp_path / "out" / "_imagetask" / "store"
    records = [json.loads(path.read_bytes()) for path in store.rglob("*.json")]
    alone = {record["prompt"]: store / record["image"]["path"] for record in records}
    files = sorted((tmp_path / "out" / "data").iterdir())
    groups = [pq.read_metadata(file) for file in files]
    assert [[meta.row_group(n).num_rows for n in range(meta.num_row_groups)] for meta in groups] == [[100, 15]] * 2
    done = dataset.scan().collect()
    assert done["prompt"].to_list() == prompts
    for prompt, image in zip(prompts, done["image"], strict=True):
        assert image == (None if not prompt else {"bytes": alone[prompt].read_bytes(), "path": alone[prompt].name})
