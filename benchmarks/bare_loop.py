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
from pathlib import Path

import httpx2
import openai
from PIL import Image


def check_and_write(data: bytes, path: Path) -> None:
    """Decodes the image to the end, and writes the provider's bytes."""
    Image.open(io.BytesIO(data)).load()
    path.write_bytes(data)


async def generate(url: str, images: int, at_once: int, folder: Path) -> float:
    """Seconds that it took to have so many images generated, checked and written."""
    places = asyncio.Semaphore(at_once)
    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    transport = httpx2.AsyncClient(limits=limits, timeout=60)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=transport)

    async def one(number: int) -> None:
        async with places:
            answer = await client.images.generate(model="bench", prompt=f"prompt number {number}")
        assert answer.data is not None
        text = answer.data[0].b64_json
        assert text is not None
        await asyncio.to_thread(check_and_write, base64.b64decode(text), folder / f"{number:06d}.img")

    started = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(images)))
    seconds = time.perf_counter() - started
    await client.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    seconds = asyncio.run(generate(options.url, options.images, options.at_once, options.folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main()
