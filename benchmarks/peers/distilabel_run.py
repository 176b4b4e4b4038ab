"""One run of distilabel 1.5.3, by the Python of its own environment.

Prints, as JSON on its last line, when the images were there and when all was done (seconds since the epoch), the
seconds of `transform_columns_to_image`, and the SHA-256 of every image in the dataset.

As published, a pipeline with an `ImageGeneration` ends before its first call (AttributeError: the image models lack
`use_offline_batch_generation`, which every task reads), so that attribute is set here, to what it is by default for its
other models. Nothing else is changed. Images come as base64 in the answer: as URLs, the default, they would be fetched
one by one.

A batch is as large as calls may be in flight: distilabel has all calls of a batch under way at once, and starts the
next batch when the last call of this one is answered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from datasets import Image
from distilabel.models.image_generation import OpenAIImageGeneration
from distilabel.models.image_generation.base import AsyncImageGenerationModel
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import ImageGeneration

AsyncImageGenerationModel.use_offline_batch_generation = False


def pipeline(url: str, folder: Path, images: int, at_once: int) -> Any:
    """Prompts → images as base64, remembered in `folder` as far as distilabel does it."""
    model = OpenAIImageGeneration(
        model="bench", base_url=url, api_key="none", generation_kwargs={"response_format": "b64_json"}
    )
    with Pipeline("beside-imagetask", cache_dir=folder / "cache") as made:
        prompts = [{"prompt": f"prompt number {number}"} for number in range(images)]
        load = LoadDataFromDicts(name="prompts", data=prompts, batch_size=at_once)
        task = ImageGeneration(name="images", image_generation_model=model, input_batch_size=at_once)
        load >> task
    return made


def run(url: str, folder: Path, images: int, at_once: int) -> dict[str, Any]:
    """Runs the pipeline; gives what this script prints."""
    distiset = pipeline(url, folder, images, at_once).run(use_cache=True)
    generated = time.time()
    started = time.perf_counter()
    distiset = distiset.transform_columns_to_image("image")
    seconds, ended = time.perf_counter() - started, time.time()
    rows = distiset["default"]["train"].select_columns("image").cast_column("image", Image(decode=False))
    digests = [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows]
    return {"generated": generated, "transform_seconds": seconds, "ended": ended, "sha256": digests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run(options.url, options.folder, options.images, options.at_once)))


if __name__ == "__main__":
    main()
