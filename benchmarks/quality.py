"""Scoring a dataset's pictures: how many a second, at which peak memory; and the groups of a million hashes, and of
many that are nearly equal.

    python benchmarks/quality.py            # 4,000 JPEGs of 512 × 512 px and 100 KB; a million hashes, 50,000 like ones
    python benchmarks/quality.py --short    # 400 JPEGs, 100,000 and 5,000 hashes

No two JPEGs are the same. Each figure is of a process of its own, without Prefect; what it reads was just written, so
that the cache is warm. The bar is that of the peak: a row group of pictures, whatever their number. Times are told
alone, since other work on the machine changes them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.image_columns import make_large, step  # noqa: E402
from benchmarks.own_process import in_its_own_process  # noqa: E402
from imagetask.layout import Layout  # noqa: E402
from imagetask.quality import scored  # noqa: E402
from imagetask.quality.groups import Words, first_alike  # noqa: E402

MEMORY_BAR = 400


def make(folder: Path, images: int) -> dict[str, float]:
    make_large(folder, images)
    return step(folder)


def score(folder: Path) -> dict[str, float]:
    """Seconds of CPU and of the clock of scoring a dataset, and this process's peak memory (MB)."""
    started, cpu = time.perf_counter(), time.process_time()
    scored(Layout(folder))
    return _spent(started, cpu)


def group(count: int) -> dict[str, float]:
    """The same of finding the groups of so many pictures, of random hashes and colours."""
    random = np.random.default_rng(0)
    return _grouped(random.integers(0, 2**64, (count, 2, 4), np.uint64), random)


def crowd(count: int) -> dict[str, float]:
    """The same of so many pictures that only their colours tell apart: 12 of 256 bits from one hash."""
    random = np.random.default_rng(0)
    bits = np.zeros((count, 256), np.uint8)
    np.put_along_axis(bits, random.integers(0, 256, (count, 12)), 1, axis=1)
    return _grouped(np.packbits(bits, axis=1).view(np.uint64)[:, None].repeat(2, axis=1), random)


def _grouped(hashes: Words, random: np.random.Generator) -> dict[str, float]:
    colours = random.integers(0, 256, (len(hashes), 2, 48), np.uint8)
    started, cpu = time.perf_counter(), time.process_time()
    if (first_alike(hashes, colours) != np.arange(len(hashes))).any():
        raise SystemExit("pictures of random colours were found alike")
    return _spent(started, cpu)


def _spent(started: float, cpu: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "peak_mb": peak}


def measure(images: int, hashes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "dataset"
        in_its_own_process(__file__, "--make", folder, images)
        first = in_its_own_process(__file__, "--score", folder)
        again = in_its_own_process(__file__, "--score", folder)
    grouped = in_its_own_process(__file__, "--group", hashes)
    crowded = in_its_own_process(__file__, "--crowd", hashes // 20)
    return {
        "scored, pictures/s": images / first["seconds"],
        "scored, ms of CPU a picture": first["cpu"] / images * 1000,
        "scored, peak MB": first["peak_mb"],
        "scored again, s": again["seconds"],
        f"groups of {hashes:,} hashes, s": grouped["seconds"],
        f"groups of {hashes:,} hashes, peak MB": grouped["peak_mb"],
        f"groups of {hashes // 20:,} like hashes, s": crowded["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the pictures and of the hashes")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--crowd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if alone := _own_process(options):
        print(json.dumps(alone))
        return
    figures = measure(400, 100_000) if options.short else measure(4_000, 1_000_000)
    for name, value in figures.items():
        print(f"{name:40}{value:10.2f}")
    print(f"{'cores':40}{os.cpu_count() or 1:10d}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if figures["scored, peak MB"] > MEMORY_BAR:
        sys.exit("a bar was not reached")


def _own_process(options: argparse.Namespace) -> dict[str, float] | None:
    """What a process was started for; None for the one that starts them."""
    if options.make:
        return make(Path(options.make[0]), int(options.make[1]))
    if options.score:
        return score(options.score)
    if options.group:
        return group(options.group)
    return crowd(options.crowd) if options.crowd else None


if __name__ == "__main__":
    main()
