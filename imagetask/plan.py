"""The plan of a run: the rows of its source written down, with what tells each apart, and cut into chunks."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from pydantic import ValidationError

from imagetask.errors import GenerationError, SourceError, TaskError, UsageError
from imagetask.images import Image
from imagetask.layout import FORMAT_VERSION, Layout, read_json, write_json
from imagetask.models.base import ImageGenerationModel, ImageRequest
from imagetask.models.managed import ManagedModel
from imagetask.settings import RunSettings
from imagetask.sources import check_columns, read_errors, scan_source, source_name
from imagetask.tasks.base import BOOKKEEPING, ImageTask, column_names, required_columns
from imagetask.tasks.loading import code_digest, load_task

SMALLEST_CHUNK = 250
MOST_CHUNKS = 1000
"""A chunk is worth several seconds, and a run has at most about a thousand of them (see FACTS on task runs)."""

_BATCH_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `start` to `stop` of the plan, asked of one model. digest: of all that decides its part."""

    model: str
    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The snapshot of a source, cut into chunks. rows: of the source; chunks: in the order of work."""

    rows: int
    chunk_rows: int
    num_generations: int
    chunks: tuple[Chunk, ...]


def make_task(settings: RunSettings, model: ManagedModel) -> ImageTask:
    """A task of the run's class around a model. `prompt_column` maps the task's input `prompt`."""
    kind = load_task(settings.task)
    mappings = dict(kind.model_fields["input_mappings"].get_default(call_default_factory=True))
    if settings.prompt_column:
        mappings["prompt"] = settings.prompt_column
    given: dict[str, Any] = {} if settings.num_generations is None else {"num_generations": settings.num_generations}
    try:
        return kind(image_generation_model=model, input_mappings=mappings, **given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the task {settings.task!r} cannot be made: {field or 'it'}: {first['msg']}") from None


class _Unasked(ImageGenerationModel):
    """Stands for the model where a task is only asked which columns it reads and writes."""

    @property
    def model_name(self) -> str:
        return "unasked"

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        raise TaskError("a task asked its model for images while it was asked for its columns")


def open_source(settings: RunSettings) -> pl.LazyFrame:
    """The source of a run, checked: it can be read, has what the task needs, and no column of ours.

    Raises `SourceError`.
    """
    name = source_name(settings.source)
    task = make_task(settings, ManagedModel(_Unasked()))
    inputs = _input_columns(task)
    frame = scan_source(
        settings.source,
        text_columns=[column for column, given in inputs.items() if given == "prompt"],
        rename=settings.rename,
    )
    needed = required_columns(task.inputs)
    with read_errors(name):
        check_columns(frame, [column for column, given in inputs.items() if given in needed], name)
        _check_clashes(frame.collect_schema().names(), task, name)
    return frame if settings.limit is None else frame.head(settings.limit)


def make_plan(settings: RunSettings) -> Plan:
    """Snapshots the source into the dataset folder, with the ordinal and the id of each row, and cuts it into chunks.

    Raises `SourceError`.
    """
    name, layout = source_name(settings.source), settings.layout
    frame = open_source(settings)
    task = make_task(settings, ManagedModel(_Unasked()))
    with read_errors(name):
        rows = int(frame.select(pl.len()).collect().item())
        if rows == 0:
            raise SourceError(f"{name} has no rows: nothing to generate")
        chunk_rows = _chunk_rows(settings, rows)
        columns = frame.collect_schema().names()
        snapshot = _Snapshot(layout, [c for c in columns if c in _input_columns(task)], chunk_rows)
        snapshot.take(frame)
    chunks = _chunks(settings, task, rows, chunk_rows, snapshot.finish())
    plan = Plan(rows, chunk_rows, task.num_generations, chunks)
    write_json(layout.plan, {"version": FORMAT_VERSION, **asdict(plan)})
    return plan


def read_plan(layout: Layout) -> Plan | None:
    """The plan of the last run into a folder, or None."""
    known = read_json(layout.plan)
    if known is None or known.get("version") != FORMAT_VERSION:
        return None
    chunks = tuple(Chunk(**chunk) for chunk in known["chunks"])
    return Plan(known["rows"], known["chunk_rows"], known["num_generations"], chunks)


def _input_columns(task: ImageTask) -> dict[str, str]:
    """Column of the source → the task's name for it."""
    return {task.input_mappings.get(name, name): name for name in column_names(task.inputs)}


def _check_clashes(columns: Sequence[str], task: ImageTask, name: str) -> None:
    ours = {task.output_mappings.get(column, column) for column in task.outputs} | {*BOOKKEEPING, "model_name"}
    for column in columns:
        if column in ours:
            raise SourceError(
                f"the column {column!r} of {name} has the name of a column that imagetask writes: "
                f"rename it with --rename {column}=source_{column}"
            )


def _chunk_rows(settings: RunSettings, rows: int) -> int:
    """As asked; else as the folder remembers; else at least 250 rows, and at most a thousand chunks."""
    known = read_json(settings.layout.plan) or {}
    return int(settings.chunk_rows or known.get("chunk_rows") or max(SMALLEST_CHUNK, -(-rows // MOST_CHUNKS)))


def _chunks(
    settings: RunSettings, task: ImageTask, rows: int, chunk_rows: int, rows_digests: Sequence[str]
) -> tuple[Chunk, ...]:
    common = {
        "version": FORMAT_VERSION,
        "folder": str(settings.out),
        "store": settings.store_url,
        "task": settings.task,
        "code": code_digest(type(task)),
        "prompt_column": settings.prompt_column,
        "num_generations": settings.num_generations,
        "seed": settings.seed,
        "parameters": settings.generation_kwargs(),
        "base_url": settings.base_url,
    }
    chunks = []
    for number, rows_digest in enumerate(rows_digests):
        start = number * chunk_rows
        for model in settings.model:
            text = json.dumps({**common, "model": model, "rows": rows_digest}, sort_keys=True, default=str)
            digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            chunks.append(Chunk(model, start, min(start + chunk_rows, rows), digest))
    return tuple(chunks)


class _Snapshot:
    """Writes the rows of a source as Parquet, batch by batch, and what tells them apart beside them."""

    def __init__(self, layout: Layout, inputs: Sequence[str], chunk_rows: int) -> None:
        self._layout = layout
        self._inputs = list(inputs)
        self._chunk_rows = chunk_rows
        self._hashes = array("Q")
        self._digests: list[Any] = []
        self._temporary = layout.rows.with_name(".rows.parquet")

    def take(self, frame: pl.LazyFrame) -> None:
        writer: pq.ParquetWriter | None = None
        try:
            for batch in frame.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, lazy=True):
                table = batch.to_arrow()
                if writer is None:
                    writer = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
                writer.write_table(table)
                self._note(batch)
        finally:
            if writer is not None:
                writer.close()

    def _note(self, batch: pl.DataFrame) -> None:
        position = len(self._hashes)
        for text in _row_texts(batch.select(self._inputs)):
            self._hashes.append(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))
        for number, text in enumerate(_row_texts(batch), start=position):
            if number % self._chunk_rows == 0:
                self._digests.append(hashlib.blake2b(digest_size=16))
            self._digests[-1].update(text + b"\n")

    def finish(self) -> list[str]:
        """Puts the snapshot in place; gives the digest of each chunk's rows, their ordinals included."""
        marks = pl.DataFrame({"hash": pl.Series(self._hashes, dtype=pl.UInt64)}).select(
            "hash", ordinal=pl.int_range(pl.len(), dtype=pl.UInt32).over("hash")
        )
        for number, digest in enumerate(self._digests):
            ordinals = marks["ordinal"].slice(number * self._chunk_rows, self._chunk_rows)
            digest.update(",".join(map(str, ordinals.to_list())).encode())
        marks.select("ordinal", row_id=_row_id()).write_parquet(self._layout.ordinals)
        self._temporary.replace(self._layout.rows)
        return [digest.hexdigest() for digest in self._digests]


def _row_id() -> pl.Expr:
    """An id that stays when rows are put in or notes change: a hash of the task's inputs, and the ordinal after 0."""
    hashed = pl.col("hash").map_elements(lambda value: f"{value:016x}", return_dtype=pl.String)
    again = pl.format("{}-{}", hashed, pl.col("ordinal"))
    return pl.when(pl.col("ordinal") == 0).then(hashed).otherwise(again)


def _row_texts(frame: pl.DataFrame) -> list[bytes]:
    """Canonical text of each row: equal rows, equal text."""
    binary = [name for name, dtype in frame.schema.items() if dtype == pl.Binary]
    frame = frame.with_columns(pl.col(binary).bin.encode("base64"))
    return frame.write_ndjson().encode("utf-8", "surrogatepass").split(b"\n")[: frame.height]


def read_rows(layout: Layout, start: int, stop: int) -> pl.DataFrame:
    """Rows `start` to `stop` of the plan: the source's columns, then `row_id` and `ordinal`."""
    rows = pl.scan_parquet(layout.rows).slice(start, stop - start).collect()
    marks = pl.scan_parquet(layout.ordinals).slice(start, stop - start).collect()
    return rows.hstack(marks.select("row_id", "ordinal"))
