"""Runs killed at every crash point and at random times, 50 calls in flight; exit code 1 where a promise is broken.

    python benchmarks/torture.py               # 30 kills at random times, and one at each point
    python benchmarks/torture.py --random 100 --seed 7

All of it is on this machine, with a Prefect server and a model server of its own. `docs/guarantees.md` has the promise.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"

from prefect.settings import get_current_settings  # noqa: E402
from prefect.testing.utilities import prefect_test_harness  # noqa: E402

from tests.torture.kills import (  # noqa: E402
    Kill,
    Killed,
    broken_promises,
    delivered_again,
    finish,
    kill_at_random,
    kill_everywhere,
    killing,
)

ROWS_A_KILL = 30
"""More than what a kill at random leaves in the store, by and large (rows)."""
HEADER = f"{'killed at':44} {'calls':>6} {'in flight':>9} {'lost':>5} {'paid twice':>10} {'rows':>6}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=30, metavar="KILLS", help="how many kills at random times")
    parser.add_argument("--seed", type=int, default=None, help="of the random times; default: another one each time")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}\n{HEADER}", flush=True)
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=120):
        work = Path(folder) / "work"
        work.mkdir()
        return torture(work, options.random, random.Random(seed))


def torture(work: Path, number: int, moments: random.Random) -> int:
    """Prints a line for each kill, and what is broken; gives the exit code."""
    rows = 1400 + ROWS_A_KILL * number
    url = str(get_current_settings().api.url)
    with killing(work, {"PREFECT_API_URL": url}, rows) as (killed, undisturbed):
        for kill in all_kills(killed, number, moments):
            print(line(kill), flush=True)
        undisturbed.to_the_end()
        kills, again = killed.kills, delivered_again(killed.server.calls[: killed.calls])
        print(
            f"{len(kills)} kills, {killed.calls:,} calls for {rows:,} rows: "
            f"{sum(kill.lost for kill in kills):,} lost with a kill, {again:,} pictures delivered again"
        )
        broken = broken_promises(killed, undisturbed, rows)
    for text in broken:
        print(f"BROKEN: {text}")
    print("the promise is broken" if broken else f"{rows:,} rows, 0 lost, and equal to those of an undisturbed run")
    return 1 if broken else 0


def all_kills(killed: Killed, number: int, moments: random.Random) -> Iterator[Kill]:
    """At every point; then at random, half of them among the calls, half anywhere between start and end."""
    yield from kill_everywhere(killed)
    yield from kill_at_random(killed, number - number // 2, moments)
    for _ in range(number // 2):
        yield killed.after(moments.uniform(0.5, 4.0))
    yield from finish(killed)


def line(kill: Kill) -> str:
    return f"{kill.where:44} {kill.calls:6} {kill.in_flight:9} {kill.lost:5} {kill.twice:10} {kill.rows:6}"


if __name__ == "__main__":
    sys.exit(main())
