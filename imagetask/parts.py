"""Parts: the rows of a chunk answered, as one small Parquet file; beside it a manifest that counts them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
from filelock import FileLock

from imagetask.crash_points import reach
from imagetask.errors import ErrorKind
from imagetask.layout import Layout, read_json, write_whole
from imagetask.models.base import Generation
from imagetask.models.treatments import TREATMENTS
from imagetask.plan import Chunk, read_plan
from imagetask.snapshot import write_errors

ROW_GROUP_ROWS = 2_000
ROW_GROUP_BYTES = 16_000_000
"""Limits of a row group with images. The Hub's viewer refuses groups above 300 MB; a run holds one group in memory.

What a file tells of its groups is held in memory while it is written and read, about 20 KB a group: of small pictures
there are many rows in one.
"""


_WRITING = ".writing"
"""How the name of a part ends that is being written."""


def part_path(layout: Layout, digest: str) -> Path:
    """The part of the chunk with this digest."""
    return layout.parts / f"{digest}.parquet"


def manifest_path(layout: Layout, digest: str) -> Path:
    """Beside the part of the chunk with this digest: without it, there is no part."""
    return layout.parts / f"{digest}.json"


def read_manifest(layout: Layout, chunk: Chunk) -> dict[str, Any] | None:
    """The manifest of a chunk's part, or None where there is no whole part."""
    manifest, part = read_json(manifest_path(layout, chunk.digest)), part_path(layout, chunk.digest)
    if manifest is None or not part.is_file() or part.stat().st_size != manifest.get("part_bytes"):
        return None
    return {**manifest, "start": chunk.start, "stop": chunk.stop}  # an equal chunk may have stood elsewhere before


def finished_chunks(layout: Layout) -> Iterator[tuple[Chunk, dict[str, Any]]]:
    """Chunk and manifest of each part that is there, in the order of the folder's plan."""
    plan = read_plan(layout)
    for chunk in plan.chunks if plan else ():
        manifest = read_manifest(layout, chunk)
        if manifest is not None:
            yield chunk, manifest


def sweep_parts(layout: Layout, chunks: Iterable[Chunk]) -> None:
    """Removes the parts and results of chunks that are no longer in the plan, and what killed writers left.

    Their generations stay in the store.
    """
    reach("dataset: to be swept")
    current = {chunk.digest for chunk in chunks}
    for folder in (layout.parts, layout.results):
        for path in folder.iterdir():
            if path.is_file() and (path.suffix == _WRITING or path.name.split(".")[0] not in current):
                path.unlink()


def is_final(manifest: dict[str, Any] | None) -> bool:
    """Whether a part stands: it is whole, and holds nothing that the next run should ask for."""
    return manifest is not None and manifest["asked_again"] == 0 and manifest["pending"] == 0


def write_part(
    layout: Layout,
    chunk: Chunk,
    part: pl.DataFrame,
    images: list[str],
    sizes: list[int],
    asked: list[list[Generation]],
) -> dict[str, Any]:
    """Puts a part in its place, and then its manifest, and gives that: its counts, and how it is cut into row groups.

    images: its columns of pictures. sizes: bytes of the pictures of each row. asked: the generations of each row that
    was asked for. Another process may write the same part: a scheduler that takes a worker for dead hands its chunk to
    another one. The last one's stands. Raises `StorageError`.
    """
    reach("part: answered")
    path, beside = part_path(layout, chunk.digest), manifest_path(layout, chunk.digest)
    temporary = path.with_suffix(f".{uuid4().hex}{_WRITING}")
    with write_errors(path):
        part.write_parquet(temporary)
        written = temporary.read_bytes()
    reach("part: written")
    manifest = _manifest(chunk, part.height, written, images, sizes, asked)
    with write_errors(path), FileLock(layout.parts_lock, mode=0o666):
        beside.unlink(missing_ok=True)  # killed here, the chunk has no part, rather than one of two halves
        reach("part: manifest removed")
        temporary.replace(path)
        reach("part: in place")
        write_whole(beside, json.dumps(manifest).encode())
    reach("part: manifest in place")
    return manifest


def _manifest(
    chunk: Chunk, rows: int, written: bytes, images: list[str], sizes: list[int], asked: list[list[Generation]]
) -> dict[str, Any]:
    generations = [generation for row in asked for generation in row]
    kinds: Counter[ErrorKind] = Counter(g.error_kind for g in generations if g.error_kind is not None)
    return {
        "digest": chunk.digest,
        "content": hashlib.blake2b(written, digest_size=16).hexdigest(),
        "part_bytes": len(written),
        "model": chunk.model,
        "start": chunk.start,
        "stop": chunk.stop,
        "rows": rows,
        "images": images,
        "row_groups": list(_row_groups(sizes)),
        "generations": len(generations),
        "failed": dict(kinds),
        "failed_rows": sum(any(g.error_kind is not None for g in row) for row in asked),
        "asked_again": sum(count for kind, count in kinds.items() if TREATMENTS[kind].asked_again),
        "pending": sum(g.status == "pending" for g in generations),
        "reused": sum(g.reused and g.status == "done" for g in generations),
    }


def _row_groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Cuts rows into groups of at most `ROW_GROUP_ROWS` and `ROW_GROUP_BYTES`: [rows, bytes] of each."""
    rows = total = 0
    for size in sizes:
        if rows and (rows == ROW_GROUP_ROWS or total + size > ROW_GROUP_BYTES):
            yield [rows, total]
            rows = total = 0
        rows, total = rows + 1, total + size
    if rows:
        yield [rows, total]
