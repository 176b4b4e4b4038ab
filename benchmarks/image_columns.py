"""The image column step beside `cp -r` of the store, and `transform_columns_to_image` beside Python's own base64.

    python benchmarks/image_columns.py            # 20,000 JPEGs of 100 KB, and 2 GB of base64 text twice; five runs
    python benchmarks/image_columns.py --short    # a tenth of both, three runs

The JPEGs are of 512 × 512 px, and no two are the same. Everything was read before, so that the cache is warm; source
and destination are on the same disk, and what is written is flushed between the runs, outside of the clock. The step is
measured in a process of its own, without Prefect: its peak memory is its own too. The bar of GB/s is that of the long
form: on a machine with other work seconds say little, and the short form has the ratio to Python's base64.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.own_process import in_its_own_process  # noqa: E402
from imagetask.columns import transform_columns_to_image  # noqa: E402
from imagetask.dataset import build_dataset  # noqa: E402
from imagetask.images import Image  # noqa: E402
from imagetask.layout import Layout  # noqa: E402
from imagetask.models.base import Generation  # noqa: E402
from imagetask.parts import write_part  # noqa: E402
from imagetask.plan import Chunk  # noqa: E402
from imagetask.store import GenerationStore, generation_key  # noqa: E402
from imagetask.tasks.base import bookkeeping_columns  # noqa: E402
from tests.model_server.pictures import PictureMaker  # noqa: E402

COPY_BAR, MEMORY_BAR, SPEED_BAR = 2.5, 400, 0.8
CHUNK_ROWS = 250


def make_large(folder: Path, images: int) -> None:
    """A store of so many JPEGs of 100 KB and the parts that tell of them, as a run leaves them before its last step."""
    layout, store = _begun(folder)
    pictures = PictureMaker((512, 512), 98)
    for start in range(0, images, CHUNK_ROWS):
        rows = range(start, min(start + CHUNK_ROWS, images))
        _write_part(layout, rows, [_stored(store, pictures, row) for row in rows])


def make_small(folder: Path, rows: int) -> None:
    """The parts of a run of many rows, 1,000 each; their pictures are sixteen, of 16 × 16 px."""
    layout, store = _begun(folder)
    pictures = PictureMaker((16, 16), None)
    generations = [_stored(store, pictures, number) for number in range(16)]
    for start in range(0, rows, 1000):
        _write_part(layout, range(start, start + 1000), [generations[row % 16] for row in range(1000)])


def _begun(folder: Path) -> tuple[Layout, GenerationStore]:
    layout = Layout(folder)
    layout.make()
    return layout, GenerationStore(layout.store)


def _stored(store: GenerationStore, pictures: PictureMaker, number: int) -> Generation:
    prompt = f"prompt number {number}"
    key = generation_key({"prompt": prompt})
    image = Image.from_bytes(pictures.make("jpeg", None, (number,)).data)
    generation = Generation("bench", prompt, key=key, seed=number, image=image, attempts=1, latency=0.2)
    return replace(generation, image=store.put(key, {"prompt": prompt, **bookkeeping_columns(generation)}, image))


def _write_part(layout: Layout, rows: range, made: list[Generation]) -> None:
    cells = [
        {
            "prompt": f"prompt number {row}",
            "row_id": generation_key({"row": row})[:16],
            "image": generation.image and generation.image.path,
            "model_name": generation.model_name,
            **bookkeeping_columns(generation),
        }
        for row, generation in zip(rows, made, strict=True)
    ]
    types = dict.fromkeys(["error_kind", "error_message", "asked_size", "cost_source"], pl.String)
    part = pl.DataFrame(cells, schema_overrides={**types, "cost": pl.Float64})
    sizes = [generation.image.num_bytes if generation.image else 0 for generation in made]
    chunk = Chunk("bench", rows.start, rows.stop, generation_key({"rows": [rows.start, rows.stop]}))
    write_part(layout, chunk, part, ["image"], sizes, [[generation] for generation in made])


def step(folder: Path) -> dict[str, float]:
    """Seconds (and seconds of CPU) of the last step of a run into the folder, and this process's peak memory (MB)."""
    layout = Layout(folder)
    manifests = [json.loads(path.read_bytes()) for path in layout.parts.glob("*.json")]
    settings = {"model": ["bench"], "seed": 0}
    started, cpu = time.perf_counter(), time.process_time()
    build_dataset(layout, manifests, GenerationStore(layout.store), settings)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def copied(folder: Path, destination: Path) -> dict[str, float]:
    """Seconds (and seconds of CPU) of `cp -r` of the folder's store."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["cp", "-r", str(Layout(folder).store), str(destination)], check=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu}


def columns(cells: int, num_bytes: int) -> dict[str, float]:
    """Of base64 text: GB a second of `transform_columns_to_image`, and its time and CPU over Python's own base64."""
    head = b"\xff\xd8\xff\xe0"
    text = [base64.b64encode(head + os.urandom(num_bytes * 3 // 4 - len(head))).decode() for _ in range(cells)]
    frame = pl.DataFrame({"image": text})
    started, cpu = time.perf_counter(), time.process_time()
    done = transform_columns_to_image(frame, "image")
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    started, pythons_cpu = time.perf_counter(), time.process_time()
    pythons = [base64.b64decode(cell) for cell in text]
    pythons_seconds, pythons_cpu = time.perf_counter() - started, time.process_time() - pythons_cpu
    if not done["image"].struct.field("bytes").equals(pl.Series("bytes", pythons)):
        raise SystemExit("the pictures are not the bytes that Python's base64 gives")
    return {"speed": sum(map(len, text)) / 1e9 / seconds, "time": seconds / pythons_seconds, "cpu": cpu / pythons_cpu}


def _read_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _step_and_copy(folder: Path, run: int) -> tuple[dict[str, float], dict[str, float]]:
    """The step and `cp -r` of the same store, once the one first and once the other."""
    done = {}
    for name in ("cp", "step")[:: -1 if run % 2 else 1]:
        os.sync()
        if name == "cp":
            done[name] = copied(folder, folder / "copy")
            shutil.rmtree(folder / "copy")
        else:
            done[name] = in_its_own_process(__file__, "--step", folder)
            shutil.rmtree(Layout(folder).data)
            Layout(folder).data.mkdir()
            Layout(folder).shards.unlink()
    return done["step"], done["cp"]


def beside_cp(folder: Path, images: int, runs: int) -> dict[str, float]:
    """Interleaved runs of the step and of `cp -r`: medians of their ratios, and the largest peak."""
    in_its_own_process(__file__, "--large", folder, images)
    pairs = []
    for number in range(runs):
        _read_all(Layout(folder).store)
        one, other = _step_and_copy(folder, number)
        pairs.append((one, other))
        print(
            f"run {number + 1}: cp -r {other['seconds']:.2f} s ({other['cpu']:.2f} of CPU), "
            f"step {one['seconds']:.2f} s ({one['cpu']:.2f} of CPU)"
        )
    return {
        "image step over cp -r": statistics.median(one["seconds"] / other["seconds"] for one, other in pairs),
        "image step over cp -r, CPU": statistics.median(one["cpu"] / other["cpu"] for one, other in pairs),
        "image step, peak MB": max(one["peak_mb"] for one, _ in pairs),
    }


def flat_memory(folder: Path, rows: int) -> dict[str, float]:
    """The peak of the step of so many rows beside that of 10,000."""
    peaks = []
    for count in (10_000, rows):
        in_its_own_process(__file__, "--small", folder / str(count), count)
        done = in_its_own_process(__file__, "--step", folder / str(count))
        print(f"{count:9,} rows: {done['peak_mb']:.0f} MB, {done['cpu'] / count * 1e6:.0f} µs of CPU a row")
        peaks.append(done["peak_mb"])
    return {"image step, peak of many rows over 10,000": peaks[1] / peaks[0]}


def beside_base64(cells: int, num_bytes: int, runs: int) -> dict[str, float]:
    """Of fresh processes, medians: GB of text a second; time and CPU over those of Python's own base64."""
    done = [in_its_own_process(__file__, "--columns", cells, num_bytes) for _ in range(runs)]
    name = f"base64 of {num_bytes // 1000} KB"
    return {
        f"{name}, GB/s": statistics.median(one["speed"] for one in done),
        f"{name} over Python's, time": statistics.median(one["time"] for one in done),
        f"{name} over Python's, CPU": statistics.median(one["cpu"] for one in done),
    }


def measure(share: int, runs: int, rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        figures = beside_cp(Path(folder) / "dataset", 20_000 // share, runs)
        figures |= flat_memory(Path(folder), rows)
    figures |= beside_base64(2_000 // share, 1_000_000, runs)
    return figures | beside_base64(20_000 // share, 100_000, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the images and of the text, three runs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=200_000, help="of the run whose memory is compared")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--large", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--small", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--columns", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    alone = _own_process(options)
    if alone is not None:
        print(json.dumps(alone))
        return
    figures = measure(10, 3, 50_000) if options.short else measure(1, options.runs, options.rows)
    for name, value in figures.items():
        print(f"{name:40}{value:10.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    speeds = [value for name, value in figures.items() if name.endswith("GB/s")]
    slow = not options.short and min(speeds) < SPEED_BAR
    if slow or figures["image step over cp -r"] > COPY_BAR or figures["image step, peak MB"] > MEMORY_BAR:
        sys.exit("a bar was not reached")


def _own_process(options: Any) -> dict[str, float] | None:
    """What a process was started for; None for the one that starts them."""
    if options.large:
        make_large(Path(options.large[0]), int(options.large[1]))
        return {}
    if options.small:
        make_small(Path(options.small[0]), int(options.small[1]))
        return {}
    if options.step:
        return step(options.step)
    return columns(*options.columns) if options.columns else None


if __name__ == "__main__":
    main()
