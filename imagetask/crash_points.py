"""Named points between any two steps that make something durable, at which a test can kill the process.

`IMAGETASK_CRASH_AT="store: image written:3"` kills it, as kill -9 does, when it comes to that point for the third time.
Where the variable is not set, as in every run of a user, a point costs some 50 ns and does nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from threading import Lock
from typing import Literal, get_args

VARIABLE = "IMAGETASK_CRASH_AT"
"""Environment variable: the name of a point, and behind a colon at which of its passings to die (default 1)."""

CrashPoint = Literal[
    "run: to be recorded",
    "run: recorded as running",
    "plan: to be written",
    "plan: rows written",
    "plan: ordinals in place",
    "plan: snapshot in place",
    "plan: in place",
    "generation: to be asked for",
    "generation: answered",
    "budget: noted",
    "store: image to be written",
    "store: image written",
    "store: record written",
    "part: answered",
    "part: written",
    "part: manifest removed",
    "part: in place",
    "part: manifest in place",
    "file: written",
    "placeholders: listed",
    "placeholder: voided",
    "shards: to be written",
    "shard: group written",
    "shard: written",
    "shards: to be moved",
    "shard: moved",
    "shards: moved",
    "shards: in place",
    "card: to be written",
    "card: in place",
    "dataset: to be swept",
    "run: to be recorded as ended",
    "run: recorded as ended",
]

CRASH_POINTS: Mapping[CrashPoint, str] = {
    "run: to be recorded": "the folder is made and held",
    "run: recorded as running": "run.json says what is asked",
    "plan: to be written": "the source is checked",
    "plan: rows written": "the new rows are beside their place",
    "plan: ordinals in place": "new ordinals, old rows",
    "plan: snapshot in place": "new rows and ordinals, old plan.json",
    "plan: in place": "the chunks are known",
    "generation: to be asked for": "a place was given, the call is about to be made",
    "generation: answered": "the picture is in memory, and paid for",
    "budget: noted": "what a call cost, or may cost, is in the ledger",
    "store: image to be written": "the picture was checked",
    "store: image written": "the picture is a file, its record is not",
    "store: record written": "the generation is durable, and nobody was told",
    "part: answered": "the rows of a chunk have all their generations in the store",
    "part: written": "the part is beside its place",
    "part: manifest removed": "an older manifest of this part is gone",
    "part: in place": "the part has no manifest",
    "part: manifest in place": "the part is whole, Prefect was not told",
    "file: written": "a small file (a record of the run, a manifest, the card, …) is beside its place",
    "placeholders: listed": "pictures that came for several prompts are written down, and still count",
    "placeholder: voided": "one of them counts no longer, and there are no parts that hold them",
    "shards: to be written": "all parts are whole",
    "shard: group written": "a shard is half written, beside its place",
    "shard: written": "a shard is whole, beside its place",
    "shards: to be moved": "shards.json says that these shards are not to be trusted",
    "shard: moved": "a new shard stands in the dataset, others do not yet",
    "shards: moved": "all shards are new, shards.json does not know them",
    "shards: in place": "the shards are whole, the card is an old one or none",
    "card: to be written": "what the card says is known",
    "card: in place": "the dataset is whole",
    "dataset: to be swept": "parts that no chunk has any more are still there",
    "run: to be recorded as ended": "all is done, run.json says running",
    "run: recorded as ended": "run.json says how it ended, the report is an old one or none",
}
"""What there is when the process dies at each point, in the order in which a run comes by."""


class _Armed:
    """One point, at one of its passings."""

    def __init__(self, at: str) -> None:
        name, _, passing = at.rpartition(":") if at[-1:].isdigit() else (at, "", "1")
        if name not in get_args(CrashPoint):
            raise ValueError(f"{VARIABLE}={at}: there is no such point; there are {', '.join(CRASH_POINTS)}")
        self.name = name
        self._left = int(passing)
        self._lock = Lock()

    def pass_by(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                _die()


def reach(name: CrashPoint) -> None:
    """Says that the process is at a point: where a test asked for that, it dies here."""
    if _armed is not None and _armed.name == name:
        _armed.pass_by()


def arm(at: str | None) -> None:
    """Sets where this process is to die, as `VARIABLE` does; None for nowhere. Raises `ValueError`."""
    global _armed
    _armed = _Armed(at) if at else None


def _die() -> None:
    """Ends this process, and the group that it leads; a group that another one leads (a shell's) goes on."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None
arm(os.environ.get(VARIABLE))
