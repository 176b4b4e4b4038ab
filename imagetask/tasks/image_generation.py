"""ImageGeneration: prompt → image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from imagetask.images import Image
from imagetask.models.base import ImageRequest
from imagetask.tasks.base import ImageTask, Row
from imagetask.tasks.parameters import PARAMETERS


class ImageGeneration(ImageTask):
    """Generates an image for the text in the column `prompt`.

    Reads `prompt` (text), and as parameters of the row's own `seed`, `width`, `height`, `negative_prompt`,
    `num_inference_steps` and `guidance_scale`, where there are such columns.
    Writes `image` (base64 text; a picture in the finished dataset) and `model_name`.

        >>> from imagetask import ImageGeneration, PlaceholderImageGeneration
        >>> task = ImageGeneration(name="image-generation", image_generation_model=PlaceholderImageGeneration())
        >>> task.load()
        >>> rows = next(task.process([{"prompt": "a white siamese cat"}]))
        >>> rows[0]["model_name"], rows[0]["status"]
        ('placeholder', 'done')
    """

    parameter_columns: dict[str, str] = Field(default_factory=lambda: {name: name for name in PARAMETERS})

    @property
    def inputs(self) -> Sequence[str] | Mapping[str, Any]:
        return {"prompt": "required"}

    @property
    def outputs(self) -> Sequence[str] | Mapping[str, Any]:
        return ["image", "model_name"]

    def format_input(self, input: Row) -> str | ImageRequest:
        prompt: str | ImageRequest = input["prompt"]
        return prompt

    def format_output(self, output: Image, input: Row) -> Row:
        return {"image": output}
