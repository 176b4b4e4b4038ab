"""The plan of a run: the rows of its source written down, with what tells each apart, and cut into chunks."""

from __future__ import annotations

import hashlib
import json
import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import polars as pl
from pydantic import ValidationError

from imagetask.crash_points import reach
from imagetask.errors import DatasetError, GenerationError, SourceError, TaskError, UsageError
from imagetask.images import Image
from imagetask.layout import FORMAT_VERSION, Layout, read_json, write_json
from imagetask.models.base import ImageGenerationModel, ImageRequest
from imagetask.models.managed import ManagedModel
from imagetask.published import published_ranges
from imagetask.settings import RunSettings, what_is_wrong
from imagetask.snapshot import BATCH_ROWS, first_marks, read_rows, rows_digest, write_snapshot
from imagetask.sources import check_columns, read_errors, scan_source, source_files, source_name
from imagetask.sources.files import SourceFile
from imagetask.sources.prompts import with_prompt
from imagetask.sources.tables import in_small_pieces
from imagetask.tasks.base import BOOKKEEPING, SCORES, ImageTask, column_names, required_columns
from imagetask.tasks.loading import code_digest, load_task

LOG = logging.getLogger(__name__)

SMALLEST_CHUNK = 250
MOST_TASK_RUNS = 1000
"""Of a run, where its user gives no chunk size: all its chunks, and the one that makes the dataset.

One of them costs a Prefect server about 25 ms of CPU and 21 KB (FACTS), so a chunk is worth several seconds.
"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `start` to `stop` of the plan, asked of one model. digest: of all that decides its part."""

    model: str
    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The snapshot of a source, cut into chunks. rows: of the source; chunks: in the order of work; sources: what names
    the files that were read, those on the Hub with their commit."""

    rows: int
    chunk_rows: int
    num_generations: int
    chunks: tuple[Chunk, ...]
    sources: tuple[str, ...] = ()

    @property
    def generations(self) -> int:
        """How many there are to be, of all models."""
        return self.num_generations * sum(chunk.stop - chunk.start for chunk in self.chunks)


def make_task(settings: RunSettings, model: ManagedModel) -> ImageTask:
    """A task of the run's class around a model. `prompt_column` maps the task's input `prompt`."""
    kind = load_task(settings.task)
    mappings = _default(kind, "input_mappings")
    if settings.prompt_column:
        mappings["prompt"] = settings.prompt_column
    columns = _default(kind, "parameter_columns") | settings.param_column
    given: dict[str, Any] = {} if settings.num_generations is None else {"num_generations": settings.num_generations}
    try:
        return kind(image_generation_model=model, input_mappings=mappings, parameter_columns=columns, **given)
    except ValidationError as error:
        field, why = what_is_wrong(error)
        raise UsageError(f"the task {settings.task!r} cannot be made: {field or 'it'}: {why}") from None


def _default(kind: type[ImageTask], field: str) -> dict[str, str]:
    return dict(kind.model_fields[field].get_default(call_default_factory=True))


class _Unasked(ImageGenerationModel):
    """Stands for the model where a task is only asked which columns it reads and writes."""

    @property
    def model_name(self) -> str:
        return "unasked"

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        raise TaskError("a task asked its model for images while it was asked for its columns")


def open_source(
    settings: RunSettings, token: str | None = None, files: Sequence[SourceFile] | None = None
) -> pl.LazyFrame:
    """The source of a run, checked: it can be read, has what the task needs, and no column of ours.

    token: for the Hub. files: of the source, where they were found already. Raises `SourceError`, and what
    `source_files` raises.
    """
    name = source_name(settings.source)
    task = make_task(settings, ManagedModel(_Unasked()))
    inputs = _input_columns(task)
    frame = scan_source(
        files or settings.source,
        text_columns=[column for column, given in inputs.items() if given == "prompt"],
        rename=settings.rename,
        token=token,
    )
    if settings.prompt is not None:
        if "prompt" not in inputs:
            raise UsageError(f"--prompt: the task {settings.task!r} reads no column 'prompt'")
        others = [column for column in _present(frame, task) if column != "prompt"]
        frame = with_prompt(frame, settings.prompt, name, others)
    needed = [column for column, given in inputs.items() if given in required_columns(task.inputs)]
    ids = [settings.row_id_column] if settings.row_id_column else []
    with read_errors(name):
        of_prompt = [inputs[column] for column in needed] == ["prompt"]
        check_columns(frame, needed, name, "--prompt-column" if of_prompt else None)
        check_columns(frame, list(settings.param_column.values()), name)
        check_columns(frame, ids, name, "--row-id-column")
        _check_clashes(frame.collect_schema().names(), task, settings, name)
    return frame if settings.limit is None else frame.head(settings.limit)


def make_plan(settings: RunSettings, models: Sequence[ImageGenerationModel], token: str | None = None) -> Plan:
    """Snapshots the source into the dataset folder, with the ordinal and the id of each row, and cuts it into chunks.

    models: of `settings.model`, in its order; they need not be loaded. token: for the Hub. Raises `SourceError`,
    `StorageError`.
    """
    name, layout = source_name(settings.source), settings.layout
    with read_errors(name):
        files = source_files(settings.source, token)
    frame = open_source(settings, files=files)
    task = make_task(settings, ManagedModel(_Unasked()))
    before = read_plan(layout)
    with read_errors(name), in_small_pieces():
        rows = write_snapshot(frame, _present(frame, task), layout, name, settings.row_id_column)
    remembered = (read_json(layout.plan) or {}).get("chunk_rows")
    _tell_what_leaves(settings, task, rows, before)
    chunk_rows = settings.chunk_rows or chunk_rows_for(rows, len(settings.model), remembered)
    return _cut(settings, task, models, rows, chunk_rows, tuple(file.pinned for file in files))


def _tell_what_leaves(settings: RunSettings, task: ImageTask, rows: int, before: Plan | None) -> None:
    """Warns of a run that makes a dataset smaller: it may be meant for another folder."""
    if before is None or not settings.layout.shards.is_file():
        return
    gone = list(dict.fromkeys(chunk.model for chunk in before.chunks if chunk.model not in settings.model))
    what = [f"{rows:,} rows of the source in place of {before.rows:,}"] if rows < before.rows else []
    if task.num_generations < before.num_generations:
        what.append(f"{task.num_generations} in place of {before.num_generations} generations of each")
    what += [f"no images of {', '.join(gone)} any more"] if gone else []
    if what:
        LOG.warning("%s: %s; what leaves the dataset is kept in the store", settings.out, ", ".join(what))


def plan_again(settings: RunSettings, models: Sequence[ImageGenerationModel]) -> Plan:
    """The plan of the last run, cut anew of the snapshot that it left: the source is not read.

    Raises `DatasetError` where there is none.
    """
    known = read_plan(settings.layout)
    if known is None or not settings.layout.rows.is_file():
        raise DatasetError(f"there is no plan in {settings.out}: run imagetask generate first")
    task = make_task(settings, ManagedModel(_Unasked()))
    return _cut(settings, task, models, known.rows, known.chunk_rows, known.sources)


def _cut(
    settings: RunSettings,
    task: ImageTask,
    models: Sequence[ImageGenerationModel],
    rows: int,
    chunk_rows: int,
    sources: tuple[str, ...],
) -> Plan:
    chunks = tuple(_chunks(settings, task, models, rows, chunk_rows))
    plan = Plan(rows, chunk_rows, task.num_generations, chunks, sources)
    write_json(settings.layout.plan, {"version": FORMAT_VERSION, **asdict(plan)})
    reach("plan: in place")
    return plan


def first_rows(settings: RunSettings, count: int, token: str | None = None) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The first rows of the source, their `ordinal` and `row_id` as a plan has them, and how many rows the source has.

    Writes nothing. token: for the Hub. Raises `SourceError`.
    """
    name = source_name(settings.source)
    frame = open_source(settings, token)
    task = make_task(settings, ManagedModel(_Unasked()))
    with read_errors(name), in_small_pieces():
        rows = int(frame.select(pl.len()).collect().item())
        first = frame.head(count).collect()
    if rows == 0:
        raise SourceError(f"{name} has no rows: nothing to generate")
    return first, first_marks(first, _present(frame, task), settings.row_id_column), rows


def read_plan(layout: Layout) -> Plan | None:
    """The plan of the last run into a folder, or None where there is none that can be read."""
    known = read_json(layout.plan)
    if known is None or known.get("version") != FORMAT_VERSION:
        return None
    try:
        chunks = tuple(Chunk(**chunk) for chunk in known["chunks"])
        sources = tuple(known.get("sources", ()))
        rows, chunk_rows, num_generations = (int(known[name]) for name in ("rows", "chunk_rows", "num_generations"))
        return Plan(rows, chunk_rows, num_generations, chunks, sources)
    except (KeyError, TypeError, ValueError):  # damaged: the next run makes it anew
        return None


def _input_columns(task: ImageTask) -> dict[str, str]:
    """Column of the source → the task's name for it."""
    return {task.input_mappings.get(name, name): name for name in column_names(task.inputs)}


def _present(frame: pl.LazyFrame, task: ImageTask) -> list[str]:
    """The columns of the source that the task reads, those of its parameters with them."""
    read = {*_input_columns(task), *task.parameter_columns.values()}
    return [column for column in frame.collect_schema().names() if column in read]


def _check_clashes(columns: Sequence[str], task: ImageTask, settings: RunSettings, name: str) -> None:
    """A column `seed` that is each row's own, and a `row_id` that is the user's, are what ours of that name tell."""
    ours = {task.output_mappings.get(column, column) for column in task.outputs} | {*BOOKKEEPING, *SCORES, "model_name"}
    if task.parameter_columns.get("seed") == "seed":
        ours.discard("seed")
    if settings.row_id_column == "row_id":
        ours.discard("row_id")
    for column in columns:
        if column in ours:
            ids = ", or take it for the ids of the rows: --row-id-column row_id" if column == "row_id" else ""
            raise SourceError(
                f"the column {column!r} of {name} has the name of a column that imagetask writes: "
                f"rename it with --rename {column}=source_{column}{ids}"
            )


def chunk_rows_for(rows: int, models: int, remembered: int | None) -> int:
    """The size of a chunk where the user gives none: as the folder remembers, where that makes no more than
    `MOST_TASK_RUNS`; else 250, 500, ….

    In large steps, so that a source that grows is seldom cut anew.
    """
    most = max(1, (MOST_TASK_RUNS - 1) // models)
    known = remembered or SMALLEST_CHUNK
    return known if known * most >= rows else SMALLEST_CHUNK * -(-rows // (SMALLEST_CHUNK * most))


def _chunks(
    settings: RunSettings, task: ImageTask, models: Sequence[ImageGenerationModel], rows: int, chunk_rows: int
) -> Iterator[Chunk]:
    """The chunks, with digests of the snapshot as it stands on disk."""
    bounds = _bounds(rows, chunk_rows, published_ranges(settings.layout))
    for _, some in groupby(bounds, key=lambda bound: bound[0] // max(BATCH_ROWS, chunk_rows)):
        near = list(some)
        first = near[0][0]
        frame, marks = read_rows(settings.layout, first, near[-1][1])
        for start, stop in near:
            part = slice(start - first, stop - first)
            digest = rows_digest(frame[part], marks["ordinal"][part])
            for name, model in zip(settings.model, models, strict=True):
                yield Chunk(name, start, stop, chunk_digest(settings, type(task), name, model, digest))


def _bounds(rows: int, chunk_rows: int, published: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """Start and stop of each chunk. published: of those that keep theirs, start → stop."""
    starts = sorted(published)
    start = 0
    while start < rows:
        stop = published.get(start, 0)
        if not start < stop <= rows:
            following = starts[place] if (place := bisect_right(starts, start)) < len(starts) else rows
            stop = min(start + chunk_rows, rows, following)
        yield start, stop
        start = stop


_DECIDING = {
    "task",
    "prompt_column",
    "param_column",
    "row_id_column",
    "num_generations",
    "seed",
    "width",
    "height",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "param",
    "base_url",
}
"""Settings that decide what is in a part, beside its rows and its model."""


def chunk_digest(
    settings: RunSettings, task: type[ImageTask], name: str, model: ImageGenerationModel, rows: str
) -> str:
    """Digest of all that decides a part: two chunks with the same one have the same part.

    name: the model's among `settings.model`. rows: their `rows_digest`. A provider is in no digest and in no key: it
    serves the same model as others do.
    """
    deciding = {
        "version": FORMAT_VERSION,
        "folder": str(settings.out),
        "store": settings.store_url,
        "code": code_digest(task),
        "model": [name, model.model_name, model.key_url],
        "rows": rows,
        **settings.model_dump(mode="json", include=_DECIDING),
    }
    text = json.dumps(deciding, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
