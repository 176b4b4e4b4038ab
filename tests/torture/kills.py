"""One dataset, made by runs that are killed one after the other, and what each kill cost by the server's count."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl

from imagetask import ImageDataset
from imagetask.crash_points import CrashPoint
from imagetask.models.event_loop import IMAGE_THREADS
from imagetask.runs import counts_so_far
from tests.command_line import environment
from tests.model_server import Call, RemoteModelServer, start_model_server
from tests.torture.forks import Command, Forks, forks

AT_ONCE = 50
LATENCY = 0.2
CHUNK_ROWS = 40
BEING_CHECKED = 2 * IMAGE_THREADS
"""Pictures that came and are not yet durable: their calls gave their places back, so others may be under way."""
MAY_DIFFER = ("attempts", "latency", "reused", "created_at")
"""Columns in which a dataset of killed runs may differ from that of an undisturbed one."""
DONE = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run is to die. passing: the how-many-eth time that it comes there. options: of the command.

    alike: so many of its calls are answered with one and the same picture.
    """

    point: CrashPoint
    passing: int = 1
    options: tuple[str, ...] = ()
    alike: int = 0


BEFORE_CALLS = [
    *(Step("run: to be recorded"), Step("file: written"), Step("run: recorded as running")),
    *(Step("plan: to be written"), Step("plan: rows written"), Step("plan: ordinals in place")),
    *(Step("plan: snapshot in place"), Step("file: written", 2), Step("plan: in place")),
]
_FEW = ("--limit", "120")
AFTER_CALLS = [
    *(Step("placeholders: listed", 1, _FEW, alike=5), Step("placeholder: voided", 2, _FEW)),
    *(Step("shards: to be written", 1, _FEW), Step("shard: group written", 2, _FEW), Step("shard: written", 1, _FEW)),
    *(Step("shards: to be moved", 1, _FEW), Step("shard: moved", 1, _FEW), Step("shards: moved", 1, _FEW)),
    *(Step("shards: in place", 1, _FEW), Step("card: to be written", 1, _FEW), Step("card: in place", 1, _FEW)),
    *(Step("dataset: to be swept", 1, _FEW), Step("run: to be recorded as ended", 1, _FEW)),
    Step("run: recorded as ended", 1, _FEW),
]
"""Of a small dataset, which grows afterwards."""
WITH_CALLS = [
    *(Step("part: answered", 3), Step("part: written", 3), Step("part: in place", 3), Step("file: written", 5)),
    *(Step("part: manifest in place", 3), Step("part: manifest removed", 2, ("--rebuild",))),
    *(Step("generation: to be asked for", 110), Step("generation: answered", 60)),
    Step("budget: noted", 150, ("--max-images", "100000")),
    *(Step("store: image to be written", 60), Step("store: image written", 60), Step("store: record written", 60)),
]
"""The passings are such that by then 50 calls are in flight: a run begins with 4, then 16, then 32."""
AT_THE_END = [Step("shards: to be moved"), Step("shards: moved")]
"""Of the whole dataset, over the shards of the small one."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A run that was killed, and what the model server saw of it.

    where: the crash point, or at which time. in_flight: calls that were not answered yet. lost: calls whose picture is
    not in the store. twice: those of them whose picture had arrived. rows: of all chunks that are whole.
    """

    where: str
    calls: int
    in_flight: int
    lost: int
    twice: int
    rows: int


class Killed:
    """The runs into one folder. kills: so far. calls: that the server has seen of them; alike: those of them that it
    answered with one and the same picture."""

    def __init__(
        self, forking: Forks, server: RemoteModelServer, work: Path, name: str = "out", chunk_rows: int = CHUNK_ROWS
    ) -> None:
        self.server = server
        self.out = work / name
        self.kills: list[Kill] = []
        self.calls = 0
        self.alike = 0
        self.log = work / f"{name}.log"
        self._forks = forking
        self._words = ["generate", "rows.csv", "--out", name, "--model", "inference-endpoints:m"]
        self._words += ["--base-url", server.model_url("m"), "--chunk-rows", str(chunk_rows)]
        self._words += ["--max-concurrency", str(AT_ONCE)]
        self._kept: dict[tuple[str, int], dict[str, Any] | None] = {}

    def at(self, step: Step) -> Kill:
        """Kills a run at a crash point. Raises `AssertionError` where the run does not come there."""
        where = f"{step.point}:{step.passing}"
        self.alike += step.alike
        if step.alike:
            self.server.fail(None, *["same_image"] * step.alike, shared=True)
        self._start(step.options, where)
        ended = self._forks.wait()
        assert ended == -signal.SIGKILL, f"a run to be killed at {where} ended with {ended}: {self.told()}"
        return self._noted(" ".join((where, *step.options)))

    def after_calls(self, calls: int, pause: float) -> Kill:
        """Kills a run `pause` seconds after it has made so many calls; its whole process group, as a person would."""
        pid = self._start((), None)
        self.server.wait_for_calls(self.calls + calls, timeout=60)
        return self._kill(pid, pause, f"{pause:.2f} s after call {calls}")

    def after(self, seconds: float) -> Kill:
        """Kills a run so many seconds after its start, or not where it ends before."""
        return self._kill(self._start((), None), seconds, f"after {seconds:.2f} s")

    def to_the_end(self) -> None:
        """An undisturbed run. Raises `AssertionError` where it fails."""
        self._start((), None)
        ended = self._forks.wait()
        assert ended == DONE, f"the run ended with {ended}: {self.told()}"
        self.calls = len(self.server.calls)

    def told(self) -> str:
        """The last of what the commands wrote."""
        return self.log.read_text(errors="replace")[-3000:]

    def kept(self) -> set[str]:
        """The hashes of the pictures in the store. Raises `AssertionError` where a record or a picture is not whole."""
        store = self.out / "_imagetask" / "store"
        known, self._kept = self._kept, {}
        for path in store.glob("*/*.json"):
            written = (path.name, path.stat().st_mtime_ns)
            picture = known.get(written) or json.loads(path.read_bytes()).get("image")
            if picture is not None and written not in known:
                assert sha256((store / picture["path"]).read_bytes()).hexdigest() == picture["sha256"]
            self._kept[written] = picture
        return {picture["sha256"] for picture in self._kept.values() if picture is not None}

    def _start(self, options: Sequence[str], crash_at: str | None) -> int:
        words = [*self._words, *options]
        return self._forks.start(Command(words, str(self.out.parent), str(self.log), crash_at))

    def _kill(self, pid: int, pause: float, where: str) -> Kill:
        time.sleep(pause)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        ended = self._forks.wait()
        assert ended in (-signal.SIGKILL, DONE), f"a run to be killed {where} ended with {ended}: {self.told()}"
        return self._noted(where if ended else f"{where}: it had ended")

    def _noted(self, where: str) -> Kill:
        while self.server.counts().in_flight:
            time.sleep(0.01)
        seen, kept = self.server.calls, self.kept()
        lost = [call for call in seen[self.calls :] if call.sha256 not in kept]
        twice = sum(call.delivered for call in lost)
        _, counts = counts_so_far(self.out)
        self.kills.append(Kill(where, len(seen) - self.calls, len(lost) - twice, len(lost), twice, counts.rows))
        self.calls = len(seen)
        return self.kills[-1]


@contextmanager
def killing(work: Path, env: Mapping[str, str], rows: int) -> Iterator[tuple[Killed, Killed]]:
    """Two folders for the same `rows` rows, every tenth equal to another in its prompt: one for killed runs, one for an
    undisturbed one, which is cut into other chunks. env: names a Prefect server. work: an empty folder."""
    prompts = (f"picture {i if i % 10 else i // 2},{i}" for i in range(rows))
    (work / "rows.csv").write_text("prompt,number\n" + "".join(f"{prompt}\n" for prompt in prompts))
    env = environment(work, **{"HF_TOKEN": "hf_of_nobody", **env})
    with start_model_server(latency=LATENCY) as server, forks(env) as forking:
        server.behave({"repeatable": True})
        yield Killed(forking, server, work), Killed(forking, server, work, "undisturbed", 10 * CHUNK_ROWS)


def kill_everywhere(killed: Killed) -> Iterator[Kill]:
    """Kills a run at every crash point, and gives each when it has died; the dataset is not whole at the end."""
    for step in (*BEFORE_CALLS, *AFTER_CALLS, *WITH_CALLS):
        yield killed.at(step)


def kill_at_random(killed: Killed, number: int, moments: random.Random) -> Iterator[Kill]:
    """Kills so many runs while their calls are under way."""
    for _ in range(number):
        yield killed.after_calls(moments.randint(10, 120), moments.uniform(0.0, LATENCY))


def finish(killed: Killed) -> Iterator[Kill]:
    """Kills the runs that replace the shards; then one run goes on to the end, over the debris of still other kills."""
    for step in AT_THE_END:
        yield killed.at(step)
    leave_debris(killed.out)
    killed.to_the_end()


def leave_debris(out: Path) -> None:
    """What a kill in the middle of a system call can leave: no point is there."""
    state = out / "_imagetask"
    record = next((state / "store").glob("*/*.json"))
    for path in (
        out / ".README.md.12345",
        state / "plan" / ".rows.parquet",
        state / "plan" / ".plan.json.12345",
        state / "parts" / f"{'0' * 32}.writing",
        state / "parts" / f".{'0' * 32}.json.12345",
        state / ".run.json.12345",
        state / ".train-00000.parquet",
        record.with_name(f"{record.name}#1"),
    ):
        path.write_bytes(b"PAR1 half a fi")
    (state / "parts" / f"{'0' * 32}.parquet").write_bytes(b"PAR1 a part without its manifest")


def debris(out: Path) -> list[str]:
    """Hidden files in the folder, and parts without a manifest; those in the store are swept when they are old."""
    state = out / "_imagetask"
    parts = (path for path in (state / "parts").iterdir() if not path.with_suffix(".json").is_file())
    hidden = (path for folder in (out, out / "data", state, state / "plan") for path in folder.glob(".*"))
    return sorted(str(path.relative_to(out)) for path in (*hidden, *parts))


def delivered_again(calls: Sequence[Call]) -> int:
    """Pictures that arrived more often than once, by the server's own count; they are the same bytes each time."""
    times = Counter(call.sha256 for call in calls if call.delivered)
    return sum(count - 1 for count in times.values())


def rows_of(out: Path) -> pl.DataFrame:
    """The dataset without what may differ; of its images the bytes and the names."""
    return ImageDataset(out).scan().drop(MAY_DIFFER).collect()


def differences(made: pl.DataFrame, expected: pl.DataFrame) -> list[str]:
    """In which columns the two differ, and the first rows there; or how their shapes or names do."""
    if made.height != expected.height or made.columns != expected.columns:
        return [f"{made.shape} {made.columns}", f"{expected.shape} {expected.columns}"]
    found = []
    for name in made.columns:
        rows = made[name].ne_missing(expected[name]).arg_true().head(3)
        if len(rows) or made[name].dtype != expected[name].dtype:
            number = made.select("number")[rows].to_series().to_list()
            found.append(
                f"{name} of rows {number}: {made[name][rows].to_list()} {expected[name][rows].to_list()}"[:300]
            )
    return found


def broken_promises(killed: Killed, undisturbed: Killed, rows: int) -> list[str]:
    """What of the promise does not hold, after the last run into both folders; the ledger is of `killed` alone."""
    calls, kills = killed.server.calls[: killed.calls], killed.kills
    made, expected = rows_of(killed.out), rows_of(undisturbed.out)
    lost, twice = sum(kill.lost for kill in kills), delivered_again(calls)
    at_most = AT_ONCE + BEING_CHECKED
    checks = {
        f"{rows - made.height} rows lost": made.height != rows,
        f"an undisturbed run gives other values: {differences(made, expected)}": not made.equals(expected),
        f"{len(calls)} calls for {rows} rows, {killed.alike} placeholders and {lost} lost calls": (
            len(calls) != rows + killed.alike + lost
        ),
        f"{twice} pictures delivered again, {lost} in flight": twice > lost + killed.alike - 1,
        f"more than {at_most} calls lost by one kill": any(kill.lost > at_most for kill in kills),
        f"debris left: {debris(killed.out)}": bool(debris(killed.out)),
    }
    return [text for text, broken in checks.items() if broken]
