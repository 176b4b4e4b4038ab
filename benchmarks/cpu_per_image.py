"""Where each millisecond of CPU goes that an image costs the pipeline's process.

    python benchmarks/cpu_per_image.py            # both backends, JPEGs of 100 KB and PNGs of 1.5 MB; minutes
    python benchmarks/cpu_per_image.py --short    # a fifth of the images, one run

First the calls of a `ManagedModel` with a store and a ledger, without tables and Prefect, beside a bare loop (see
throughput.py), by turns: each figure is the median of `--runs` pairs (default 3). Both have made their client and one
call before. The total is that of the process, threads of obstore among them; what the event loop's thread took of it
and those that check and write is told too. Then single steps alone, the best of many, in one thread. CPU seconds are
told, so that a busy machine tells much the same.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import bare_loop  # noqa: E402
from imagetask.images import Image, check_image  # noqa: E402
from imagetask.models import ImageRequest, load_model  # noqa: E402
from imagetask.models.budget import Budget  # noqa: E402
from imagetask.models.identity import Identity  # noqa: E402
from imagetask.models.managed import ManagedModel  # noqa: E402
from imagetask.models.openai import read_answer  # noqa: E402
from imagetask.store import GenerationStore  # noqa: E402
from tests.model_server import start_model_server  # noqa: E402
from tests.model_server.pictures import PictureMaker  # noqa: E402

AT_ONCE, LATENCY = 50, 0.2
IMAGES = {"jpeg": 1500, "png": 250}
KIB = {"jpeg": 100, "png": 1500}
SIDE = {"jpeg": 512, "png": 1024}
_TICKS = 100
"""Of the kernel's clock, a second."""


def thread_seconds() -> dict[str, float]:
    """CPU seconds so far of the threads of the calls, by the beginnings of their names; and "all" of the process."""
    seconds: defaultdict[str, float] = defaultdict(float, {"all": time.process_time()})
    for thread in threading.enumerate():
        group = {"imagetask-calls": "event loop", "imagetask-image": "check and store"}.get(thread.name[:15])
        if group is not None:
            fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(") ")[2].split()
            seconds[group] += (int(fields[11]) + int(fields[12])) / _TICKS
    return seconds


def pipeline(backend: str, url: str, images: int, folder: Path) -> Mapping[str, float]:
    """CPU milliseconds an image, by threads, and of "all" of them."""
    model = load_model("openai:bench", base_url=url) if backend == "openai" else load_model(backend, base_url=url)
    folder.mkdir()
    store = GenerationStore(folder / "store")
    managed = ManagedModel(model, store=store, max_concurrency=AT_ONCE, budget=Budget(ledger=folder / "spent.txt"))
    with managed:
        managed.generate_outputs(["the first one, which loads what is loaded late"])
        before = thread_seconds()
        done = managed.generate_outputs([f"prompt number {number}" for number in range(images)])
        after = thread_seconds()
    assert all(row[0].status == "done" for row in done)
    return {group: 1000 * (after[group] - before[group]) / images for group in after}


def loop(backend: str, url: str, images: int, folder: Path) -> float:
    """CPU milliseconds an image of the bare loop, after a first one, as `pipeline` has it."""

    async def seconds() -> float:
        fetch = bare_loop.BACKENDS[backend](url, AT_ONCE)
        await bare_loop.generate(fetch, 1, AT_ONCE, folder)
        before = time.process_time()
        await bare_loop.generate(fetch, images, AT_ONCE, folder)
        return time.process_time() - before

    folder.mkdir()
    return 1000 * asyncio.run(seconds()) / images


def alone(work: Callable[[], Any], times: int = 30) -> float:
    """CPU milliseconds of a step in this thread, the best of many."""
    best = float("inf")
    for _ in range(times):
        before = time.thread_time()
        work()
        best = min(best, time.thread_time() - before)
    return 1000 * best


def steps(kind: str, folder: Path) -> Mapping[str, float]:
    """CPU milliseconds of each step of the pipeline's own, and of the loop's decoding."""
    data = PictureMaker((SIDE[kind], SIDE[kind]), KIB[kind]).make(kind, None, (1,)).data  # type: ignore[arg-type]
    body = json.dumps({"data": [{"b64_json": base64.b64encode(data).decode()}]}).encode()
    store, budget = GenerationStore(folder / "alone"), Budget(ledger=folder / "ledger.txt")
    identity = Identity.of(load_model("openai:bench", base_url="http://127.0.0.1:1"), 0)
    keys = (f"{number:032x}" for number in range(10**6))
    runner = asyncio.Runner()

    def reserved() -> None:
        budget.settle(runner.run(budget.reserve(None)), None)

    request = ImageRequest("prompt number 1")
    found = {
        "key and seed": alone(lambda: identity.ask(request, identity.describe(request), 0, 0)),
        "look into the store": alone(lambda: store.get("f" * 32)),
        "budget and ledger": alone(reserved),
        "JSON, base64, header of an answer (openai)": alone(lambda: read_answer(body)),
        "check: every byte decoded": alone(lambda: check_image(Image.from_bytes(data))),
        "SHA-256, image and record into the store": alone(lambda: store.put(next(keys), {}, Image.from_bytes(data))),
        "(the loop's own decoding)": alone(lambda: PILImage.open(io.BytesIO(data)).load()),
    }
    runner.close()
    return found


def in_turn(backend: str, url: str, images: int, run: int, folder: Path) -> tuple[Mapping[str, float], float]:
    """Pipeline and loop, once the one first and once the other."""
    if run % 2:
        bare = loop(backend, url, images, folder / "loop")
        return pipeline(backend, url, images, folder / "pipeline"), bare
    return pipeline(backend, url, images, folder / "pipeline"), loop(backend, url, images, folder / "loop")


def measure(backend: str, kind: str, images: int, runs: int) -> float:
    """Prints the medians of both; gives that of pipeline over loop."""
    pairs = []
    with start_model_server(latency=LATENCY, image_kib=KIB[kind], format=kind) as server:
        url = server.openai_url if backend == "openai" else server.model_url("bench")
        for run in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                pairs.append(in_turn(backend, url, images, run, Path(folder)))
    ours = {group: statistics.median(one[group] for one, _ in pairs) for group in pairs[0][0]}
    words = ", ".join(f"{group} {value:.2f}" for group, value in ours.items() if group != "all")
    bare, ratio = (statistics.median(bare for _, bare in pairs), statistics.median(one["all"] / b for one, b in pairs))
    print(f"{backend:20} {kind:4}  {ours['all']:6.2f} ms ({words}); bare loop {bare:.2f} ms: {ratio:.2f}", flush=True)
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs, of which the median is taken")
    parser.add_argument("--short", action="store_true", help="a fifth of the images, one run")
    parser.add_argument("--json", type=Path, help="file that the ratios are written to")
    options = parser.parse_args()
    share, runs = (5, 1) if options.short else (1, options.runs)
    figures = {}
    for backend in bare_loop.BACKENDS:
        for kind, images in IMAGES.items():
            figures[f"CPU over the loop's, {backend} {kind}"] = measure(backend, kind, images // share, runs)
    for kind in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            for name, milliseconds in steps(kind, Path(folder)).items():
                print(f"{kind:4}  {name:44} {milliseconds:7.3f} ms")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
