"""One run of imagetask, as the peers' runs are.

Prints, as JSON on its last line, when the images were there and when all was done (seconds since the epoch), the
seconds of the step that makes image columns, and the SHA-256 of every image in the dataset.

A second run into the same folder goes on where the first one ended. The step is timed by itself after the run, with the
shards that the run made deleted: from the store's files to Parquet shards and their card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from imagetask_flows import monitoring
from imagetask_flows.embedded_server import start_server

from imagetask.dataset import ImageDataset
from imagetask.layout import Layout
from imagetask.plan import read_plan


def transform_seconds(out: Path) -> float:
    """Seconds of the dataset step of a finished run, which is made to write every shard again."""
    from imagetask_flows.generate_images import transform_columns_to_image

    layout = Layout(out)
    plan = read_plan(layout)
    assert plan is not None
    for file in (layout.shards, *layout.data.iterdir()):
        file.unlink()
    started = time.perf_counter()
    transform_columns_to_image.fn(str(out), [asdict(chunk) for chunk in plan.chunks])
    return time.perf_counter() - started


def digests(out: Path) -> list[str]:
    """SHA-256 of every image of the dataset."""
    found = []
    for batch in ImageDataset(out).scan().select("image").collect_batches(chunk_size=100):
        found += [hashlib.sha256(cell["bytes"]).hexdigest() for cell in batch["image"].to_list()]
    return found


def generate(url: str, folder: Path, images: int, at_once: int) -> dict[str, Any]:
    """Runs the flow; gives what this script prints."""
    source, out = folder / "prompts.csv", folder / "dataset"
    source.write_text("prompt\n" + "".join(f"prompt number {n}\n" for n in range(images)))
    wait_for_server = start_server(lambda text: print(text, file=sys.stderr))
    from imagetask_flows.generate_images import generate_images

    wait_for_server()
    counts = generate_images(str(source), str(out), model="openai:bench", base_url=url, max_concurrency=at_once)
    assert counts["done"] == images, counts
    progress = monitoring.current()
    assert progress is not None
    assert progress.chunk_seconds is not None
    generated = time.time() - (time.monotonic() - progress.started - progress.chunk_seconds)
    seconds, ended = transform_seconds(out), time.time()
    return {"generated": generated, "transform_seconds": seconds, "ended": ended, "sha256": digests(out)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(generate(options.url, options.folder, options.images, options.at_once)))


if __name__ == "__main__":
    main()
