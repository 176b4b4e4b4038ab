"""A Dask cluster on loopback: a real scheduler, and real worker processes that can be killed.

`python -m tests.dask_cluster scheduler|worker ARGUMENTS` is `dask scheduler` or `dask worker` in a group of its own,
which is killed when its standard input is closed: it does not outlive whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_START_SECONDS = 60.0


class DaskCluster:
    """The cluster as a test sees it; each process is the leader of a group of its own.

    address: of the scheduler. folder: for its files and logs. environment: of its workers.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(_ROOT), **environment}
        self._schedulers: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start_scheduler(self) -> None:
        """Starts it, and waits until it has an address."""
        file = self._folder / "scheduler.json"
        scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        self._schedulers.append(scheduler)
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and scheduler.poll() is None:
            if file.is_file() and (text := file.read_text()).endswith("}"):
                self.address = str(json.loads(text)["address"])
                return
            time.sleep(0.05)
        raise RuntimeError(f"the Dask scheduler did not start: {(self._folder / 'scheduler.log').read_text()}")

    def add_workers(self, *environments: Mapping[str, str], threads: int = 4) -> None:
        """Starts a worker process for each of the environments, which it has beside that of all workers; waits until
        the scheduler knows them."""
        from distributed import Client

        options = ("--no-nanny", "--nthreads", str(threads), "--no-dashboard", "--local-directory", str(self._folder))
        with Client(self.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            known = set(client.nthreads())
            for own in environments:
                self.workers.append(self._start("worker", self.address, *options, environment=own))
            started = self.workers[len(self.workers) - len(environments) :]
            until = time.monotonic() + _START_SECONDS
            while len(set(client.nthreads()) - known) < len(started):
                if time.monotonic() > until or any(worker.poll() is not None for worker in started):
                    raise RuntimeError(f"the Dask workers did not start: {self.log('worker')}")
                time.sleep(0.1)

    def log(self, name: str) -> str:
        """What the "scheduler" wrote, or each "worker"."""
        return (self._folder / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in (*self.workers, *self._schedulers):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _start(
        self, what: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.dask_cluster", what, *arguments, "--host", "127.0.0.1"]
        with (self._folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={**self._environment, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def dask_cluster(
    folder: Path, workers: int = 2, threads: int = 4, environment: Mapping[str, str] | None = None
) -> Iterator[DaskCluster]:
    """A scheduler with so many worker processes, which end with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = DaskCluster(folder, environment or {})
    try:
        cluster.start_scheduler()
        cluster.add_workers(*[{}] * workers, threads=threads)
        yield cluster
    finally:
        cluster.stop()


def main() -> None:
    """Becomes what the first argument names."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    import_module(f"distributed.cli.dask_{sys.argv.pop(1)}").main()


def _end_with_stdin() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
