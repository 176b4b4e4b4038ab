"""The same bytes for three or more different prompts, found over a whole run: those rows fail, and are made again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from imagetask.chunks import finished_chunks, part_path, run_chunk
from imagetask.layout import Layout
from imagetask.models.managed import ManagedModel
from imagetask.models.placeholders import PROMPTS
from imagetask.models.records import from_record, to_record
from imagetask.plan import Chunk
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

logger = logging.getLogger(__name__)

_GENERATION = r"^[0-9a-f]{2}/([0-9a-f]{32})-([0-9a-f]{8})\."
"""A path in the store of a generation's own picture: its key, and the beginning of its hash."""


def void_placeholders(layout: Layout, store: GenerationStore) -> list[Chunk]:
    """Makes failures of kind "placeholder_image" of all generations of a plan that have the same bytes for three or
    more different prompts; gives the chunks that hold such. Prompts differ where the task's inputs do.
    """
    suspects = _often([_marks(pictures) for _, pictures in _pictures(layout)], "hash")
    if suspects.is_empty():
        return []
    found: list[_Suspect] = []
    for chunk, pictures in _pictures(layout):
        marked = pictures.select("key").hstack(_marks(pictures)).filter(pl.col("hash").is_in(suspects.implode()))
        found += [_Suspect(chunk, key, _sha256(store, key), prompt) for key, _, prompt in marked.iter_rows()]
    whole = pl.DataFrame([(one.sha256, one.prompt) for one in found], schema=_WHOLE, orient="row")
    placeholders = set(_often([whole.drop_nulls()], "sha256"))
    voided = [one for one in found if one.sha256 in placeholders]
    for key in dict.fromkeys(one.key for one in voided):
        _void(store, key)
    return list(dict.fromkeys(one.chunk for one in voided))


def remake_placeholders(settings: RunSettings, model_of: Callable[[str], ManagedModel]) -> None:
    """The parts of a plan, made once more where they hold placeholders: those rows fail, nothing is asked for.

    model_of: the models of the run by their names.
    """
    for chunk in void_placeholders(settings.layout, GenerationStore(settings.store_url)):
        run_chunk(settings, chunk, model_of(chunk.model).uncounted(), [False] * (chunk.stop - chunk.start))


class _Suspect(NamedTuple):
    chunk: Chunk
    key: str
    sha256: str | None
    prompt: int


_WHOLE = {"sha256": pl.String, "prompt": pl.UInt64}


def _often(frames: list[pl.DataFrame], column: str) -> pl.Series:
    """What stands in a column beside three or more different prompts."""
    empty = pl.DataFrame(schema={column: pl.UInt32, "prompt": pl.UInt64})
    counts = pl.concat(frames or [empty]).group_by(column).agg(prompts=pl.col("prompt").n_unique())
    return counts.filter(pl.col("prompts") >= PROMPTS)[column]


def _pictures(layout: Layout) -> Iterator[tuple[Chunk, pl.DataFrame]]:
    """Of each chunk its generations' pictures: `row_id`, `path` and `key`."""
    for chunk, manifest in finished_chunks(layout):
        part = pl.scan_parquet(part_path(layout, chunk))
        for column in manifest["images"]:
            paths = part.select("row_id", path=column)
            while isinstance(paths.collect_schema()["path"], pl.List):
                paths = paths.explode("path")
            yield chunk, paths.with_columns(key=pl.col("path").str.extract(_GENERATION, 1)).drop_nulls("key").collect()


def _marks(pictures: pl.DataFrame) -> pl.DataFrame:
    """In 12 bytes a picture: the beginning of its bytes' hash, and the hash of its prompt."""
    return pictures.select(
        hash=pl.col("path").str.extract(_GENERATION, 2).str.to_integer(base=16, dtype=pl.UInt32),
        prompt=pl.col("row_id").str.extract("^([0-9a-f]+)").str.to_integer(base=16, dtype=pl.UInt64),
    )


def _sha256(store: GenerationStore, key: str) -> str | None:
    record = store.get(key)
    return None if record is None or record.get("image") is None else str(record["image"]["sha256"])


def _void(store: GenerationStore, key: str) -> None:
    record = store.get(key)
    if record is None:
        return
    message = f"the same picture came for {PROMPTS} or more different prompts"
    failed = replace(from_record(record, store).failed("placeholder_image", message), image=None)
    store.put(key, to_record(failed), None)
    logger.warning("%s: generation %s does not count", message, key)
