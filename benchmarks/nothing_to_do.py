"""A second run of finished rows, and a third in which one prompt is another.

    python benchmarks/nothing_to_do.py            # 100,000 rows
    python benchmarks/nothing_to_do.py --short    # 10,000 rows

Images of the placeholder model, 16 px by 16 px, in shards of a tenth of the rows. The seconds are those between the
start and the end of the flow's body. The changed prompt is to be found in one shard alone, which was written anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.small_images import CHANGED, measured, write_prompts

ROWS, SHORT, BAR, SHARDS = 100_000, 10_000, 10.0, 10
WANTED = {
    "nothing_to_do_calls": 0,
    "nothing_to_do_shards_written": 0,
    "changed_prompt_calls": 1,
    "changed_prompt_shards": 1,
    "changed_prompt_own_shards_written": 1,
    "changed_prompt_other_shards_written": 0,
}
"""No more and no less."""


def shards(dataset: Path) -> dict[str, tuple[int, int]]:
    """Shard → what tells whether it was written anew."""
    files = {path.name: path.stat() for path in sorted((dataset / "data").glob("*.parquet"))}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files.items()}


def shards_with(dataset: Path, words: str) -> set[str]:
    """The names of the shards that hold a prompt with these words."""
    found = {}
    for path in (dataset / "data").glob("*.parquet"):
        prompts = pq.read_table(path, columns=["prompt"])["prompt"]
        found[path.name] = pc.any(pc.match_substring(prompts, words)).as_py()
    return {name for name, holds in found.items() if holds}


def measure(rows: int, runs: int, folder: Path) -> dict[str, float]:
    """Runs the first two, the second one so many times, and then `changed`; prints and gives the figures."""
    source, dataset, home = folder / "prompts.csv", folder / "dataset", folder / "prefect"
    first = measured(write_prompts(source, rows), dataset, home, rows // SHARDS)
    assert (first.done, first.new, first.calls) == (rows, rows, rows), first
    made = shards(dataset)
    assert len(made) >= SHARDS, made
    again = [measured(source, dataset, home, rows // SHARDS) for _ in range(runs)]
    assert all(run.done == rows for run in again), again
    calls = max(run.calls for run in again)
    written = sum(shards(dataset)[name] != made[name] for name in made)
    seconds = statistics.median(run.body_seconds for run in again)
    print(f"first run, {rows:,} rows             {first.body_seconds:8.1f} s")
    print(f"second run, flow's body          {seconds:8.1f} s (bar {BAR:g} of {ROWS:,} rows)")
    print(f"second run, calls                {calls:8,} (bar 0), shards written {written} of {len(made)} (bar 0)")
    return {
        "nothing_to_do_share_of_first_run": seconds / first.body_seconds,
        "nothing_to_do_calls": calls,
        "nothing_to_do_shards_written": written,
        "nothing_to_do_too_slow": int(seconds > BAR),
        **change(rows, source, dataset, home),
    }


def change(rows: int, source: Path, dataset: Path, home: Path) -> dict[str, float]:
    """A run of so many finished rows, of which one has another prompt; prints and gives its figures.

    The changed prompt's own shards are those that it is read back from: there is one, and it has to be written anew.
    """
    before = shards(dataset)
    third = measured(write_prompts(source, rows, changed=rows // 3), dataset, home, rows // SHARDS)
    assert third.done == rows, third
    after, own = shards(dataset), shards_with(dataset, CHANGED)
    written = {name for name in {*before, *after} if after.get(name) != before.get(name)}
    print(f"a changed prompt, flow's body    {third.body_seconds:8.1f} s")
    print(
        f"a changed prompt, calls          {third.calls:8,} (bar 1), shards written that hold it {len(own & written)} "
        f"of {len(own)} (bar 1 of 1), others {len(written - own)} (bar 0)"
    )
    return {
        "changed_prompt_calls": third.calls,
        "changed_prompt_shards": len(own),
        "changed_prompt_own_shards_written": len(own & written),
        "changed_prompt_other_shards_written": len(written - own),
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
    wrong = [name for name, count in WANTED.items() if found[name] != count]
    if late or wrong:
        sys.exit(f"a bar was not reached: {', '.join(wrong) or 'seconds'}")


if __name__ == "__main__":
    main()
