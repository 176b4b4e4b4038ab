"""A run of 1,000 task runs, and how its Prefect server answers meanwhile.

    python benchmarks/task_runs.py            # 999 chunks of 2 rows, and the task that makes the dataset
    python benchmarks/task_runs.py --short    # a tenth of it

Chunks of 2 rows of the placeholder model end as fast as task runs can: real ones, worth seconds, ask far less of a
server. Server, run and probe share this machine.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

TASK_RUNS, HEALTH_BAR = 1000, 1.0
_EVERY = 0.1
_SCRIPTS = Path(sysconfig.get_path("scripts"))


@dataclass(frozen=True, slots=True)
class Figures:
    """health, reads: seconds of each call, while the run went on; drain: seconds until the server was at rest."""

    seconds: float
    drain: float
    task_runs: int
    database_bytes: int
    health: list[float]
    reads: list[float]


def measure(task_runs: int, folder: Path) -> Figures:
    """Runs a flow of so many task runs against a server of its own in `folder`; raises where a call gets no answer."""
    port, home = free_port(), folder / "prefect"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    source, health, reads = folder / "prompts.csv", list[float](), list[float]()
    source.write_text("prompt\n" + "".join(f"prompt number {n}\n" for n in range(2 * (task_runs - 1))))
    words = [_SCRIPTS / "imagetask", "generate", source, "--out", folder / "dataset", "--chunk-rows", "2"]
    with prefect_server(port, environment, folder), _probed(f"http://127.0.0.1:{port}/api", health, reads):
        started = time.perf_counter()
        subprocess.run([str(word) for word in words], env=environment, check=True, stdin=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        made = _all_task_runs(f"http://127.0.0.1:{port}/api", task_runs)
        drain = time.perf_counter() - started - seconds
    return Figures(seconds, drain, made, sum(file.stat().st_size for file in home.glob("prefect.db*")), health, reads)


@contextmanager
def prefect_server(port: int, environment: dict[str, str], folder: Path) -> Iterator[None]:
    words = [str(_SCRIPTS / "prefect"), "--no-prompt", "server", "start", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while not _answered(f"http://127.0.0.1:{port}/api/health"):
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _probed(url: str, health: list[float], reads: list[float]) -> Iterator[None]:
    """Asks the server ten times a second whether it is well, and once a second what the UI's list of runs asks."""
    ended = threading.Event()
    calls = [
        threading.Thread(target=_ask, args=(Request(f"{url}/health"), _EVERY, health, ended)),
        threading.Thread(target=_ask, args=(_post(f"{url}/flow_runs/filter"), 1.0, reads, ended)),
    ]
    for call in calls:
        call.start()
    try:
        yield
    finally:
        ended.set()
        for call in calls:
            call.join()


def _ask(request: Request, every: float, seconds: list[float], ended: threading.Event) -> None:
    while not ended.wait(every):
        started = time.perf_counter()
        try:
            urlopen(request, timeout=30).read()
        except URLError:
            seconds.append(float("inf"))
        else:
            seconds.append(time.perf_counter() - started)


def _post(url: str) -> Request:
    return Request(url, data=b'{"limit": 50}', headers={"Content-Type": "application/json"}, method="POST")


def _all_task_runs(url: str, expected: int) -> int:
    """How many task runs the server knows of, once it has written down what it was told."""
    until, count = time.monotonic() + 120, -1
    while count < expected and time.monotonic() < until:
        time.sleep(1.0)
        count = int(urlopen(_post(f"{url}/task_runs/count"), timeout=30).read())
    return count


def _answered(url: str) -> bool:
    try:
        urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the task runs")
    task_runs = TASK_RUNS // 10 if parser.parse_args().short else TASK_RUNS
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(task_runs, Path(folder))
    print(f"task runs                      {figures.task_runs:8,} (bar {TASK_RUNS:,})")
    print(f"the whole command              {figures.seconds:8.1f} s")
    print(f"until the server was at rest   {figures.drain:8.1f} s")
    print(f"health call, median            {statistics.median(figures.health) * 1000:8.0f} ms")
    print(f"health call, p95               {p95(figures.health) * 1000:8.0f} ms (bar {HEALTH_BAR * 1000:.0f} ms)")
    print(f"health call, longest           {max(figures.health) * 1000:8.0f} ms")
    print(f"list of runs, p95              {p95(figures.reads) * 1000:8.0f} ms")
    print(f"database                       {figures.database_bytes / 1e6:8.1f} MB")
    if p95(figures.health) > HEALTH_BAR or figures.task_runs > TASK_RUNS:
        sys.exit("the bar was not reached")


if __name__ == "__main__":
    main()
