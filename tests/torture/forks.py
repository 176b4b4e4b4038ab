"""The command `imagetask` by the dozen: one process imports it, and forks a child for each command.

Each child is a real process, the leader of its own group, and dies a real death; only its imports come for free.
`python -m tests.torture.forks` reads one JSON line for each command and writes two: its process id, and how it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Command:
    """words: behind `imagetask`. cwd: where it runs. log: file that gets what it writes. crash_at: as
    `IMAGETASK_CRASH_AT`; None for nowhere."""

    words: list[str]
    cwd: str
    log: str
    crash_at: str | None = None


class Forks:
    """Starts commands in a process that has all imports behind it. One command at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, command: Command) -> int:
        """Starts a command; gives its process id, which is that of its group too."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(command)) + "\n")
        self._process.stdin.flush()
        return self._read()

    def wait(self) -> int:
        """Waits for the command that was started; gives its exit code, or minus the signal that ended it."""
        return self._read()

    def _read(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that forks is gone; it ended with {self._process.wait(10)}")
        return int(line)


@contextmanager
def forks(env: Mapping[str, str]) -> Iterator[Forks]:
    """env: the whole environment of all commands."""
    words = [sys.executable, "-m", "tests.torture.forks"]
    with subprocess.Popen(
        words, cwd=_ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Forks(process)
        finally:
            process.kill()


def main() -> None:
    """Imports, then forks for each line. A child becomes the command, and never reads a further line."""
    import imagetask_flows.check
    import imagetask_flows.cli
    import imagetask_flows.command_line.progress_bar
    import imagetask_flows.generate_images

    import imagetask.models.inference_endpoints  # noqa: F401
    from imagetask import crash_points

    for line in iter(sys.stdin.readline, ""):
        command = Command(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            _become(command)
            crash_points.arm(command.crash_at)
            imagetask_flows.cli.main()
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(command: Command) -> None:
    """Makes this process one that a shell could have started."""
    os.setsid()
    os.chdir(command.cwd)
    sys.argv = ["imagetask", *command.words]
    log = os.open(command.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


if __name__ == "__main__":
    main()
