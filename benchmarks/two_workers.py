"""Throughput of a run on two Dask workers beside that of one, on one model server, in one run.

    python benchmarks/two_workers.py            # 4 s a call, 16 at once for each worker, 192 images of 100 KB a worker
    python benchmarks/two_workers.py --short    # 96 images a worker, one pair of runs

Scheduler and workers are processes of this machine. The limit is that of a worker: `--max-concurrency` is 16 with one
and 32 with two, so that the figure tells what handing chunks to workers costs, not what the model server admits. The
load is latency-bound, with the seconds that image models take. Each figure is the median of `--runs` interleaved pairs
(default 3).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("OPENAI_API_KEY", "bench")

from imagetask_flows import monitoring  # noqa: E402
from imagetask_flows.embedded_server import start_server  # noqa: E402

from tests.dask_cluster import DaskCluster, dask_cluster  # noqa: E402
from tests.model_server import start_model_server  # noqa: E402

BAR, LATENCY, PLACES, CHUNK_ROWS = 1.8, 4.0, 16, 16


def images_a_second(cluster: DaskCluster, folder: Path, images: int, workers: int) -> float:
    """Of the chunk phase, from its start to its last image."""
    from imagetask_flows.generate_images import generate_images

    folder.mkdir()
    source = folder / "prompts.csv"
    source.write_text("prompt\n" + "".join(f"{folder.name} prompt number {n}\n" for n in range(images)))
    with start_model_server(latency=LATENCY, image_kib=100, format="jpeg") as server:
        counts = generate_images(
            str(source),
            str(folder / "dataset"),
            model="openai:bench",
            base_url=server.openai_url,
            max_concurrency=PLACES * workers,
            chunk_rows=CHUNK_ROWS,
            runner="dask",
            dask_address=cluster.address,
        )
        seen = server.counts()
    assert counts["done"] == seen.calls == images, (counts, seen)
    assert seen.max_in_flight <= PLACES * workers, seen
    progress = monitoring.current()
    assert progress is not None
    assert progress.chunk_seconds is not None
    seconds: float = progress.chunk_seconds
    return images / seconds


def warm(cluster: DaskCluster, folder: Path, workers: int) -> None:
    """A small run: a worker imports what it needs at its first chunk."""
    images_a_second(cluster, folder, 2 * CHUNK_ROWS * workers, workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="96 images a worker, one pair of runs")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    images, runs = (96, 1) if options.short else (192, options.runs)
    wait_for_server = start_server(print)
    wait_for_server()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with dask_cluster(folder / "one", 1) as one, dask_cluster(folder / "two", 2) as two:
            warm(one, folder / "warm-one", 1)
            warm(two, folder / "warm-two", 2)
            for number in range(runs):
                alone = images_a_second(one, folder / f"alone-{number}", images, 1)
                both = images_a_second(two, folder / f"both-{number}", 2 * images, 2)
                ratios.append(both / alone)
                print(f"pair {number + 1}: one worker {alone:.1f} images/s, two {both:.1f}: {ratios[-1]:.2f}")
    ratio = statistics.median(ratios)
    print(f"two workers beside one   {ratio:6.2f}   (bar {BAR})   {'OK' if ratio >= BAR else 'short'}")
    if options.json is not None:
        options.json.write_text(json.dumps({"two_workers": round(ratio, 3)}))


if __name__ == "__main__":
    main()
