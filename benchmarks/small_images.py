"""One run over a table of prompts with the placeholder model, 16 px by 16 px, in a process of its own: its figures.

    python -m benchmarks.small_images SOURCE FOLDER

The last line printed is JSON: what became of the rows, the peak memory of this process, the seconds of the chunk phase
and of the flow's body, and the run's number of task runs, as Prefect's server has them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[1]
SIDE = 16
"""px."""
CHANGED = "a red lighthouse"
"""How the prompt begins that was changed."""


@dataclass(frozen=True, slots=True)
class Figures:
    """new: images that were made by this run. calls: of the model. body_seconds: between the start and the end of the
    flow's body."""

    done: int
    new: int
    calls: int
    peak_mib: float
    chunk_seconds: float
    body_seconds: float
    task_runs: int


def measured(source: Path, dataset: Path, home: Path, shard_rows: int | None = None) -> Figures:
    """A run in a process of its own, on an embedded server whose database is in `home`; shard_rows: of a shard."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(home),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "benchmarks.small_images", str(source), str(dataset)]
    command += [] if shard_rows is None else ["--shard-rows", str(shard_rows)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the run failed:\n{done.stderr}")
    return Figures(**json.loads(done.stdout.strip().splitlines()[-1]))


def write_prompts(path: Path, rows: int, changed: int | None = None) -> Path:
    """A CSV file of so many different prompts of a hundred characters; changed: the row that has another one."""
    with path.open("w") as file:
        file.write("prompt,note\n")
        for row in range(rows):
            what = CHANGED if row == changed else "a small harbour"
            file.write(f'"{what} at dusk, seen from the water, photographed on film, number {row}",note {row}\n')
    return path


def main() -> None:
    from imagetask_flows import monitoring
    from imagetask_flows.embedded_server import start_server

    from imagetask import cutting

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("dataset")
    parser.add_argument("--shard-rows", type=int, default=cutting.SHARD_ROWS)
    options = parser.parse_args()
    cutting.SHARD_ROWS = options.shard_rows
    wait_for_server = start_server(lambda text: print(text, file=sys.stderr))
    from imagetask_flows.generate_images import generate_images

    wait_for_server()
    counts = generate_images(options.source, options.dataset, model="placeholder", width=SIDE, height=SIDE)
    progress = monitoring.current()
    assert progress is not None
    assert progress.chunk_seconds is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    body, task_runs = _as_the_server_has_it(os.environ["PREFECT_API_URL"], progress.run)
    figures = {
        "done": counts["done"],
        "new": progress.new_images,
        "calls": progress.calls,
        "peak_mib": peak,
        "chunk_seconds": progress.chunk_seconds,
        "body_seconds": body,
        "task_runs": task_runs,
    }
    print(json.dumps(figures))


def _as_the_server_has_it(url: str, run: str) -> tuple[float, int]:
    """Seconds of a flow run between its start and its end, and its task runs, once the server has written them down."""
    known = _answer(Request(f"{url}/flow_runs/{run}"))
    began, ended = (datetime.fromisoformat(known[name]) for name in ("start_time", "end_time"))
    own = json.dumps({"flow_runs": {"id": {"any_": [run]}}}).encode()
    count, before, until = 0, -1, time.monotonic() + 120
    while count != before and time.monotonic() < until:
        time.sleep(2.0)
        header = {"Content-Type": "application/json"}
        before, count = count, _answer(Request(f"{url}/task_runs/count", data=own, headers=header, method="POST"))
    return (ended - began).total_seconds(), count


def _answer(request: Request) -> Any:
    return json.loads(urlopen(request, timeout=60).read())


if __name__ == "__main__":
    main()
