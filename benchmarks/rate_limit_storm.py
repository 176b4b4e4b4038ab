"""A storm of rejections: a server that admits 8 calls at once, and a client that may make 64.

    python benchmarks/rate_limit_storm.py            # about 4 minutes
    python benchmarks/rate_limit_storm.py --short    # a third of the calls, one run

Each figure is the median of `--runs` runs (default 3). The ideal is calls × latency / 8: eight calls under way all the
time. The server runs in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imagetask.models import load_model  # noqa: E402
from imagetask.models.managed import ManagedModel  # noqa: E402
from tests.model_server import RemoteModelServer, start_model_server  # noqa: E402

ADMITTED, ALLOWED = 8, 64
BAR, GOAL, WASTE = 1.3, 1.1, 0.10
LATENCIES = (0.1, 0.3, 1.0)
CALLS = 600
"""Pictures of a run at 0.1 s; a run at another latency has as many as take about as long, but at least 200."""


@dataclass(frozen=True, slots=True)
class Storm:
    """over: time over the ideal. rejected: share of all calls. settled: calls at once, in the second half."""

    over: float
    rejected: float
    settled: float


def storm(server: RemoteModelServer, pictures: int, latency: float, allowed: int = ALLOWED) -> Storm:
    """One run of so many pictures; `allowed` no more than are admitted, it is what a storm is compared with."""
    server.reset()
    model = load_model("openai:m", base_url=server.openai_url, api_key="none")
    with ManagedModel(model, max_concurrency=allowed) as managed:
        started = time.perf_counter()
        answered = managed.generate_outputs([f"prompt {number}" for number in range(pictures)])
        seconds = time.perf_counter() - started
    if any(one.status != "done" for [one] in answered):
        raise SystemExit("a picture is missing: the storm was no mere storm")
    calls = server.calls
    admitted = [call for call in calls if call.fault is None]
    start, end = admitted[len(admitted) // 2].time, admitted[-1].time
    busy = sum(max(0.0, min(call.time + (call.seconds or 0.0), end) - max(call.time, start)) for call in admitted)
    over = seconds / (pictures * latency / ADMITTED)
    return Storm(over, 1 - len(admitted) / len(calls), busy / (end - start))


def pictures_for(latency: float, share: int) -> int:
    return max(200, int(CALLS * 0.1 / latency)) // share


def print_medians(words: str, storms: Iterable[Storm]) -> bool:
    """A line of the table, with the lowest and highest time; gives whether the medians reach the bars."""
    all_of = list(storms)
    over = sorted(one.over for one in all_of)
    rejected = statistics.median(one.rejected for one in all_of)
    settled = statistics.median(one.settled for one in all_of)
    times = f"{statistics.median(over):5.2f} ({over[0]:.2f} to {over[-1]:.2f})"
    print(f"{words:34} {times}   {rejected:6.1%}   {settled:5.1f}", flush=True)
    return statistics.median(over) <= BAR and rejected < WASTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latencies", type=float, nargs="+", default=LATENCIES, help="seconds that a picture takes")
    parser.add_argument("--short", action="store_true", help="a third of the calls, one run")
    options = parser.parse_args()
    print(f"{ADMITTED} admitted, {ALLOWED} allowed; bars: {BAR} (goal {GOAL}) × the ideal, {WASTE:.0%} rejected")
    print(f"{'':34} time over ideal      rejected   at once")
    reached = True
    for latency in options.latencies:
        for retry_after in ("", 1):
            with start_model_server(latency=latency) as server:
                server.behave({"admit": {"at_once": ADMITTED, "retry_after": retry_after}})
                pictures = pictures_for(latency, 3 if options.short else 1)
                words = f"{pictures} × {latency} s, {'Retry-After 1 s' if retry_after else 'no Retry-After'}"
                runs = 1 if options.short else options.runs
                reached &= print_medians(words, [storm(server, pictures, latency) for _ in range(runs)])
    if not reached:
        sys.exit("a bar was not reached")


if __name__ == "__main__":
    main()
