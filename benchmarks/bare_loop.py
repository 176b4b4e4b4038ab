"""What the pipeline is measured against: a bare asyncio loop over the same client library.

It decodes each image to check it and writes it to a file; it remembers nothing, retries nothing, accounts for nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2
import huggingface_hub
import openai
from PIL import Image

Fetch = Callable[[str], Awaitable[Callable[[], bytes]]]
"""Prompt → what gives the bytes of its image; the latter runs in a thread."""


def limits(at_once: int) -> httpx2.Limits:
    return httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once)


def over_openai(url: str, at_once: int) -> Fetch:
    transport = httpx2.AsyncClient(limits=limits(at_once), timeout=60)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=transport)

    async def fetch(prompt: str) -> Callable[[], bytes]:
        answer = await client.images.generate(model="bench", prompt=prompt)
        assert answer.data is not None
        text = answer.data[0].b64_json
        assert text is not None
        return lambda: base64.b64decode(text)

    return fetch


def over_hugging_face(url: str, at_once: int) -> Fetch:
    huggingface_hub.set_async_client_factory(lambda: httpx2.AsyncClient(limits=limits(at_once), timeout=None))
    client = huggingface_hub.AsyncInferenceClient(model=url, timeout=60)

    async def fetch(prompt: str) -> Callable[[], bytes]:
        picture = await client.text_to_image(prompt)
        file = picture.fp  # type: ignore[attr-defined]  # the client's picture is lazy: this is what came
        data: bytes = file.getvalue()
        return lambda: data

    return fetch


BACKENDS: dict[str, Callable[[str, int], Fetch]] = {"openai": over_openai, "inference-endpoints": over_hugging_face}


def check_and_write(bytes_of: Callable[[], bytes], path: Path) -> None:
    """Decodes the image to the end, and writes the provider's bytes."""
    data = bytes_of()
    Image.open(io.BytesIO(data)).load()
    path.write_bytes(data)


async def generate(fetch: Fetch, images: int, at_once: int, folder: Path) -> float:
    """Seconds that it took to have so many images generated, checked and written."""
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with places:
            bytes_of = await fetch(f"prompt number {number}")
        await asyncio.to_thread(check_and_write, bytes_of, folder / f"{number:06d}.img")

    started = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(images)))
    return time.perf_counter() - started


async def generate_with_new_client(backend: str, url: str, images: int, at_once: int, folder: Path) -> float:
    """As `generate`, once the client is made: that is in no figure."""
    return await generate(BACKENDS[backend](url, at_once), images, at_once, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    before = time.process_time()
    common = (options.url, options.images, options.at_once, options.folder)
    seconds = asyncio.run(generate_with_new_client(options.backend, *common))
    cpu = (time.process_time() - before) / options.images
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu_per_image": cpu, "peak_mib": peak}))


if __name__ == "__main__":
    main()
