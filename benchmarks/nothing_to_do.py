"""A second run of finished rows, and a third in which one prompt is another.

    python benchmarks/nothing_to_do.py            # 100,000 rows
    python benchmarks/nothing_to_do.py --short    # 10,000 rows

Images of the placeholder model, 16 px by 16 px, in shards of a tenth of the rows. The seconds are those between the
start and the end of the flow's body.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.small_images import measured, write_prompts

ROWS, SHORT, BAR, SHARDS = 100_000, 10_000, 10.0, 10


def shards(dataset: Path) -> dict[str, tuple[int, int]]:
    """Shard → what tells whether it was written anew."""
    files = {path.name: path.stat() for path in sorted((dataset / "data").glob("*.parquet"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def shard_of(dataset: Path, row: int) -> str:
    """The name of the shard that holds a row."""
    for path in sorted((dataset / "data").glob("*.parquet")):
        row -= pq.read_metadata(path).num_rows
        if row < 0:
            return path.name
    raise AssertionError("the dataset has no such row")


def measure(rows: int, runs: int, folder: Path) -> dict[str, float]:
    """Runs all three, the second one so many times, and prints and gives the figures."""
    source, dataset, home = folder / "prompts.csv", folder / "dataset", folder / "prefect"
    first = measured(write_prompts(source, rows), dataset, home, rows // SHARDS)
    assert (first.done, first.new) == (rows, rows), first
    made = shards(dataset)
    assert len(made) >= SHARDS, made
    again = [measured(source, dataset, home, rows // SHARDS) for _ in range(runs)]
    new = max(run.new for run in again)
    written = sum(shards(dataset)[name] != made[name] for name in made)
    seconds = statistics.median(run.body_seconds for run in again)
    print(f"first run, {rows:,} rows             {first.body_seconds:8.1f} s")
    print(f"second run, flow's body          {seconds:8.1f} s (bar {BAR:g} of {ROWS:,} rows)")
    print(f"second run, new generations      {new:8,} (bar 0), shards written {written} of {len(made)} (bar 0)")
    changed = rows // 3
    third = measured(write_prompts(source, rows, changed=changed), dataset, home, rows // SHARDS)
    now = shards(dataset)
    others = [name for name in {*now, *made} - {shard_of(dataset, changed)} if now.get(name) != made.get(name)]
    print(f"a changed prompt, flow's body    {third.body_seconds:8.1f} s")
    print(f"a changed prompt, generations    {third.new:8,} (bar 1), other shards written {len(others)} (bar 0)")
    return {
        "nothing_to_do_share_of_first_run": seconds / first.body_seconds,
        "nothing_to_do_new": new,
        "nothing_to_do_shards_written": written,
        "changed_prompt_new": third.new,
        "changed_prompt_other_shards_written": len(others),
        "nothing_to_do_too_slow": int(seconds > BAR),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="second runs, of which the median is taken")
    parser.add_argument("--short", action="store_true", help="10,000 rows")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write the ratios and counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(SHORT if options.short else ROWS, options.runs, Path(folder))
    late = found.pop("nothing_to_do_too_slow")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    wrong = found["nothing_to_do_new"] or found["nothing_to_do_shards_written"]
    if late or wrong or found["changed_prompt_new"] != 1 or found["changed_prompt_other_shards_written"]:
        sys.exit("a bar was not reached")


if __name__ == "__main__":
    main()
