"""The same bytes for three or more different prompts, found over a whole run: those rows fail, and are made again."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from imagetask.chunks import run_chunk
from imagetask.crash_points import reach
from imagetask.layout import Layout, read_json, write_json
from imagetask.models.managed import ManagedModel
from imagetask.models.placeholders import PROMPTS
from imagetask.models.records import from_record, to_record
from imagetask.parts import finished_chunks, manifest_path, part_path
from imagetask.plan import Chunk
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

logger = logging.getLogger(__name__)

_GENERATION = r"^[0-9a-f]{2}/([0-9a-f]{32})-([0-9a-f]{8})\."
"""A path in the store of a generation's own picture: its key, and the beginning of its hash."""


def remake_placeholders(settings: RunSettings, model_of: Callable[[str], ManagedModel]) -> None:
    """Finds the placeholders of a plan, and makes the parts that hold them once more: those rows fail, of kind
    "placeholder_image". Nothing is asked for. model_of: the models of the run by their names.
    """
    layout, store = settings.layout, GenerationStore(settings.store_url)
    suspects = find_placeholders(layout, store)
    if not suspects:
        return
    chunks = list(dict.fromkeys(one.chunk for one in suspects))
    reused = [pl.read_parquet(part_path(layout, chunk.digest), columns=["reused"])["reused"] for chunk in chunks]
    keys = list(dict.fromkeys(one.key for one in suspects))
    write_json(layout.placeholders, {"keys": keys, "chunks": [chunk.digest for chunk in chunks]})
    void_listed(layout, store)
    for chunk, column in zip(chunks, reused, strict=True):
        model = model_of(chunk.model).uncounted()
        run_chunk(settings, chunk, model, [False] * (chunk.stop - chunk.start), reused=column)


def find_placeholders(layout: Layout, store: GenerationStore) -> list[Suspect]:
    """The generations of a plan that have the same bytes for three or more different prompts."""
    hashes = _often(layout)
    if hashes.is_empty():
        return []
    found: list[Suspect] = []
    for chunk, pictures in _pictures(layout):
        keys = pictures.filter(_marks(pictures)["hash"].is_in(hashes.implode()))["key"]
        found += [suspect for key in keys if (suspect := _suspect(chunk, key, store)) is not None]
    prompts: dict[str, set[str]] = {}
    for one in found:
        prompts.setdefault(one.sha256, set()).add(one.prompt)
    return [one for one in found if len(prompts[one.sha256]) >= PROMPTS]


def void_listed(layout: Layout, store: GenerationStore) -> None:
    """Makes failures of the placeholders that are written down: they count no longer, nor do the parts that hold them.

    A run that was killed while it did so has left the list: the next one does it first of all.
    """
    listed = read_json(layout.placeholders)
    if listed is None:
        return
    reach("placeholders: listed")
    for digest in listed["chunks"]:
        manifest_path(layout, digest).unlink(missing_ok=True)
    for key in listed["keys"]:
        _void(store, key)
        reach("placeholder: voided")
    layout.placeholders.unlink()


class Suspect(NamedTuple):
    """A generation whose picture others may have as well. sha256: of its bytes."""

    chunk: Chunk
    key: str
    sha256: str
    prompt: str


def _often(layout: Layout) -> pl.Series:
    """The hashes that rows with three or more different inputs share (UInt32).

    In 12 bytes a picture at most; pictures that came three times or more take another 12 and a table of them.
    """
    hashes = array("I")
    for _, pictures in _pictures(layout):
        hashes.extend(_marks(pictures)["hash"])
    counted = pl.Series(hashes, dtype=pl.UInt32).sort()
    often = counted.filter(counted == counted.shift(PROMPTS - 1)).unique()
    del hashes, counted
    if often.is_empty():
        return often
    within = (_marks(pictures) for _, pictures in _pictures(layout))
    inputs = pl.concat(marks.filter(marks["hash"].is_in(often.implode())).unique() for marks in within)
    return inputs.unique().group_by("hash").len().filter(pl.col("len") >= PROMPTS)["hash"]


def _pictures(layout: Layout) -> Iterator[tuple[Chunk, pl.DataFrame]]:
    """Of each chunk its generations' pictures: `row_id`, `path` and `key`."""
    for chunk, manifest in finished_chunks(layout):
        part = pl.scan_parquet(part_path(layout, chunk.digest))
        for column in manifest["images"]:
            paths = part.select("row_id", path=column)
            while isinstance(paths.collect_schema()["path"], pl.List):
                paths = paths.explode("path")
            yield chunk, paths.with_columns(key=pl.col("path").str.extract(_GENERATION, 1)).drop_nulls("key").collect()


def _marks(pictures: pl.DataFrame) -> pl.DataFrame:
    """In 12 bytes a picture: the beginning of its bytes' hash, and the hash of its row's inputs."""
    return pictures.select(
        hash=pl.col("path").str.extract(_GENERATION, 2).str.to_integer(base=16, dtype=pl.UInt32),
        inputs=pl.col("row_id").str.extract("^([0-9a-f]+)").str.to_integer(base=16, dtype=pl.UInt64),
    )


def _suspect(chunk: Chunk, key: str, store: GenerationStore) -> Suspect | None:
    record = store.get(key)
    if record is None or record.get("image") is None:
        return None
    return Suspect(chunk, key, record["image"]["sha256"], record["prompt"])


def _void(store: GenerationStore, key: str) -> None:
    record = store.get(key)
    if record is None or record.get("image") is None:
        return
    message = f"the same picture came for {PROMPTS} or more different prompts"
    failed = replace(from_record(record, store).failed("placeholder_image", message), image=None)
    store.put(key, to_record(failed), None)
    logger.warning("%s: generation %s does not count", message, key)
