"""What the answers are that huggingface_hub took for results: a picture, a failure told as a success, a filter."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import httpx2
from PIL import Image as PILImage
from pydantic_core import from_json

from imagetask.errors import GenerationError
from imagetask.images import FORMATS, Image, describe_bytes
from imagetask.models.classify import classify_response
from imagetask.models.error_body import filtered


def failure_told(
    answers: Sequence[httpx2.Response], *, by_provider: bool, secrets: Sequence[str]
) -> GenerationError | None:
    """The failure that the last answer tells where huggingface_hub took it for a result; None where it tells none.

    That is a redirect to nowhere, and a provider's task that failed, which is told with a status of success.
    """
    answer = answers[-1] if answers else None
    if answer is None or answer.status_code >= 400 or not is_read(answer):
        return None
    is_redirect = answer.status_code >= 300
    if not is_redirect and not (by_provider and tells_error(answer)):
        return None
    status = answer.status_code if is_redirect else 200
    failure = classify_response(status, answer.headers, answer.text, secrets=secrets)
    if failure.kind == "unknown":
        failure.kind = "server"
    return failure


def without_image(answers: Sequence[httpx2.Response], *, by_provider: bool, secrets: Sequence[str]) -> GenerationError:
    """What an answer with status 200 is that holds no image."""
    if any(is_filtered(answer) for answer in answers):
        return filtered_image()
    if by_provider or not answers:  # the image lay behind a link, and the answer is not what failed
        return GenerationError("corrupt_image", "the provider's result is not an image")
    answer = answers[-1]
    if is_json(answer):
        failure = classify_response(200, answer.headers, answer.text, secrets=secrets)
        if failure.kind != "unknown":
            return failure
    return GenerationError("corrupt_image", f"not an image ({describe_bytes(answer.content)})")


def filtered_image() -> GenerationError:
    return GenerationError("refused", "the provider filtered the image")


def provider_image(picture: PILImage.Image, info: dict[str, Any]) -> Image:
    """The image as the provider sent it: the client's picture is lazy, and its file holds the bytes as they came.

    Pillow has read the header, so it is not read again. Raises `ImageError` for a format that is not taken.
    """
    source = picture.fp if hasattr(picture, "fp") else None
    if not isinstance(source, io.BytesIO):
        raise GenerationError("unknown", "huggingface_hub gave a picture without the provider's bytes")
    data = source.getvalue()
    name = picture.format
    if name is None or name not in FORMATS:
        return Image.from_bytes(data, info)
    return Image(data, format=name, width=picture.width, height=picture.height, info=info)


def is_json(answer: httpx2.Response) -> bool:
    return "json" in answer.headers.get("content-type", "")


def is_read(answer: httpx2.Response) -> bool:
    """Whether the body is there; it is not where the connection broke in it."""
    try:
        return answer.content is not None
    except httpx2.ResponseNotRead:
        return False


def tells_error(answer: httpx2.Response) -> bool:
    """Whether an answer in JSON names an error in place of its result."""
    try:
        value = from_json(answer.content) if is_json(answer) else None
    except ValueError:
        return False
    return isinstance(value, dict) and bool(value.get("error"))


def is_filtered(answer: httpx2.Response) -> bool:
    """Whether an answer in JSON says that the picture was filtered; some providers send a black one beside it."""
    if not is_json(answer) or (b"nsfw" not in answer.content and b"filter" not in answer.content):
        return False
    try:
        value = from_json(answer.content)
    except ValueError:
        return False
    return isinstance(value, dict) and filtered(value)
