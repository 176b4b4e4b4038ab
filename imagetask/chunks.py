"""A chunk of the plan → its part: the rows answered, as one small Parquet file with images as paths into the store."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from imagetask.crash_points import reach
from imagetask.errors import DatasetError, ErrorKind, ImageTaskError, RunStopped, TaskError
from imagetask.images import as_image
from imagetask.layout import Layout, read_json, write_whole
from imagetask.models.base import Generation
from imagetask.models.managed import ManagedModel
from imagetask.models.redact import told
from imagetask.models.treatments import TREATMENTS
from imagetask.plan import Chunk, chunk_digest, make_task, read_plan
from imagetask.settings import RunSettings
from imagetask.snapshot import read_rows, rows_digest, write_errors
from imagetask.store import GenerationStore
from imagetask.tasks.base import BOOKKEEPING, ImageTask, Row, bookkeeping_columns, group_status
from imagetask.tried_instead import tried_instead

ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 16_000_000
"""Limits of a row group with images. The Hub's viewer refuses groups above 300 MB; a run holds one group in memory."""


_IMAGE = "image"
"""A column of this name holds images, also where all of its rows failed; of others the values tell."""


def part_path(layout: Layout, chunk: Chunk) -> Path:
    return layout.parts / f"{chunk.digest}.parquet"


def manifest_path(layout: Layout, digest: str) -> Path:
    """Beside the part of the chunk with this digest: without it, there is no part."""
    return layout.parts / f"{digest}.json"


def read_manifest(layout: Layout, chunk: Chunk) -> dict[str, Any] | None:
    """The manifest of a chunk's part, or None where there is no whole part."""
    manifest, part = read_json(manifest_path(layout, chunk.digest)), part_path(layout, chunk)
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
    """Removes the parts and results of chunks that are no longer in the plan; their generations stay in the store."""
    reach("dataset: to be swept")
    current = {chunk.digest for chunk in chunks}
    for folder in (layout.parts, layout.results):
        for path in folder.iterdir():
            if path.is_file() and path.name.split(".")[0] not in current:
                path.unlink()


def is_final(manifest: dict[str, Any] | None) -> bool:
    """Whether a part stands: it is whole, and holds nothing that the next run should ask for."""
    return manifest is not None and manifest["asked_again"] == 0 and manifest["pending"] == 0


def run_chunk(
    settings: RunSettings,
    chunk: Chunk,
    model: ManagedModel,
    again: Sequence[bool] | None = None,
    *,
    reused: pl.Series | None = None,
) -> dict[str, Any]:
    """Answers the rows of a chunk and writes its part; gives the manifest. Finished generations cost nothing.

    again: of each row, whether it is tried again; nothing else is asked for then. None: what is missing is asked for.
    reused: the column of that name as an earlier part of this run had it, where the part is made once more.
    The part: the source's columns, `row_id`, the task's columns with images as paths into the store, bookkeeping.
    Raises `DatasetError` where the plan is no longer the one that the chunk was cut from, `RunStopped`, `TaskError`,
    `StorageError`.
    """
    assert model.store is not None
    source, marks = read_rows(settings.layout, chunk.start, chunk.stop)
    instead = tried_instead(settings.layout, chunk.model, marks["row_id"].to_list())
    view = model.for_rows(marks["ordinal"].to_list(), again, instead)
    task = make_task(settings, view)
    _check_plan(settings, chunk, task, rows_digest(source, marks["ordinal"]))
    try:
        return _answered_part(settings, chunk, task, view, source, marks, reused)
    except (RunStopped, TaskError, DatasetError):  # nothing of it is asked for again in this run
        raise
    except BaseException:
        view.take_back()
        raise


def _answered_part(
    settings: RunSettings,
    chunk: Chunk,
    task: ImageTask,
    view: ManagedModel,
    source: pl.DataFrame,
    marks: pl.DataFrame,
    reused: pl.Series | None,
) -> dict[str, Any]:
    rows = source.to_dicts()
    answers = answered(task, [dict(row) for row in rows])
    each = 1 if task.group_generations else task.num_generations
    _check_answer(task, rows, answers, each, view)
    assert view.asked is not None
    assert view.store is not None
    columns = _output_columns(task, source.columns, answers, view.store, chunk.start)
    inputs = source.with_columns(marks["row_id"])
    inputs = inputs.select(pl.all().repeat_by(each).explode()) if each > 1 else inputs
    part = inputs.hstack([series for series, _ in columns.values()])
    part = part.hstack(_bookkeeping_frame(task, view.asked))
    part = part if reused is None else part.with_columns(reused)
    images = [name for name, (_, sizes) in columns.items() if sizes is not None]
    sizes = [sum(column) for column in zip(*(s for _, s in columns.values() if s is not None), strict=True)]
    return _write_part(settings.layout, chunk, part, images, sizes or [0] * part.height, view.asked)


def _check_plan(settings: RunSettings, chunk: Chunk, task: ImageTask, rows: str) -> None:
    """What is about to be answered must be what the chunk's digest says: its part is kept under that name."""
    if chunk_digest(settings, type(task), chunk.model, task.llm.model, rows) != chunk.digest:
        raise DatasetError(
            f"the plan in {settings.out} changed while this run went on: another run into the same folder? "
            f"run the same command again"
        )


def answered(task: ImageTask, rows: list[Row]) -> list[Row]:
    """What the task yields, loaded before and unloaded after. Its errors, but ours, are `TaskError`s."""
    with _own_code(task, "load"):
        task.load()
    try:
        with _own_code(task, "process"):
            return [row for batch in task.process(rows) for row in batch]
    finally:
        with _own_code(task, "unload"):
            task.unload()


@contextmanager
def _own_code(task: ImageTask, method: str) -> Iterator[None]:
    try:
        yield
    except ImageTaskError:
        raise
    except Exception as error:
        raise TaskError(f"{method} of the task {_name(task)} raised {told(error)}") from error


def _check_answer(task: ImageTask, rows: list[Row], answered: list[Row], each: int, view: ManagedModel) -> None:
    """A task must ask for each row once, in order, and yield its rows × generations, each beside its own input."""
    if len(answered) != len(rows) * each:
        raise TaskError(
            f"process of the task {_name(task)} yielded {len(answered)} rows for {len(rows)} rows × {each} "
            f"generations: it must yield {len(rows) * each}, in order"
        )
    asked = view.asked or []
    if len(asked) != len(rows) or any(len(generations) != task.num_generations for generations in asked):
        raise TaskError(
            f"process of the task {_name(task)} asked the model for {len(asked)} rows, but was given {len(rows)}: "
            f"it must ask for each row once, with num_generations={task.num_generations}"
        )
    for number, answer in enumerate(answered):
        row, generations = rows[number // each], asked[number // each]
        for column in answer.keys() & row.keys():
            if not _same(answer[column], row[column]):
                raise TaskError(
                    f"process of the task {_name(task)} changed the input column {column!r}, or the order of the "
                    f"rows: keep both, and write to a column of another name"
                )
        seed = [g.seed for g in generations] if task.group_generations else generations[number % each].seed
        if answer.get("seed", seed) != seed:
            raise TaskError(
                f"process of the task {_name(task)} asked the model for its rows in another order than it was given "
                f"them: ask in the order of the rows"
            )


def _same(one: Any, other: Any) -> bool:
    return one is other or bool(one == other) or (one != one and other != other)


def _name(task: ImageTask) -> str:
    return repr(task.name or type(task).__name__)


def _output_columns(
    task: ImageTask, inputs: Sequence[str], answered: list[Row], store: GenerationStore, first_row: int
) -> dict[str, tuple[pl.Series, list[int] | None]]:
    """The task's columns; of image columns the paths, and the bytes of each row's images."""
    names = dict.fromkeys(name for row in answered for name in row if name not in BOOKKEEPING and name not in inputs)
    columns: dict[str, tuple[pl.Series, list[int] | None]] = {}
    for name in names:
        values = [row.get(name) for row in answered]
        stored = [_stored(value, store) for value in values]
        if not any(cell is not None for cell in stored) and name != _IMAGE:
            columns[name] = (_series(task, name, values), None)
            continue
        paths: list[Any] = []
        for number, (value, cell) in enumerate(zip(values, stored, strict=True)):
            if cell is None and not _is_null(value):
                raise TaskError(
                    f"the task {_name(task)} gave the column {name!r} images, but in row {first_row + number} "
                    f"{type(value).__name__}: a column holds images or something else, not both"
                )
            paths.append(value if cell is None else cell[0])
        dtype = _paths_type(max(int(task.group_generations), *map(_depth, paths)))
        columns[name] = (_series(task, name, paths, dtype), [0 if cell is None else cell[1] for cell in stored])
    return columns


def _is_null(value: Any) -> bool:
    """Whether a value is null, or a list of nothing else."""
    return all(map(_is_null, value)) if isinstance(value, list | tuple) else value is None


def _depth(value: Any) -> int:
    """In how many lists the innermost items are."""
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list | tuple) else 0


def _paths_type(depth: int) -> pl.DataType | type[pl.DataType]:
    """Text, in so many lists."""
    return pl.List(_paths_type(depth - 1)) if depth else pl.String


def _stored(value: Any, store: GenerationStore) -> tuple[Any, int] | None:
    """The path of an image in the store and its bytes, or lists of these; None where the value is no image."""
    if isinstance(value, list | tuple):
        cells = [_stored(item, store) for item in value]
        if all(cell is None for cell in cells):
            return None
        return [cell[0] if cell else None for cell in cells], sum(cell[1] for cell in cells if cell)
    image = as_image(value)
    if image is None:
        return None
    image = store.put_image(image)
    return image.path, image.num_bytes


def _series(
    task: ImageTask, name: str, values: list[Any], dtype: pl.DataType | type[pl.DataType] | None = None
) -> pl.Series:
    try:
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in values if value is not None}))
        raise TaskError(f"the task {_name(task)} gave the column {name!r} values of several types ({kinds})") from error


_BOOKKEEPING_TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "status": pl.String,
    "error_kind": pl.String,
    "error_message": pl.String,
    "attempts": pl.Int32,
    "seed": pl.Int64,
    "generation": pl.Int32,
    "reused": pl.Boolean,
    "maybe_billed": pl.Boolean,
    "cost": pl.Float64,
    "cost_source": pl.String,
    "latency": pl.Float64,
    "asked_size": pl.String,
    "image_size": pl.String,
    "raw_input": pl.String,
    "raw_output": pl.String,
}


def _bookkeeping_frame(task: ImageTask, asked: list[list[Generation]]) -> pl.DataFrame:
    """What is known of each generation, from the model's own account, whatever `process` made of it."""

    def of(generation: Generation) -> Row:
        return bookkeeping_columns(generation, raw_input=task.add_raw_input, raw_output=task.add_raw_output)

    if not task.group_generations:
        rows = [of(generation) for generations in asked for generation in generations]
        types = {name: _BOOKKEEPING_TYPES[name] for name in rows[0]}
        return pl.DataFrame(rows, schema=types)
    grouped = []
    for generations in asked:
        each = [of(generation) for generation in generations]
        grouped.append({name: [row[name] for row in each] for name in each[0]} | {"status": group_status(generations)})
    types = {name: pl.String if name == "status" else pl.List(_BOOKKEEPING_TYPES[name]) for name in grouped[0]}
    return pl.DataFrame(grouped, schema=types)


def _write_part(
    layout: Layout,
    chunk: Chunk,
    part: pl.DataFrame,
    images: list[str],
    sizes: list[int],
    asked: list[list[Generation]],
) -> dict[str, Any]:
    reach("part: answered")
    path, beside = part_path(layout, chunk), manifest_path(layout, chunk.digest)
    temporary = path.with_suffix(".writing")
    with write_errors(path):
        part.write_parquet(temporary)
        written = temporary.read_bytes()
        reach("part: written")
        beside.unlink(missing_ok=True)  # killed here, the chunk has no part, rather than one of two halves
        reach("part: manifest removed")
        temporary.replace(path)
        reach("part: in place")
    generations = [generation for row in asked for generation in row]
    kinds: Counter[ErrorKind] = Counter(g.error_kind for g in generations if g.error_kind is not None)
    manifest = {
        "digest": chunk.digest,
        "content": hashlib.blake2b(written, digest_size=16).hexdigest(),
        "part_bytes": len(written),
        "model": chunk.model,
        "start": chunk.start,
        "stop": chunk.stop,
        "rows": part.height,
        "images": images,
        "row_groups": list(_row_groups(sizes)),
        "generations": len(generations),
        "failed": dict(kinds),
        "failed_rows": sum(any(g.error_kind is not None for g in row) for row in asked),
        "asked_again": sum(count for kind, count in kinds.items() if TREATMENTS[kind].asked_again),
        "pending": sum(g.status == "pending" for g in generations),
        "reused": sum(g.reused and g.status == "done" for g in generations),
    }
    write_whole(beside, json.dumps(manifest).encode())
    reach("part: manifest in place")
    return manifest


def _row_groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Cuts rows into groups of at most 100 rows and 16 MB: [rows, bytes] of each."""
    rows = total = 0
    for size in sizes:
        if rows and (rows == ROW_GROUP_ROWS or total + size > ROW_GROUP_BYTES):
            yield [rows, total]
            rows = total = 0
        rows, total = rows + 1, total + size
    if rows:
        yield [rows, total]
