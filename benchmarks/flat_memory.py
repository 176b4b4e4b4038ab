"""Runs of more and more rows: whether memory and seconds per row stay as they are.

    python benchmarks/flat_memory.py                                  # 10,000 and 100,000 rows
    python benchmarks/flat_memory.py --rows 10000 100000 1000000      # an hour, and 9 GB under --folder
    python benchmarks/flat_memory.py --short                          # 2,000 and 20,000 rows

Images of the placeholder model, 16 px by 16 px; each run in a process of its own, whose peak memory is taken, and on an
embedded server, which is another process and in no figure, whatever server this environment names. After the last size:
what `imagetask status` takes, and the flow's body of a run that has nothing left to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.small_images import Figures, measured, write_prompts

PEAK_BAR, SECONDS_BAR, TASK_RUNS_BAR = 1.3, 1.2, 1000
STATUS_GOAL, AGAIN_GOAL = 5.0, 60.0
"""Seconds, for a million rows."""

ROWS, SHORT = (10_000, 100_000), (2_000, 20_000)
_IMAGETASK = Path(sysconfig.get_path("scripts")) / "imagetask"


def run_of(rows: int, folder: Path) -> Figures:
    """A run of so many new rows into `folder` / "dataset"."""
    folder.mkdir(parents=True)
    figures = measured(write_prompts(folder / "prompts.csv", rows), folder / "dataset", folder / "prefect")
    assert (figures.done, figures.new) == (rows, rows), figures
    print(
        f"{rows:9,} rows: peak {figures.peak_mib:5.0f} MiB, {1000 * figures.chunk_seconds / rows:6.2f} ms a row in the "
        f"chunk phase, {figures.task_runs:5,} task runs",
        flush=True,
    )
    return figures


def again(rows: int, folder: Path) -> None:
    """Tells what the finished dataset takes to be looked at, and to be run once more."""
    started = time.perf_counter()
    subprocess.run([str(_IMAGETASK), "status", str(folder / "dataset")], check=True, capture_output=True)
    print(f"imagetask status               {time.perf_counter() - started:8.1f} s (goal {STATUS_GOAL:g} of a million)")
    warm = measured(folder / "prompts.csv", folder / "dataset", folder / "prefect")
    assert (warm.done, warm.new) == (rows, 0), warm
    print(f"nothing to do, flow's body     {warm.body_seconds:8.1f} s (goal {AGAIN_GOAL:g} of a million)")
    print(f"nothing to do, peak memory     {warm.peak_mib:8.0f} MiB")


def ratios(sizes: Sequence[int], runs: Sequence[Sequence[Figures]]) -> dict[str, float]:
    """runs: of each size in turn, so many times. Memory beside the smallest size, seconds beside the last but one."""
    peaks = [run[-1].peak_mib / run[0].peak_mib for run in runs]
    a_row = [[figures.chunk_seconds / rows for rows, figures in zip(sizes, run, strict=True)] for run in runs]
    return {
        "flat_memory_peak_ratio": statistics.median(peaks),
        "flat_memory_seconds_per_row_ratio": statistics.median(seconds[-1] / seconds[-2] for seconds in a_row),
        "flat_memory_task_runs": max(figures.task_runs for run in runs for figures in run),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="two sizes or more, the smallest first")
    parser.add_argument("--runs", type=int, default=1, help="of each size, interleaved; the ratios are medians")
    parser.add_argument("--short", action="store_true", help="2,000 and 20,000 rows")
    parser.add_argument("--folder", type=Path, help="where the datasets are made and removed; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the ratios")
    options = parser.parse_args()
    sizes = options.rows or (SHORT if options.short else ROWS)
    if len(sizes) < 2:
        parser.error("--rows: expected two sizes or more")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        places = {rows: Path(folder) / str(rows) for rows in sizes}
        runs = [[run_of(rows, places[rows] / str(run)) for rows in sizes] for run in range(options.runs)]
        again(sizes[-1], places[sizes[-1]] / "0")
    found = ratios(sizes, runs)
    peak, seconds, task_runs = found.values()
    print(f"peak memory, {sizes[-1]:,} over {sizes[0]:,} rows: {peak:.2f} (bar {PEAK_BAR})")
    print(f"seconds per row, {sizes[-1]:,} over {sizes[-2]:,} rows: {seconds:.2f} (bar {SECONDS_BAR})")
    print(f"task runs, at most: {task_runs:,.0f} (bar {TASK_RUNS_BAR:,})")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if peak > PEAK_BAR or seconds > SECONDS_BAR or task_runs > TASK_RUNS_BAR:
        sys.exit("a bar was not reached")


if __name__ == "__main__":
    main()
