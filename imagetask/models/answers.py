"""What a model answered: an image, or a classified failure, whatever the model's own code did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from imagetask.errors import GenerationError, ImageError
from imagetask.images import Image
from imagetask.redact import one_line, safe_cause, told


async def image_of(call: Callable[[], Awaitable[Any]], name: str) -> Image:
    """The image that the method `name` gives. Raises `GenerationError`, whatever it raised or gave in its place."""
    try:
        answer = await call()
    except Exception as error:
        failure = failure_of(error)
        raise failure from failure.__cause__
    if not isinstance(answer, Image):
        raise GenerationError("config", f"{name} must return an Image, not {type_name(answer)}")
    return answer


def failure_of(error: BaseException) -> GenerationError:
    """The exception as a failure: of kind "unknown" where the backend did not classify it."""
    if isinstance(error, GenerationError):
        return error
    if isinstance(error, ImageError):
        failure = GenerationError("corrupt_image", one_line(str(error)))
    else:
        failure = GenerationError("unknown", told(error))
    failure.__cause__ = safe_cause(error)
    return failure


def type_name(value: object) -> str:
    """The type for a message: "None", "str", "PIL.Image.Image"."""
    kind = type(value)
    if value is None or kind.__module__ == "builtins":
        return "None" if value is None else kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"
