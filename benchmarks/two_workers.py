"""Throughput of a run on two Dask workers beside that of one, in one run, with the store on an object store.

    python benchmarks/two_workers.py            # 4 s a call, 16 at once and 96 images of 100 KB for each worker
    python benchmarks/two_workers.py --short    # one pair of runs

Scheduler, workers, model server and object store (moto's server) are processes of this machine. The limit is that of a
worker: `--max-concurrency` is 16 with one and 32 with two, so that the figure tells what handing chunks to workers
costs, not what the model server admits. For honesty's sake one worker with 32 at once is told too, without a bar: on a
load that waits for the model, places make the throughput, and a second process is worth it where one has no more of
them, or no more CPU. Each worker has a key of its own, by which the model server's ledger tells them: each has to make
its part of the calls, and never more at once than its share. The figure is the median of `--runs` pairs (default 5), in
which once the one and once the other goes first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ["OPENAI_API_KEY"] = "key-of-the-flow"

from imagetask_flows import monitoring  # noqa: E402
from imagetask_flows.embedded_server import start_server  # noqa: E402

from tests.dask_cluster import DaskCluster, dask_cluster  # noqa: E402
from tests.model_server import Call, start_model_server  # noqa: E402
from tests.s3_server import S3Server, start_s3_server  # noqa: E402

BAR, LATENCY, PLACES, CHUNK_ROWS, IMAGES = 1.8, 4.0, 16, 16, 96
LEAST_SHARE = 0.35
"""Of a run's calls, that each of two workers has to make."""


@dataclass(frozen=True, slots=True)
class Side:
    """A cluster and what runs on it. places: of all of its workers together."""

    cluster: DaskCluster
    workers: int
    places: int

    @property
    def images(self) -> int:
        return IMAGES * self.places // PLACES


def images_a_second(side: Side, s3: S3Server, folder: Path, images: int) -> float:
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
            max_concurrency=side.places,
            chunk_rows=CHUNK_ROWS,
            store=s3.store_url(folder.name),
            runner="dask",
            dask_address=side.cluster.address,
        )
        calls = server.calls
    assert (counts["done"], counts["reused"], len(calls)) == (images, 0, images), (counts, len(calls))
    check_division(calls, side)
    progress = monitoring.current()
    assert progress is not None
    assert progress.chunk_seconds is not None
    seconds: float = progress.chunk_seconds
    return images / seconds


def check_division(calls: Sequence[Call], side: Side) -> None:
    """Raises `SystemExit` where a worker made too few of the calls, or more at once than its share."""
    of_keys = defaultdict[str, list[Call]](list)
    for call in calls:
        of_keys[str(call.authorization)].append(call)
    seen = {key: (len(own), most_at_once(own)) for key, own in of_keys.items()}
    keys = {f"Bearer key-of-worker-{number}" for number in range(side.workers)}
    least, most = LEAST_SHARE * len(calls) if side.workers > 1 else 0, side.places // side.workers
    if seen.keys() != keys or any(count < least or at_once > most for count, at_once in seen.values()):
        raise SystemExit(f"calls, and the most of them at once, are not divided among {side.workers} workers: {seen}")


def most_at_once(calls: Sequence[Call]) -> int:
    """By the times at which the server took them and was done with them; an end counts before a start."""
    changes = [(call.time, 1) for call in calls] + [(call.time + (call.seconds or 0.0), -1) for call in calls]
    most = under_way = 0
    for _, change in sorted(changes):
        under_way += change
        most = max(most, under_way)
    return most


@contextmanager
def workers(number: int, s3: S3Server, folder: Path) -> Iterator[Side]:
    """A cluster of so many workers, each with a key of its own, which have imported what they need at their first
    chunk."""
    with dask_cluster(folder, workers=0, environment=s3.environment) as cluster:
        cluster.add_workers(*({"OPENAI_API_KEY": f"key-of-worker-{one}"} for one in range(number)))
        side = Side(cluster, number, PLACES * number)
        images_a_second(side, s3, folder / f"warm-{number}", 2 * CHUNK_ROWS * number)
        yield side


def pair(number: int, sides: Sequence[Side], s3: S3Server, folder: Path) -> float:
    """Two workers over one, once the one first and once the other."""
    seen = {}
    for side in sides[:: -1 if number % 2 else 1]:
        seen[side.workers] = images_a_second(side, s3, folder / f"pair-{number}-{side.workers}", side.images)
    print(
        f"pair {number + 1}: one worker {seen[1]:.1f} images/s, two {seen[2]:.1f}: {seen[2] / seen[1]:.2f}", flush=True
    )
    return seen[2] / seen[1]


def measure(runs: int, folder: Path) -> float:
    """Prints a line for each pair of runs, and one for a worker with twice the places; gives the median."""
    with start_s3_server() as s3:
        os.environ.update(s3.environment)
        with workers(1, s3, folder / "one") as one, workers(2, s3, folder / "two") as two:
            ratio = statistics.median([pair(number, (one, two), s3, folder) for number in range(runs)])
            wide = Side(one.cluster, 1, two.places)
            speed = images_a_second(wide, s3, folder / "wide", wide.images)
    print(f"one worker with {wide.places} at once: {speed:.1f} images/s (no bar)")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs")
    parser.add_argument("--short", action="store_true", help="one pair of runs")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    wait_for_server = start_server(print)
    wait_for_server()
    with tempfile.TemporaryDirectory() as name:
        ratio = measure(1 if options.short else options.runs, Path(name))
    print(f"two workers beside one   {ratio:6.2f}   (bar {BAR})   {'OK' if ratio >= BAR else 'short'}")
    if options.json is not None:
        options.json.write_text(json.dumps({"two_workers": round(ratio, 3)}))
    if ratio < BAR:
        sys.exit("the bar was not reached")


if __name__ == "__main__":
    main()
