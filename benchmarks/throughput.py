"""Throughput and memory of the pipeline beside a bare asyncio loop, on one server, in one run.

    python benchmarks/throughput.py            # 3,000 images, 0.2 s a call, 50 at a time; 1,000 PNGs of 1.5 MB
    python benchmarks/throughput.py --short    # a tenth of it

Each figure is the median of `--runs` interleaved runs (default 5); all processes run on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.model_server import start_model_server  # noqa: E402

BAR, GOAL, MEMORY_MIB, LARGE_MEMORY_MIB = 0.85, 0.95, 350, 500


def measured(script: str, *arguments: object) -> dict[str, Any]:
    """What a benchmark script prints, run in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def throughput(runs: int, images: int, folder: Path) -> None:
    """The chunk phase beside the bare loop: 0.2 s a call, 50 at a time, JPEGs of 100 KB."""
    loops, pipelines = [], []
    common = ("--images", images, "--at-once", 50)
    for number in range(runs):
        with start_model_server(latency=0.2, image_kib=100, format="jpeg") as server:
            loops.append(measured("bare_loop", server.openai_url, folder / f"loop{number}", *common))
        with start_model_server(latency=0.2, image_kib=100, format="jpeg") as server:
            pipelines.append(measured("pipeline", server.openai_url, folder / f"pipeline{number}", *common))
        print(f"run {number + 1}: loop {loops[-1]['seconds']:.2f} s, chunk phase {pipelines[-1]['seconds']:.2f} s")
    ratios = [loop["seconds"] / pipeline["seconds"] for loop, pipeline in zip(loops, pipelines, strict=True)]
    ideal = images * 0.2 / 50
    print(f"ideal                          {ideal:8.2f} s")
    print(f"bare loop                      {statistics.median(r['seconds'] for r in loops):8.2f} s")
    print(f"chunk phase                    {statistics.median(r['seconds'] for r in pipelines):8.2f} s")
    print(f"throughput beside the loop     {statistics.median(ratios):8.3f}   (bar {BAR}, goal {GOAL})")
    print(f"peak memory                    {max(r['peak_mib'] for r in pipelines):8.0f} MiB (bar {MEMORY_MIB})")


def large(images: int, folder: Path) -> None:
    """Memory with large images in one chunk: PNGs of 1.5 MB."""
    with start_model_server(latency=0.2, image_kib=1500, format="png") as server:
        figures = measured(
            "pipeline", server.openai_url, folder, "--images", images, "--at-once", 50, "--chunk-rows", images
        )
    print(
        f"{images} PNGs of 1.5 MB, one chunk: {figures['peak_mib']:.0f} MiB (bar {LARGE_MEMORY_MIB}), "
        f"{figures['seconds']:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="a tenth of the images, one run")
    options = parser.parse_args()
    share = 10 if options.short else 1
    with tempfile.TemporaryDirectory() as folder:
        throughput(1 if options.short else options.runs, 3000 // share, Path(folder))
        large(1000 // share, Path(folder) / "large")


if __name__ == "__main__":
    main()
