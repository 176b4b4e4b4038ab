"""What a run holds in memory does not grow with its rows: peaks of processes of their own, over few and many rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl

from imagetask.layout import Layout, write_json
from imagetask.parts import manifest_path, part_path
from imagetask.plan import Chunk

FEW, MANY = 5_000, 150_000

PEAK = """
import sys
from pathlib import Path
def peak():
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
"""
PLAN = """
from imagetask.models import load_model
from imagetask.plan import make_plan
from imagetask.settings import RunSettings
settings = RunSettings(source=sys.argv[1], out=Path(sys.argv[2]))
settings.layout.make()
plan = make_plan(settings, [load_model("placeholder")])
print(plan.rows, peak())
"""
PLACEHOLDERS = """
from imagetask.layout import Layout
from imagetask.placeholders import find_placeholders
from imagetask.store import GenerationStore
found = find_placeholders(Layout(Path(sys.argv[1])), GenerationStore(sys.argv[1]))
print(len(found), peak())
"""


def peak_of(script: str, *arguments: object) -> tuple[int, float]:
    """What the script counted, and the peak memory of its process (MiB)."""
    command = [sys.executable, "-c", PEAK + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, peak = done.stdout.split()
    return int(count), float(peak)


def prompts(path: Path, rows: int) -> Path:
    """A CSV file of prompts of about 600 characters."""
    text = "a lighthouse on a cliff in a storm with waves and a long exposure " * 9
    with path.open("w") as file:
        file.write("prompt,note\n")
        file.writelines(f"{text}{row % (rows // 2)},note {row}\n" for row in range(rows))
    return path


def test_a_plan_of_many_rows_takes_little_more_memory_than_one_of_few(tmp_path: Path) -> None:
    """What is read ahead has a limit, which the second file is past: no more is held of the third, which is longer."""
    peaks, sizes = [], []
    for rows in (FEW, MANY, 3 * MANY):
        source = prompts(tmp_path / f"{rows}.csv", rows)
        count, peak = peak_of(PLAN, source, tmp_path / str(rows))
        assert count == rows
        peaks.append(peak)
        sizes.append(source.stat().st_size / 1024**2)
    assert peaks[1] - peaks[0] < 95, f"{peaks} MiB, for files of {sizes} MiB"
    assert peaks[2] - peaks[1] < (sizes[2] - sizes[1]) / 3, f"{peaks} MiB, for files of {sizes} MiB"


def parts(folder: Path, rows: int) -> Path:
    """The parts of a run of so many rows, each with a picture of its own."""
    layout = Layout(folder)
    layout.make()
    chunks = [Chunk("m", start, start + 10_000, f"{start:032x}") for start in range(0, rows, 10_000)]
    for chunk in chunks:
        number = pl.int_range(chunk.start, chunk.stop, eager=True).to_list()
        frame = pl.DataFrame(
            {
                "row_id": [f"{row:016x}" for row in number],
                "image": [f"{row % 256:02x}/{row:032x}-{(row * 2_654_435_761) % 2**32:08x}.png" for row in number],
            }
        )
        part = part_path(layout, chunk.digest)
        frame.write_parquet(part)
        manifest = {"images": ["image"], "part_bytes": part.stat().st_size}
        write_json(manifest_path(layout, chunk.digest), manifest)
    plan = {"version": 2, "rows": rows, "chunk_rows": 10_000, "num_generations": 1}
    told = [{"model": c.model, "start": c.start, "stop": c.stop, "digest": c.digest} for c in chunks]
    write_json(layout.plan, {**plan, "chunks": told})
    return folder


def test_looking_for_placeholders_takes_a_few_bytes_for_each_picture(tmp_path: Path) -> None:
    rows = 2 * MANY
    peaks = [peak_of(PLACEHOLDERS, parts(tmp_path / str(count), count))[1] for count in (FEW, rows)]
    assert (peaks[1] - peaks[0]) * 1024**2 / rows < 80, f"{peaks} MiB"
