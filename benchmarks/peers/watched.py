"""A command that is watched while it runs: memory and CPU time of all its processes, and a kill of them all."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.1
_MEMORY_EVERY, _GROWN = 0.5, 1.02
_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes took at a time (seconds since the epoch).

    own: memory (MiB) of the processes of the command's session, added up, as their proportional set sizes: a page that
    several share counts once, divided among them. Of a process whose `smaps_rollup` may not be read it is the resident
    set, in which shared pages count in full. whole: with those that have sessions of their own, as Prefect's embedded
    server has. cpu: seconds of CPU so far, of the command's session.
    """

    time: float
    own: float
    whole: float
    cpu: float


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    session: int
    resident: int
    cpu: float


@dataclass(frozen=True, slots=True)
class _Memory:
    """own, whole: as in `Sample`. resident: bytes of all, when it was read. time: time.monotonic()."""

    own: float = 0.0
    whole: float = 0.0
    resident: int = 0
    time: float = 0.0


class Watched:
    """A command in a session of its own; what it prints goes to `output` and `errors` in `folder`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, folder: Path) -> None:
        self.samples: list[Sample] = []
        self._memory = _Memory()
        self._folder = folder
        with (folder / "output").open("wb") as out, (folder / "errors").open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
        """The exit code, or None where `until` became true first. Kills the command after `seconds`: `TimeoutError`."""
        end = time.monotonic() + seconds
        while (code := self._process.poll()) is None and not until():
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"no end after {seconds:.0f} s; its last words:\n{self.last_words()}")
            self.samples.append(self._sample())
            time.sleep(_EVERY)
        return code

    def kill(self) -> None:
        """SIGKILL to every process of the tree; returns when none of the command's session is left."""
        for pid in self._tree(_processes()):
            _kill(pid)
        self._process.wait(30)
        while left := [pid for pid, process in _processes().items() if process.session == self._process.pid]:
            for pid in left:
                _kill(pid)
            time.sleep(_EVERY)

    def last_line(self) -> str:
        """Of the standard output."""
        return (self._folder / "output").read_text().strip().splitlines()[-1]

    def last_words(self) -> str:
        """The last 30 lines of the standard error."""
        return "\n".join((self._folder / "errors").read_text(errors="replace").splitlines()[-30:])

    def _sample(self) -> Sample:
        processes = _processes()
        tree = [processes[pid] for pid in self._tree(processes)]
        self._read_memory(tree)
        cpu = sum(process.cpu for process in tree if process.session == self._process.pid)
        return Sample(time.time(), self._memory.own, self._memory.whole, cpu)

    def _read_memory(self, tree: Sequence[_Process]) -> None:
        """Reads it where the resident memory has grown, and twice a second: that takes 4 ms for each GB of a process,
        which cannot have its memory changed meanwhile."""
        resident, now = sum(process.resident for process in tree), time.monotonic()
        if resident > _GROWN * self._memory.resident or now - self._memory.time > _MEMORY_EVERY:
            sizes = [(process.session == self._process.pid, _proportional(process) / 2**20) for process in tree]
            own = sum(size for is_own, size in sizes if is_own)
            self._memory = _Memory(own, sum(size for _, size in sizes), resident, now)

    def _tree(self, processes: Mapping[int, _Process]) -> list[int]:
        """The command, all that descends from it, and what lost its parent but is of its session."""
        found = [pid for pid, process in processes.items() if process.session == self._process.pid]
        for pid in found:
            found += [child for child, process in processes.items() if process.parent == pid and child not in found]
        return found


def _processes() -> dict[int, _Process]:
    """Every process of the machine by its id, as /proc tells."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            text = Path(entry.path, "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        fields = text.rpartition(")")[2].split()
        ticks = sum(map(int, fields[11:15]))  # its own, and those of children that have ended
        pid, resident = int(entry.name), int(fields[21]) * _PAGE
        found[pid] = _Process(pid, int(fields[1]), int(fields[3]), resident, ticks / _TICKS)
    return found


def _proportional(process: _Process) -> int:
    """Bytes."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # not ours to read, or it ended meanwhile
        return process.resident
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
