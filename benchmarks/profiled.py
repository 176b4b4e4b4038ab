"""Where the CPU of a whole run goes, sampled by py-spy: each sample belongs to the innermost room that is known.

    python benchmarks/profiled.py             # both backends, JPEGs and PNGs: two minutes
    python benchmarks/profiled.py --backend openai --image jpeg --stacks DIR   # and the stacks, for a flame graph

A run of the flow, 50 calls at once of 0.2 s each; the process of the embedded server is left out. Samples are taken 250
times a second of each thread that does not wait; what a C function takes counts to the Python function that called it.
The CPU that the process took, by its own clock, is divided as the samples are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.model_server import start_model_server  # noqa: E402

RATE = 250
"""Samples a second."""
IMAGES = {"jpeg": 3000, "png": 500}
KIB = {"jpeg": 100, "png": 1500}
ROOMS = {
    "decoding and checking": ("PIL/", "check_image", "imagetask/images.py"),
    "store: hash, files": ("imagetask/store.py", "imagetask/folder_objects.py", "imagetask/stored_records.py"),
    "answer: JSON, base64": ("imagetask/models/bodies.py", "imagetask/models/answers.py", "json/", "base64.py"),
    "ledger and budget": ("imagetask/models/ledger.py", "imagetask/models/budget.py"),
    "client and HTTP": ("httpx2/", "httpcore2/", "h11/", "openai/", "huggingface_hub/", "anyio/"),
    "connections": (
        "imagetask/models/network.py",
        "imagetask/models/connections.py",
        "imagetask/models/watched_call.py",
    ),
    "keys, pace, retries, tally": ("imagetask/models/",),
    "imports": ("importlib", "<frozen"),
    "event loop itself": ("asyncio/", "selectors.py"),
    "tables and shards": ("polars/", "pyarrow/", "imagetask/"),
    "Prefect and the flow": ("prefect/", "imagetask_flows/", "sqlalchemy/", "pydantic/"),
}
"""Room → what stands in the frames that belong to it; the first that fits."""
WAITING = ("_worker (concurrent/futures", "Condition.wait ", "EpollSelector.select ", "heartbeat_loop ")
"""Innermost frames of threads that wait, which py-spy takes for busy where it cannot tell."""


def profiled(backend: str, kind: str, folder: Path) -> tuple[float, Path]:
    """A run under py-spy: its CPU milliseconds an image, and the file of its stacks with how often each was seen."""
    found = folder / f"{backend}-{kind}.txt"
    spy = [
        Path(sysconfig.get_path("scripts")) / "py-spy",
        "record",
        "--format",
        "raw",
        "--rate",
        RATE,
        "--output",
        found,
    ]
    with start_model_server(latency=0.2, image_kib=KIB[kind], format=kind) as server:
        url = server.openai_url if backend == "openai" else server.model_url("bench")
        run = [sys.executable, "-m", "benchmarks.pipeline", backend, url, folder / f"{backend}-{kind}"]
        command = [*spy, "--", *run, "--images", IMAGES[kind], "--at-once", 50]
        done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not found.is_file():
        raise SystemExit(f"py-spy failed:\n{done.stderr}")
    figures = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return 1000 * figures["cpu_per_image"], found


def room_of(stack: list[str]) -> str:
    """stack: frames, the innermost last."""
    for frame in reversed(stack):
        for room, signs in ROOMS.items():
            if any(sign in frame for sign in signs):
                return room
    return "other"


def shares(path: Path) -> list[tuple[str, float]]:
    """Room → its share of the samples, the largest first."""
    found: Counter[str] = Counter()
    for line in path.read_text().splitlines():
        text, _, count = line.rpartition(" ")
        stack = text.split(";")
        if not any(sign in f"{stack[-1]} " for sign in WAITING):
            found[room_of(stack)] += int(count)
    return [(room, count / found.total()) for room, count in found.most_common()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="+", choices=["openai", "inference-endpoints"])
    parser.add_argument("--image", nargs="+", choices=list(KIB))
    parser.add_argument("--stacks", type=Path, help="folder in which the stacks are left")
    options = parser.parse_args()
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.stacks or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for backend in options.backend or ["openai", "inference-endpoints"]:
            for kind in options.image or KIB:
                milliseconds, found = profiled(backend, kind, folder)
                print(f"{backend}, {kind}: {milliseconds:.2f} ms an image")
                for room, share in shares(found):
                    print(f"    {room:32} {share * milliseconds:6.2f} ms")


if __name__ == "__main__":
    main()
