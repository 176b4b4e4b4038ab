"""What a call asks for, and the answers that hold a picture, or something else in its place."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.model_server.faults import Fault, Wire
from tests.model_server.http11 import Answer, Request, json_answer
from tests.model_server.pictures import FORMATS, ImageFormat, Picture, PictureMaker

SIGNATURE = "c2lnbmVkLWZvci1vbmUtaG91cg"
"""The signature in every result URL: as good as a key, so it must turn up nowhere."""

_HTML = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle cx="32" cy="32" r="20"/></svg>'
_NO_IMAGE = b"\x00these are no image bytes\xff" * 20
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call for pictures, read from either wire. size: px, None where not given. number: of pictures."""

    wire: Wire
    model: str
    prompt: str
    body: dict[str, Any]
    seed: object
    size: tuple[int, int] | None
    format: ImageFormat | None
    as_url: bool
    number: int


def read_call(request: Request) -> Asked | None:
    """What a POST asks for; None where its body is no JSON object with a prompt as text."""
    openai = request.path.endswith("/images/generations")
    try:
        body = json.loads(request.body)
    except ValueError:
        return None
    prompt = body.get("prompt" if openai else "inputs") if isinstance(body, dict) else None
    if not isinstance(prompt, str):
        return None
    parameters = body if openai else body.get("parameters") or {}
    format = next((name for name in FORMATS if name == parameters.get("output_format")), None)
    return Asked(
        wire="openai" if openai else "huggingface",
        model=str(body.get("model", "")) if openai else request.path.rpartition("/models/")[2].strip("/"),
        prompt=prompt,
        body=body,
        seed=parameters.get("seed"),
        size=_size(parameters),
        format=format,
        as_url=body.get("response_format") == "url",
        number=int(body.get("n") or 1) if openai else 1,
    )


def _size(parameters: dict[str, Any]) -> tuple[int, int] | None:
    if match := _SIZE.fullmatch(str(parameters.get("size"))):
        return int(match[1]), int(match[2])
    width, height = parameters.get("width"), parameters.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def paint(asked: Asked, maker: PictureMaker, format: ImageFormat, number: int, fault: Fault | None) -> list[Picture]:
    """The pictures of a call, which is the `number`-th with its model, prompt and seed."""
    format = asked.format or format
    name = fault.name if fault else ""
    if name in ("blank_image", "filtered"):
        return [maker.blank(format, asked.size)] * asked.number
    if name == "same_image":
        return [maker.make(format, asked.size, ("same",))] * asked.number
    width, height = asked.size or maker.size
    size = (max(width // 2, 1), max(height // 2, 1)) if name == "wrong_size" else asked.size
    identity = (asked.model, asked.prompt, asked.seed, number)
    return [maker.make(format, size, (*identity, index)) for index in range(asked.number)]


def picture_answer(asked: Asked, pictures: Sequence[Picture], urls: Sequence[str]) -> Answer:
    """The answer of a call that went well; with URLs in place of pictures where there are any."""
    if asked.wire == "huggingface":
        return file_answer(pictures[0])
    if urls:
        return _openai(asked, [{"url": url} for url in urls])
    opening = b'{"created": %d, "usage": %s, "data": [' % (time.time(), json.dumps(_usage(asked)).encode())
    pieces = [opening]
    for index, picture in enumerate(pictures):
        pieces += [b', {"b64_json": "' if index else b'{"b64_json": "', *picture.base64, b'"}']
    return Answer(body=[*pieces, b"]}"])


def file_answer(picture: Picture) -> Answer:
    """A picture as raw bytes."""
    return Answer(body=[picture.head, picture.tail], content_type=f"image/{picture.format}")


def spoiled_answer(asked: Asked, fault: Fault, picture: Picture) -> Answer | None:
    """The answer 200 without a whole picture that the fault stands for; None where it leaves the picture whole."""
    if fault.name == "html_page":
        return Answer(body=[_HTML], content_type="text/html; charset=utf-8")
    if fault.name == "filtered":
        return _filtered(asked, fault, picture)
    if fault.name == "empty_data":
        return _openai(asked, []) if asked.wire == "openai" else Answer(content_type=f"image/{picture.format}")
    if fault.name == "bad_base64" and asked.wire == "openai":
        return _openai(asked, [{"b64_json": "%% this is not base64 %%"}])
    content = {
        "truncated_image": (picture.data[: len(picture.data) * 2 // 3], f"image/{picture.format}"),
        "bad_base64": (_NO_IMAGE, f"image/{picture.format}"),
        "svg": (_SVG, "image/svg+xml"),
    }.get(fault.name)
    if content is None:
        return None
    if asked.wire == "openai":
        return _openai(asked, [{"b64_json": base64.b64encode(content[0]).decode()}])
    return Answer(body=[content[0]], content_type=content[1])


def _filtered(asked: Asked, fault: Fault, black: Picture) -> Answer:
    if asked.wire == "huggingface":
        return json_answer({"has_nsfw_concepts": [True], "images": []})
    item: dict[str, Any] = {"b64_json": b"".join(black.base64).decode()}
    if fault.flavour == "azure":
        item["content_filter_results"] = {"violence": {"filtered": True, "severity": "high"}}
    elif fault.flavour == "finish_reason":
        item["finish_reason"] = "CONTENT_FILTERED"
    more = {"has_nsfw_concepts": [True]} if fault.flavour == "nsfw" else {}
    return _openai(asked, [item], **more)


def _openai(asked: Asked, data: list[dict[str, Any]], **more: Any) -> Answer:
    return json_answer({"created": int(time.time()), "usage": _usage(asked), "data": data, **more})


def _usage(asked: Asked) -> dict[str, Any]:
    text = max(len(asked.prompt) // 4, 1)
    return {
        "input_tokens": text,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        "output_tokens": 272 * asked.number,
        "total_tokens": text + 272 * asked.number,
    }
