"""A push of a large dataset to a Hub on loopback, killed twice and finished: memory, and what was sent twice.

    python benchmarks/hub_push.py            # 5 GB in ten shards
    python benchmarks/hub_push.py --short    # 0.4 GB in four
    python benchmarks/hub_push.py --json figures.json

The pictures are made up: random bytes of 1 MB each. The push is a process of its own, without Prefect, killed by
SIGKILL once a third and once two thirds of the shards are sent, in the middle of the next. A reader looks at the Hub
all the while, at its files, the card and the footers of the shards, and must never see half a dataset. No shard that
came whole is sent again; what a kill cut off is, at most a shard each time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imagetask.layout import Layout, read_json, write_json  # noqa: E402
from imagetask.shards import shard_files, shard_writer  # noqa: E402
from tests.hub_server import HubServer  # noqa: E402
from tests.small_datasets import make_dataset  # noqa: E402

BAR_MB, REPO, TOKEN = 500, "me/large", "hf_benchmark"
KILLS = 2
PART = 64 << 20
"""Bytes of a shard that are sent at a time."""
PICTURE, GROUP = 1_000_000, 16

PUSH = """
import sys
from pathlib import Path
from imagetask.layout import Layout
from imagetask.push import push
push(Layout(Path(sys.argv[1])), sys.argv[2])
"""


def make_large(out: Path, shards: int, shard_bytes: int) -> Layout:
    """A finished dataset whose shards were written here, each of so many bytes of pictures."""
    make_dataset(out, [{"prompt": "made up"}])
    layout = Layout(out)
    [first] = shard_files(layout)
    row = pl.DataFrame(pl.from_arrow(pq.read_table(first).drop(["image"])))
    schema, entries, random = pq.read_schema(first), [], np.random.default_rng(1)
    for number in range(shards):
        rows = shard_bytes // PICTURE
        path = layout.data / f"train-{number:05d}.parquet"
        with shard_writer(path, schema) as writer:
            for start in range(0, rows, GROUP):
                count = min(GROUP, rows - start)
                bytes_of = [random.bytes(PICTURE) for _ in range(count)]
                images = pa.StructArray.from_arrays(
                    [pa.array(bytes_of, pa.binary()), pa.array(["made-up.jpg"] * count)],
                    fields=list(schema.field("image").type),
                )
                table = pl.concat([row] * count).to_arrow()
                columns = [images if name == "image" else table[name] for name in schema.names]
                writer.write_table(
                    pa.Table.from_arrays(
                        [pa.chunked_array([c]) if isinstance(c, pa.Array) else c for c in columns], names=schema.names
                    ).cast(schema)
                )
        entries.append({"file": path.name, "digest": f"{number}", "rows": rows, "bytes": path.stat().st_size})
    write_json(layout.shards, {**(read_json(layout.shards) or {}), "shards": entries})
    return layout


class Reader:
    """Looks at the Hub again and again, as somebody does who loads the dataset; broken: what was not whole."""

    def __init__(self, url: str) -> None:
        self.api, self.files = HfApi(endpoint=url, token=TOKEN), HfFileSystem(endpoint=url, token=TOKEN)
        self.broken: list[str] = []
        self.looks = 0
        self._seen: set[str] = set()

    def look(self) -> None:
        if not self.api.repo_exists(REPO, repo_type="dataset"):
            return
        self.looks += 1
        head = str(self.api.dataset_info(REPO).sha)
        if head in self._seen:
            return
        self._seen.add(head)
        paths = self.api.list_repo_files(REPO, repo_type="dataset", revision=head)
        shards = [path for path in paths if path.endswith(".parquet")]
        if not shards and "README.md" not in paths:
            return
        rows = 0
        for path in shards:
            with self.files.open(f"datasets/{REPO}@{head}/{path}") as file:
                rows += pq.read_metadata(file).num_rows
        with self.files.open(f"datasets/{REPO}@{head}/README.md") as file:
            if f"num_examples: {rows}\n".encode() not in file.read():
                self.broken.append(f"{head}: {len(shards)} shards with {rows} rows")

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.2):
                self.look()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def parts_sent(hub: HubServer) -> int:
    """How many parts of shards came so far, or were cut off."""
    return sum(seen.method == "PUT" for seen in hub.requests)


def stalled(layout: Layout, hub: HubServer, after: int) -> int:
    """Holds up the part in the middle of the shard that comes after so many; gives how many parts come before it."""
    parts = -(-shard_files(layout)[0].stat().st_size // PART)
    coming = (after - len(hub.uploads)) * parts + parts // 2
    hub.slow(r"PUT /uploads/", 2, times=1, after=coming)
    return parts_sent(hub) + coming


def pushed(layout: Layout, hub: HubServer, home: Path, kill_after: int | None) -> tuple[float, float]:
    """Megabytes that the process of a push took at most, and seconds; killed amid the shard after so many."""
    env = {**os.environ, **hub.env(home, token=TOKEN), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PUSH, str(layout.root), REPO]
    started, peak = time.perf_counter(), 0.0
    kill_at = None if kill_after is None else stalled(layout, hub, kill_after)
    with subprocess.Popen(command, env=env) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(
                [peak, *(int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmHWM"))]
            )
            if kill_at is not None and parts_sent(hub) >= kill_at:
                time.sleep(0.2)
                process.kill()
            time.sleep(0.05)
        ended = process.wait()
    assert ended == (0 if kill_after is None else -9), f"the push ended with {ended}"
    return peak, time.perf_counter() - started


def measure(shards: int, shard_bytes: int) -> dict[str, float]:
    """The figures, by name; told as they come."""
    with tempfile.TemporaryDirectory() as folder, HubServer(Path(folder) / "hub", part_size=PART) as hub:
        hub.add_user("me", TOKEN)
        layout = make_large(Path(folder) / "out", shards, shard_bytes)
        total = sum(file.stat().st_size for file in shard_files(layout))
        print(f"{total / 1e9:.2f} GB in {shards} shards", flush=True)
        reader = Reader(hub.url)
        with reader.looking():
            peaks = []
            for kill_after in (shards // 3, 2 * shards // 3, None):
                peak, seconds = pushed(layout, hub, Path(folder) / "home", kill_after)
                peaks.append(peak)
                what = "to the end" if kill_after is None else f"killed after {kill_after} shards"
                print(f"{what}: peak {peak:.0f} MB, {seconds:.1f} s", flush=True)
            time.sleep(0.5)
        whole = sum(upload.bytes for upload in hub.uploads)
        begun = sum(seen.size for seen in hub.requests if seen.method == "PUT")
        print(f"{whole / 1e9:.2f} GB came whole, of {begun / 1e9:.2f} GB begun, with what the kills cut off")
        print(f"a reader looked {reader.looks} times, and saw a broken dataset: {reader.broken or 'never'}")
        assert reader.looks
        assert not reader.broken
        assert begun > whole, "no kill cut anything off"
        return {
            "hub push peak MB": max(peaks),
            "hub push sent share": whole / total,
            "hub push begun share": begun / total,
        }


def main() -> None:
    """Measures, and fails where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shards, shard_bytes = (4, 100_000_000) if options.short else (10, 500_000_000)
    figures = measure(shards, shard_bytes)
    if options.json:
        options.json.write_text(json.dumps(figures))
    if figures["hub push peak MB"] > BAR_MB or figures["hub push sent share"] > 1.01:
        raise SystemExit(f"a bar was missed: at most {BAR_MB} MB, no shard sent twice")
    if figures["hub push begun share"] > 1.01 + KILLS / shards:
        raise SystemExit("a bar was missed: a kill costs at most a shard")


if __name__ == "__main__":
    main()
