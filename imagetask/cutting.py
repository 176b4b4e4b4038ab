"""Which row groups make up which shard: cut by bytes and rows, and where the last run cut, as far as that fits.

What was published stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any

from imagetask.layout import Layout
from imagetask.parts import part_path
from imagetask.published import published_shards

SHARD_ROWS = 100_000
"""Of small images: what a Parquet file knows of its row groups is in memory until it is closed."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one part, which are a row group in a shard. content: digest of the part; start: in the part."""

    part: Path
    content: str
    start: int
    rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Part:
    groups: Sequence[RowGroup]
    rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard to be: its file, its row groups, and the chunks that they are of (model, start, stop)."""

    file: str
    groups: Sequence[RowGroup]
    chunks: Sequence[tuple[str, int, int]]


def cut_dataset(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], most_bytes: int
) -> list[Shard]:
    """The shards of a dataset, in order of their names: as `cut_shards` gives them, but for what was published.

    known: the entries of the last run's shards. What was published keeps its file, of the same chunks; the others, in
    the order of the parts, take the names that are left.
    """
    of_chunk = {(m["model"], m["start"], m["stop"]): m for m in manifests}
    chunk_of = {part_path(layout, manifest["digest"]): chunk for chunk, manifest in of_chunk.items()}
    shards = [shard for entries in published_shards(layout) for shard in _kept(layout, entries, of_chunk, most_bytes)]
    taken = {shard.file for shard in shards}
    earlier = [entry["rows"] for entry in known if "gone" not in entry and entry["file"] not in taken]
    names = (name for number in count() if (name := f"train-{number:05d}.parquet") not in taken)
    shards += (
        Shard(next(names), groups, list(dict.fromkeys(chunk_of[group.part] for group in groups)))
        for groups in cut_shards(layout, list(of_chunk.values()), earlier, most_bytes)
    )
    return sorted(shards, key=lambda shard: shard.file)


def _kept(
    layout: Layout,
    entries: Sequence[Mapping[str, Any]],
    of_chunk: dict[tuple[str, int, int], Mapping[str, Any]],
    most_bytes: int,
) -> list[Shard]:
    """The shards that were published under these entries, whose chunks are taken out of `of_chunk`; none where the plan
    no longer has them all."""
    chunks = [(model, start, stop) for model, start, stop in entries[0]["chunks"]]
    if not of_chunk.keys() >= {*chunks}:
        return []
    parts = [_part(layout, of_chunk[chunk]) for chunk in chunks]
    whole = [[group for part in parts for group in part.groups]]
    cut = whole if len(entries) == 1 else list(_cut_part(parts[0], most_bytes))
    if len(cut) != len(entries):
        return []
    for chunk in chunks:
        del of_chunk[chunk]
    return [Shard(entry["file"], groups, chunks) for entry, groups in zip(entries, cut, strict=True)]


def cut_shards(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], earlier: Sequence[int], most_bytes: int
) -> Iterator[list[RowGroup]]:
    """The row groups of each shard, in the order of the parts.

    A new shard has at most `most_bytes` of images and `SHARD_ROWS` rows, and holds whole parts; a larger part is cut
    into shards of its own. earlier: rows of each shard of the last run. A shard that starts where one of these did ends
    where that one did, if it has between 50 % and 110 % of the bytes, and at most 110 % of the rows: a row whose image
    has more or fewer bytes than before changes the shard that holds it, and moves no other.
    """
    parts = [_part(layout, manifest) for manifest in manifests]
    ends = dict(pairwise([0, *accumulate(earlier[:-1])]))  # what grows is added to the last
    number = row = 0
    while number < len(parts):
        stop = _where_it_ended(parts, number, ends.get(row, row) - row, most_bytes)
        if stop is None and not _fits(parts[number], most_bytes):
            yield from _cut_part(parts[number], most_bytes)
            stop = number + 1
        else:
            stop = stop or _where_it_is_full(parts, number, most_bytes)
            yield [group for part in parts[number:stop] for group in part.groups]
        row += sum(part.rows for part in parts[number:stop])
        number = stop


def _part(layout: Layout, manifest: Mapping[str, Any]) -> _Part:
    path, content = part_path(layout, manifest["digest"]), manifest["content"]
    starts = accumulate((rows for rows, _ in manifest["row_groups"]), initial=0)
    groups = [
        RowGroup(path, content, start, *group) for start, group in zip(starts, manifest["row_groups"], strict=False)
    ]
    return _Part(groups, sum(group.rows for group in groups), sum(group.num_bytes for group in groups))


def _fits(part: _Part, most_bytes: int) -> bool:
    return part.rows <= SHARD_ROWS and part.num_bytes <= most_bytes


def _where_it_ended(parts: Sequence[_Part], first: int, rows: int, most_bytes: int) -> int | None:
    """The number of the part before which the earlier shard of so many rows ended; None where it is not to be kept."""
    number, num_bytes = first, 0
    while rows > 0 and number < len(parts):
        rows -= parts[number].rows
        num_bytes += parts[number].num_bytes
        number += 1
    few = sum(part.rows for part in parts[first:number]) <= SHARD_ROWS * 11 // 10
    kept = rows == 0 and few and most_bytes // 2 <= num_bytes <= most_bytes * 11 // 10
    return number if kept and number > first else None


def _where_it_is_full(parts: Sequence[_Part], first: int, most_bytes: int) -> int:
    rows = num_bytes = 0
    for number in range(first, len(parts)):
        rows += parts[number].rows
        num_bytes += parts[number].num_bytes
        if number > first and (rows > SHARD_ROWS or num_bytes > most_bytes):
            return number
    return len(parts)


def _cut_part(part: _Part, most_bytes: int) -> Iterator[list[RowGroup]]:
    shard: list[RowGroup] = []
    rows = num_bytes = 0
    for group in part.groups:
        rows, num_bytes = rows + group.rows, num_bytes + group.num_bytes
        if shard and (rows > SHARD_ROWS or num_bytes > most_bytes):
            yield shard
            shard, rows, num_bytes = [], group.rows, group.num_bytes
        shard.append(group)
    yield shard
