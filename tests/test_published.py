"""What was published stays as it is while a dataset grows: the same files, and what is new in files of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from imagetask import ImageDataset
from imagetask.cutting import cut_dataset
from imagetask.layout import Layout, write_json
from imagetask.plan import read_plan
from tests.small_datasets import make_dataset

Rows = list[dict[str, str]]


def rows(first: int, stop: int) -> Rows:
    return [{"prompt": f"picture {number}"} for number in range(first, stop)]


def published(out: Path) -> dict[str, str]:
    """Notes the shards as published, as a push does; gives file → hash."""
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((out / "data").iterdir())}
    write_json(Layout(out).pushed, {"files": files})
    return files


def hashes(out: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((out / "data").iterdir())}


def prompts(out: Path) -> list[str]:
    return ImageDataset(out).scan().select("prompt").collect()["prompt"].to_list()


def test_rows_that_are_added_come_in_a_shard_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_dataset(out, rows(0, 60), chunk_rows=25)
    before = published(out)
    make_dataset(out, rows(0, 67), chunk_rows=25)
    after = hashes(out)
    assert list(after) == ["train-00000.parquet", "train-00001.parquet"]
    assert {name: after[name] for name in before} == before
    assert prompts(out) == [row["prompt"] for row in rows(0, 67)]


def test_what_was_not_published_yet_still_grows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_dataset(out, rows(0, 60), chunk_rows=25)
    before = published(out)
    for count in (67, 80):
        make_dataset(out, rows(0, count), chunk_rows=25)
    assert list(hashes(out)) == ["train-00000.parquet", "train-00001.parquet"]
    published(out)
    make_dataset(out, rows(0, 81), chunk_rows=25)
    assert list(hashes(out)) == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    assert {name: hashes(out)[name] for name in before} == before
    assert prompts(out) == [row["prompt"] for row in rows(0, 81)]


def test_of_several_models_what_is_added_stands_after_what_was_published(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()

    def cut(*chunks: tuple[str, int, int]) -> list[tuple[str, list[tuple[str, int, int]]]]:
        manifests = [
            {"digest": f"{m}{start}", "content": "", "model": m, "start": start, "stop": stop, "row_groups": [[4, 9]]}
            for m, start, stop in chunks
        ]
        return [(shard.file, list(shard.chunks)) for shard in cut_dataset(layout, manifests, [], 10)]

    first = cut(("a", 0, 4), ("b", 0, 4))
    assert [file for file, _ in first] == ["train-00000.parquet", "train-00001.parquet"]
    write_json(layout.shards, {"shards": [{"file": file, "chunks": chunks, "rows": 4} for file, chunks in first]})
    write_json(layout.pushed, {"files": dict.fromkeys(dict(first), "")})
    grown = cut(("a", 0, 4), ("a", 4, 8), ("b", 0, 4), ("b", 4, 8))
    assert grown[:2] == first
    assert [chunks for _, chunks in grown[2:]] == [[("a", 4, 8)], [("b", 4, 8)]]


def test_a_row_that_changes_rewrites_the_shard_that_holds_it_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_dataset(out, rows(0, 10), chunk_rows=4)
    published(out)
    make_dataset(out, rows(0, 14), chunk_rows=4)
    before = published(out)
    changed = [{"prompt": "another"}, *rows(1, 14)]
    make_dataset(out, changed, chunk_rows=4)
    after = hashes(out)
    assert [name for name in after if after[name] != before[name]] == ["train-00000.parquet"]


def test_a_large_chunk_that_was_published_in_several_shards_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.cutting.SHARD_ROWS", 5)
    monkeypatch.setattr("imagetask.parts.ROW_GROUP_ROWS", 3)
    out = tmp_path / "out"
    make_dataset(out, rows(0, 11), chunk_rows=20)
    before = published(out)
    assert len(before) == 3
    make_dataset(out, rows(0, 13), chunk_rows=20)
    after = hashes(out)
    assert {name: after[name] for name in before} == before
    assert prompts(out) == [row["prompt"] for row in rows(0, 13)]


def test_published_rows_that_are_gone_from_the_source_leave_the_dataset(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_dataset(out, rows(0, 10), chunk_rows=4)
    published(out)
    make_dataset(out, rows(0, 6), chunk_rows=4)
    assert prompts(out) == [row["prompt"] for row in rows(0, 6)]


def test_the_chunks_of_what_was_published_are_not_cut_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_dataset(out, rows(0, 10), chunk_rows=4)
    published(out)
    make_dataset(out, rows(0, 30), chunk_rows=10)
    plan = read_plan(Layout(out))
    assert plan is not None
    assert [(chunk.start, chunk.stop) for chunk in plan.chunks] == [(0, 4), (4, 8), (8, 10), (10, 20), (20, 30)]
