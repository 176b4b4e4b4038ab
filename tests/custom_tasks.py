"""Tasks as users write them: good ones, and ones that break the contract. Named as `tests.custom_tasks:Postcard`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import ImageOps
from pydantic import Field

from imagetask import Image, ImageGeneration, ImageRequest, ImageTask, image_from_str, image_to_str

Row = dict[str, Any]


class Postcard(ImageTask):
    """Two input columns, a column of its own, and its own `process`, which adds another one."""

    @property
    def inputs(self) -> list[str]:
        return ["subject", "place"]

    @property
    def outputs(self) -> list[str]:
        return ["image", "title", "model_name"]

    def format_input(self, input: Row) -> str:
        return f"a postcard of {input['subject']} in {input['place']}"

    def format_output(self, output: Image, input: Row) -> Row:
        return {"image": output, "title": f"{input['subject']} – {image_from_str(output).width} px"}

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        formatted_inputs = self._format_inputs(inputs)
        outputs = self.llm.generate_outputs(
            inputs=formatted_inputs,
            num_generations=self.num_generations,
            **self.llm.get_generation_kwargs(),
        )
        task_outputs = []
        for input, input_outputs in zip(inputs, outputs, strict=True):
            formatted_outputs = self._format_outputs(input_outputs, input)
            task_outputs += [{**input, **columns, "letters": len(input["place"])} for columns in formatted_outputs]
        yield task_outputs


class Variants(ImageGeneration):
    """Gives pictures of every kind, as a list too; its `process` yields these alone, half of the rows at a time."""

    @property
    def outputs(self) -> list[str]:
        return ["image", "thumbnail", "grey", "copy", "halves", "model_name"]

    def format_output(self, output: Image, input: Row) -> Row:
        picture = output.to_pil()
        width, height = picture.size
        return {
            "image": output,
            "thumbnail": picture.resize((16, 16)),
            "grey": image_to_str(ImageOps.grayscale(picture)),
            "copy": output.data,
            "halves": [picture.crop((0, 0, width // 2, height)), picture.crop((width // 2, 0, width, height))],
        }

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        middle = (len(inputs) + 1) // 2
        for half in (inputs[:middle], inputs[middle:]):
            outputs = self.llm.generate_outputs(inputs=self._format_inputs(half), num_generations=self.num_generations)
            yield [
                {name: columns[name] for name in self.outputs}
                for input, input_outputs in zip(half, outputs, strict=True)
                for columns in self._format_outputs(input_outputs, input)
            ]


class Sized(ImageGeneration):
    """Sets size, seed and negative prompt for each row."""

    @property
    def inputs(self) -> list[str]:
        return ["prompt", "side", "wanted_seed"]

    def format_input(self, input: Row) -> ImageRequest:
        return ImageRequest(
            input["prompt"],
            width=input["side"],
            height=input["side"],
            negative_prompt="blurry",
            seed=input["wanted_seed"],
        )


class Grouped(ImageGeneration):
    """All generations of a row in one row, with what was asked and answered."""

    group_generations: bool = True
    add_raw_input: bool = True
    add_raw_output: bool = True


class Mapped(ImageGeneration):
    """Reads and writes columns of other names."""

    input_mappings: dict[str, str] = Field(default_factory=lambda: {"prompt": "caption"})
    output_mappings: dict[str, str] = Field(default_factory=lambda: {"image": "picture", "model_name": "painter"})


class OneShort(ImageGeneration):
    """Breaks the contract: its last row is missing."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        for rows in super().process(inputs):
            yield rows[:-1]


class Twice(ImageGeneration):
    """Breaks the contract: it yields all of its rows twice."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        for rows in super().process(inputs):
            yield rows
            yield rows


class Backwards(ImageGeneration):
    """Breaks the contract: its rows are in another order."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        for rows in super().process(inputs):
            yield rows[::-1]


class Rewriting(ImageGeneration):
    """Breaks the contract: it changes an input column."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        for rows in super().process(inputs):
            yield [{**row, "prompt": row["prompt"].upper()} for row in rows]


class RewritingItsInputs(ImageGeneration):
    """Breaks the contract: it changes an input column in the very rows that it was given."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        for row in inputs:
            row["prompt"] = row["prompt"].upper()
        yield from super().process(inputs)


class Selective(ImageGeneration):
    """Breaks the contract: it asks the model for its first row alone."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        for rows in super().process(inputs[:1]):
            yield rows * len(inputs)


class Sorting(ImageGeneration):
    """Breaks the contract: it asks for its rows in another order, though it yields them in their own."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        order = sorted(range(len(inputs)), key=lambda number: str(inputs[number]["prompt"]))
        [rows] = super().process([inputs[number] for number in order])
        yield [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]


class Raising(ImageGeneration):
    """Breaks the contract: its `process` raises."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        raise LookupError("no such brush")
        yield inputs


class OnlyOptional(ImageGeneration):
    """No input that must be there."""

    @property
    def inputs(self) -> dict[str, str]:
        return {"style": "optional"}

    def format_input(self, input: Row) -> str:
        return f"a still life, {input.get('style', 'plain')}"


class Given(ImageGeneration):
    """The picture in the column `given` (bytes) in place of the generation's own; null for none."""

    @property
    def inputs(self) -> list[str]:
        return ["prompt", "given"]

    def format_output(self, output: Image, input: Row) -> Row:
        return {"image": input["given"]}
