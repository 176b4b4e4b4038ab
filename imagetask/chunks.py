"""A chunk of the plan → its part: the rows answered, as one small Parquet file with images as paths into the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from imagetask.errors import DatasetError, ImageTaskError, RunStopped, TaskError
from imagetask.images import as_image
from imagetask.models.base import Generation
from imagetask.models.managed import ManagedModel
from imagetask.parts import write_part
from imagetask.plan import Chunk, chunk_digest, make_task
from imagetask.redact import told
from imagetask.settings import RunSettings
from imagetask.snapshot import read_rows, rows_digest
from imagetask.store import GenerationStore
from imagetask.tasks.base import BOOKKEEPING, ImageTask, Row, bookkeeping_columns, group_status
from imagetask.tried_instead import tried_instead

_IMAGE = "image"
"""A column of this name holds images, also where all of its rows failed; of others the values tell."""


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
    inputs = source.drop("seed", "row_id", strict=False).with_columns(marks["row_id"])  # ours tell what they told
    inputs = inputs.select(pl.all().repeat_by(each).explode()) if each > 1 else inputs
    part = inputs.hstack([series for series, _ in columns.values()])
    part = part.hstack(_bookkeeping_frame(task, _with_own_pictures(view.asked, answers, each)))
    part = part if reused is None else part.with_columns(reused)
    images = [name for name, (_, sizes) in columns.items() if sizes is not None]
    sizes = [sum(column) for column in zip(*(s for _, s in columns.values() if s is not None), strict=True)]
    return write_part(settings.layout, chunk, part, images, sizes or [0] * part.height, view.asked)


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
        for column in (answer.keys() & row.keys()) - set(BOOKKEEPING):
            if not _same(answer[column], row[column]):
                raise TaskError(
                    f"process of the task {_name(task)} changed the input column {column!r}, or the order of the "
                    f"rows: keep both, and write to a column of another name"
                )
        seed = [g.seed for g in generations] if task.group_generations else generations[number % each].seed
        if "seed" not in row and answer.get("seed", seed) != seed:
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
    "asked_prompt": pl.String,
    "parameters": pl.String,
    "provider": pl.String,
    "image_format": pl.String,
    "image_bytes": pl.Int64,
    "image_sha256": pl.String,
    "created_at": pl.Datetime("us", "UTC"),
    "raw_input": pl.String,
    "raw_output": pl.String,
}


def _with_own_pictures(asked: list[list[Generation]], answers: list[Row], each: int) -> list[list[Generation]]:
    """The generations, with the picture that a task made of theirs in its place: the columns tell of what is shown."""

    def shown(generation: Generation, value: Any) -> Generation:
        own = None if generation.image is None or value is generation.image else as_image(value)
        return generation if own is None else replace(generation, image=own)

    found = []
    for row, generations in enumerate(asked):
        values: list[Any] = [answer.get(_IMAGE) for answer in answers[row * each : (row + 1) * each]]
        if len(values) != len(generations):  # one list for all of them, where the task groups
            values = values[0] if isinstance(values[0], list) and len(values[0]) == len(generations) else generations
        found.append([shown(*pair) for pair in zip(generations, values, strict=True)])
    return found


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
