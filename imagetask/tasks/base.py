"""ImageTask: a task that works with an image generation model. A custom task is a subclass."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from PIL import Image as PILImage
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from imagetask.errors import GenerationError, ImageError, ImageTaskError
from imagetask.images import Image, image_to_str
from imagetask.models.base import Generation, ImageGenerationModel, ImageRequest, asked_size
from imagetask.models.managed import Input, ManagedModel
from imagetask.redact import one_line
from imagetask.tasks.parameters import with_row_parameters

Row = dict[str, Any]

BOOKKEEPING = (
    "row_id",
    "status",
    "error_kind",
    "error_message",
    "attempts",
    "seed",
    "generation",
    "reused",
    "maybe_billed",
    "cost",
    "cost_source",
    "latency",
    "asked_size",
    "image_size",
    "asked_prompt",
    "parameters",
    "provider",
    "image_format",
    "image_bytes",
    "image_sha256",
    "created_at",
    "raw_input",
    "raw_output",
)
"""The columns that imagetask writes beside a task's own; neither a source nor a task may have one of that name."""

SCORES = (
    "blank",
    "blur",
    "phash",
    "signature",
    "aspect",
    "colourfulness",
    "near_duplicate_group",
    "same_bytes_group",
    "duplicate",
)
"""The columns of the quality of pictures, which stand beside a dataset's: no source may have one of that name."""


def _managed(model: object) -> object:
    return ManagedModel(model) if isinstance(model, ImageGenerationModel) else model


class ImageTask(BaseModel, ABC):
    """A task whose rows are answered by an image generation model.

    A subclass says what it reads (`inputs`), what it writes (`outputs`), how a row becomes a prompt (`format_input`)
    and how a generation becomes columns (`format_output`). It may override `process` as well.

    num_generations: different images for each row, each in a row of its own.
    group_generations: one row for all of them instead, with lists; a failed generation is a null in its place.
    add_raw_input, add_raw_output: columns `raw_input` and `raw_output`, JSON text: what was asked, and what the backend
        said beside the picture.
    input_mappings: task's input → column of the source. output_mappings: task's output → column of the dataset.
    parameter_columns: parameter of the request → column of the source that has its value for each row; it goes before
        what the run, or `format_input`, says. A null says nothing, and so does a column that is not there.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    name: str = ""
    image_generation_model: Annotated[ManagedModel | ImageGenerationModel, BeforeValidator(_managed)]
    num_generations: int = Field(default=1, ge=1)
    group_generations: bool = False
    add_raw_input: bool = False
    add_raw_output: bool = False
    input_mappings: dict[str, str] = Field(default_factory=dict)
    output_mappings: dict[str, str] = Field(default_factory=dict)
    parameter_columns: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_mappings(self) -> ImageTask:
        for what, mappings, names in (
            ("input", self.input_mappings, column_names(self.inputs)),
            ("output", self.output_mappings, column_names(self.outputs)),
        ):
            if unknown := sorted(set(mappings) - set(names)):
                raise ValueError(f"{what}_mappings names {unknown[0]!r}, but the task's {what}s are {', '.join(names)}")
        return self

    @property
    def llm(self) -> ManagedModel:
        """Another name for `image_generation_model`, which is a `ManagedModel` once the task is made."""
        assert isinstance(self.image_generation_model, ManagedModel)
        return self.image_generation_model

    @property
    @abstractmethod
    def inputs(self) -> Sequence[str] | Mapping[str, Any]:
        """Columns that the task reads: names, or name → "required" or "optional" (also True or False)."""

    @property
    @abstractmethod
    def outputs(self) -> Sequence[str] | Mapping[str, Any]:
        """Columns that the task writes: names, or a dict by name. Has `model_name`."""

    @abstractmethod
    def format_input(self, input: Row) -> str | ImageRequest:
        """The prompt of a row; or an `ImageRequest`, which also sets size, seed or negative prompt."""

    @abstractmethod
    def format_output(self, output: Image, input: Row) -> Row:
        """The output columns of one generation. It is not called for a failed one: its columns are null."""

    def load(self) -> None:
        """Opens the model's client, or loads its weights."""
        self.llm.load()

    def unload(self) -> None:
        """Gives back what `load` took."""
        self.llm.unload()

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        """Rows in → lists of rows out: the input columns, the output columns and the bookkeeping columns.

        n rows → n × `num_generations` rows in order, or n rows with `group_generations`. An image is base64 text;
        in a pipeline it is an `Image`, a place in the store.
        """
        outputs = self.llm.generate_outputs(
            inputs=self._format_inputs(inputs),
            num_generations=self.num_generations,
            **self.llm.get_generation_kwargs(),
        )
        yield [
            {**row, **columns}
            for row, generations in zip(inputs, outputs, strict=True)
            for columns in self._format_outputs(generations, row)
        ]

    def _format_inputs(self, inputs: list[Row]) -> list[Input]:
        """What to ask for each row; where the task's own code raised, the failure in its place."""
        asked: list[Input] = []
        defaults = self.llm.get_generation_kwargs()
        for row in inputs:
            try:
                prompt = self.format_input(self._as_task_sees(row))
            except Exception as error:
                failure = _task_failure("format_input", error)
                self.llm.note_task("task", failure.message)
                asked.append(failure)
                continue
            try:
                asked.append(with_row_parameters(prompt, row, self.parameter_columns, defaults))
            except GenerationError as failure:
                asked.append(failure)
        return asked

    def _format_outputs(self, outputs: list[Generation], input: Row) -> list[Row]:
        """The columns of each generation of a row, or with `group_generations` one dict of lists for all of them."""
        columns = [
            self._columns_of(outputs, number, input) | self._bookkeeping(outputs[number])
            for number in range(len(outputs))
        ]
        if not self.group_generations:
            return columns
        names = dict.fromkeys(name for one in columns for name in one)
        grouped: Row = {name: [one.get(name) for one in columns] for name in names}
        return [grouped | {self._mapped("model_name"): self.llm.model_name, "status": group_status(outputs)}]

    def _columns_of(self, outputs: list[Generation], number: int, input: Row) -> Row:
        """The task's columns of one generation. Where `format_output` raises, the generation is failed in the list."""
        generation = outputs[number]
        names = [name for name in column_names(self.outputs) if name != "model_name"]
        columns: Row = dict.fromkeys(names)
        if generation.image is not None and generation.error_kind is None:
            try:
                columns |= self._checked(self.format_output(generation.image, self._as_task_sees(input)))
                self.llm.note_task(None)
            except Exception as error:
                failure = _task_failure("format_output", error)
                outputs[number] = generation.failed(failure.kind, failure.message)
                self.llm.note_task("task", failure.message)
        columns["model_name"] = generation.model_name
        return {self._mapped(name): self._presented(value) for name, value in columns.items()}

    def _checked(self, columns: object) -> Row:
        if not isinstance(columns, Mapping):
            raise TypeError(f"it returned {type(columns).__name__}, expected a dict of columns")
        if taken := sorted(set(columns) & set(BOOKKEEPING)):
            raise ValueError(
                f"it returned the column {taken[0]!r}, which imagetask writes itself: give it another name"
            )
        return dict(columns)

    def _bookkeeping(self, generation: Generation) -> Row:
        return bookkeeping_columns(generation, raw_input=self.add_raw_input, raw_output=self.add_raw_output)

    def _as_task_sees(self, row: Row) -> Row:
        return {**row, **{name: row[column] for name, column in self.input_mappings.items() if column in row}}

    def _mapped(self, name: str) -> str:
        return self.output_mappings.get(name, name)

    def _presented(self, value: Any) -> Any:
        """An image as base64 text; in a pipeline, where there is a store, as it is."""
        if self.llm.store is not None:
            return value
        if isinstance(value, Image):
            return value.to_base64()
        return image_to_str(value, "PNG") if isinstance(value, PILImage.Image) else value


def column_names(columns: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return list(columns)


def required_columns(columns: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The names among `inputs` without which a row cannot be answered."""
    if isinstance(columns, Mapping):
        return [name for name, needed in columns.items() if needed and needed != "optional"]
    return list(columns)


def bookkeeping_columns(generation: Generation, *, raw_input: bool = False, raw_output: bool = False) -> Row:
    """What is to be known of a generation beside its picture, as columns.

    latency: seconds; cost: USD; created_at: when its picture came, or its failure (UTC).
    """
    image = generation.image
    columns: Row = {
        "status": generation.status,
        "error_kind": generation.error_kind,
        "error_message": generation.error_message,
        "attempts": generation.attempts,
        "seed": generation.seed,
        "generation": generation.generation,
        "reused": generation.reused,
        "maybe_billed": generation.maybe_billed,
        "cost": generation.cost,
        "cost_source": generation.cost_source,
        "latency": generation.latency,
        "asked_size": asked_size(generation.parameters),
        "image_size": None if image is None else f"{image.width}x{image.height}",
        "asked_prompt": generation.prompt or None,
        "parameters": _json(dict(generation.parameters)),
        "provider": generation.info.get("provider"),
        "image_format": None if image is None else image.format,
        "image_bytes": None if image is None else image.num_bytes,
        "image_sha256": None if image is None else image.sha256,
        "created_at": None if generation.created_at is None else datetime.fromtimestamp(generation.created_at, UTC),
    }
    if raw_input:
        columns["raw_input"] = _json({"prompt": generation.prompt, **generation.parameters})
    if raw_output:
        columns["raw_output"] = _json(generation.info)
    return columns


def group_status(generations: Sequence[Generation]) -> str:
    """The status of a row with several generations: "done", "failed", "pending", or how many came, as in "2 of 3"."""
    statuses = Counter(generation.status for generation in generations)
    came = statuses["done"]
    if came in (0, len(generations)):
        return "done" if came else "failed" if statuses["failed"] else "pending"
    return f"{came} of {len(generations)}"


def _task_failure(where: str, error: Exception) -> GenerationError:
    """What the task's own code did wrong. A store that failed, or a run that stopped, is raised again."""
    if isinstance(error, ImageTaskError) and not isinstance(error, ImageError | GenerationError):
        raise error
    return GenerationError("task", one_line(f"{where} raised {type(error).__name__}: {error}"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
