"""The store on an object store beside the store in a folder: throughput, requests, and reading for the dataset.

    python benchmarks/object_store.py            # 400 images of 100 KB, 0.2 s a call, 8 at a time; five runs of each
    python benchmarks/object_store.py --short    # 120 images, three runs
    python benchmarks/object_store.py --json figures.json

Model server and object store (moto's server) are processes of their own on this machine. "Far" is the same store with
30 ms added to each answer, as a store in a data centre has. Runs of the two stores take turns; each figure is the
median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import SecretStr

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imagetask import GenerationStore, ManagedModel, OpenAIImageGeneration  # noqa: E402
from imagetask.images import Image  # noqa: E402
from tests.model_server import start_model_server  # noqa: E402
from tests.s3_server import S3Server, start_s3_server  # noqa: E402

GOAL = 0.9
AT_ONCE, LATENCY = 8, 0.2
READERS = (4, 16, 32)
FAR = 0.03


def generated(url: str, store: GenerationStore, images: int, at_once: int) -> tuple[float, list[str]]:
    """Seconds that it took to have so many images made and kept; and their paths in the store."""
    model = OpenAIImageGeneration(model="bench", base_url=url, api_key=SecretStr("none"))
    with ManagedModel(model, store=store, max_concurrency=at_once) as managed:
        started = time.perf_counter()
        made = managed.generate_outputs([f"prompt number {number}" for number in range(images)])
        seconds = time.perf_counter() - started
    found = [one.image for row in made for one in row]
    paths = [image.path for image in found if isinstance(image, Image) and image.path is not None]
    assert len(paths) == images, [one.error_message for row in made for one in row if one.error_message]
    return seconds, paths


def ratio_of_throughput(
    name: str, runs: int, images: int, at_once: int, open_stores: Sequence[Callable[[str], str]]
) -> float:
    """Of the second store's throughput to the first one's."""
    ratios = []
    with start_model_server(latency=LATENCY, image_kib=100, format="jpeg") as server:
        for number in range(runs):
            taken = {}
            for place in open_stores if number % 2 else reversed(open_stores):
                store = GenerationStore(place(f"{name} {number}"))
                taken[place], _ = generated(server.openai_url, store, images, at_once)
            folder, remote = (taken[place] for place in open_stores)
            print(f"  {name}, run {number + 1}: folder {folder:.2f} s, object store {remote:.2f} s")
            ratios.append(folder / remote)
    return statistics.median(ratios)


def requests_per_generation(s3: S3Server, images: int) -> tuple[float, float]:
    """Of a new one, and of one that is reused; without the two with which a run tries the store."""
    store = GenerationStore(s3.store_url("counted"))
    with start_model_server(image_kib=100, format="jpeg") as server:
        counts = []
        for _ in range(2):
            s3.requests()
            generated(server.openai_url, store, images, AT_ONCE)
            counts.append((s3.requests().total() - 2) / images)
    return counts[0], counts[1]


def read_at_once(store: GenerationStore, paths: Sequence[str], readers: int) -> float:
    """Seconds that so many readers need for all images."""
    with ThreadPoolExecutor(readers) as pool:
        started = time.perf_counter()
        for _ in pool.map(store.read, paths):
            pass
        return time.perf_counter() - started


def reading(s3: S3Server, runs: int, images: int) -> dict[str, float]:
    """How many times as fast more readers are than the first number of them."""
    store = GenerationStore(s3.store_url("read"))
    with start_model_server(image_kib=100, format="jpeg") as server:
        _, paths = generated(server.openai_url, store, images, 32)
    seconds: dict[int, list[float]] = {readers: [] for readers in READERS}
    for _ in range(runs):
        for readers, taken in seconds.items():
            taken.append(read_at_once(store, paths, readers))
    for readers, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"  {readers} readers: {images} images in {middle:.2f} s, {images / middle:.0f} requests a second")
    few = seconds[READERS[0]]
    return {
        f"object store: reading with {readers} readers beside {READERS[0]}": statistics.median(
            before / after for before, after in zip(few, seconds[readers], strict=True)
        )
        for readers in READERS[1:]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="fewer images, three runs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    runs, images = (3, 120) if options.short else (options.runs, 400)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, start_s3_server() as s3:
        os.environ.update(s3.environment)
        stores = (lambda name: str(Path(folder) / name), s3.store_url)
        for place, delay, at_once in (("near", 0.0, AT_ONCE), ("far", FAR, AT_ONCE), ("far", FAR, 50)):
            s3.delay(delay)
            name = f"{place}, {at_once} in flight"
            figure = ratio_of_throughput(name, runs, images if at_once == AT_ONCE else 2 * images, at_once, stores)
            figures[f"object store: throughput beside a folder, {name}"] = figure
        new, reused = requests_per_generation(s3, images)
        figures |= {"object store: requests of a new generation": new}
        figures |= {"object store: requests of a reused generation": reused}
        figures |= reading(s3, runs, 5 * images)
    for name, figure in figures.items():
        goal = f"   (goal {GOAL})" if name.endswith(f" {AT_ONCE} in flight") else ""
        print(f"{name:62} {figure:6.3f}{goal}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
