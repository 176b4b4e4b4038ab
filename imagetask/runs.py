"""What the last run into a dataset folder was asked, and how it went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from imagetask.crash_points import reach
from imagetask.errors import DatasetError
from imagetask.layout import Layout, read_json, write_json
from imagetask.parts import finished_chunks
from imagetask.plan import read_plan
from imagetask.retry_settings import Retry
from imagetask.settings import RunSettings

RUN_VERSION = 2
"""Of the record of a run. A field that is new has a default, so that the records of earlier versions can be read."""

RunState = Literal["running", "finished", "stopped"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Generations by what became of them. reused: not asked for in this run. failed: by kind. failed_rows: rows of the
    source, for each model, of which one failed. pending: not asked for, since a budget was reached."""

    rows: int = 0
    generations: int = 0
    done: int = 0
    reused: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    failed_rows: int = 0
    pending: int = 0

    @classmethod
    def of(cls, manifests: Iterable[Mapping[str, Any]]) -> Counts:
        failed: Counter[str] = Counter()
        rows = generations = reused = failed_rows = pending = 0
        for manifest in manifests:
            failed.update(manifest["failed"])
            rows += manifest["stop"] - manifest["start"]
            generations += manifest["generations"]
            reused += manifest["reused"]
            failed_rows += manifest["failed_rows"]
            pending += manifest["pending"]
        done = generations - failed.total() - pending
        return cls(rows, generations, done, reused, dict(failed), failed_rows, pending)


@dataclass(frozen=True, slots=True)
class Run:
    """The record of a run, kept in the dataset folder. Times are seconds since 1970.

    started_in: the working folder, from which relative paths of the settings count. id: the scheduler's, if any.
    retry: what is tried again, where it is a run of that kind. budget_reached: it left rows for lack of a budget.
    """

    settings: RunSettings
    state: RunState
    started_at: float
    started_in: str
    id: str | None = None
    finished_at: float | None = None
    message: str | None = None
    retry: Retry | None = None
    budget_reached: bool = False

    @property
    def retry_left(self) -> Retry | None:
        """The retry that is gone on with; None where it is done: imagetask generate asks for what else is left."""
        return self.retry if self.state != "finished" or self.budget_reached else None

    @classmethod
    def start(cls, settings: RunSettings, run_id: str | None = None, retry: Retry | None = None) -> Run:
        """A new run; its record is written."""
        return cls(settings, "running", time.time(), str(Path.cwd()), run_id, retry=retry)._written()

    def end(self, state: RunState, message: str | None = None, *, budget_reached: bool = False) -> Run:
        """The same run, ended; its record is written."""
        now = time.time()
        return replace(self, state=state, finished_at=now, message=message, budget_reached=budget_reached)._written()

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """The last run into a folder. Raises `DatasetError` where there was none."""
        known = read_json(Layout(Path(folder)).run)
        if known is None or known.get("version") != RUN_VERSION:
            raise DatasetError(f"no run was started in {folder}: expected a folder that imagetask generate wrote")
        known.pop("version")
        retry = known.get("retry")
        return cls(
            **{
                **known,
                "settings": RunSettings(**known["settings"]),
                "retry": None if retry is None else Retry(**retry),
            }
        )

    @classmethod
    def last(cls, folder: str | Path) -> Run | None:
        """The last run into a folder, or None where there was none that can be read."""
        try:
            return cls.read(folder)
        except (DatasetError, ValueError, TypeError, KeyError):
            return None

    def _written(self) -> Run:
        fields = {
            "version": RUN_VERSION,
            **asdict(self),
            "settings": self.settings.model_dump(mode="json"),
            "retry": None if self.retry is None else self.retry.model_dump(mode="json"),
        }
        reach("run: to be recorded" if self.state == "running" else "run: to be recorded as ended")
        write_json(self.settings.layout.run, fields)
        reach("run: recorded as running" if self.state == "running" else "run: recorded as ended")
        return self


def counts_of_parts(layout: Layout) -> Counts:
    """What became of the generations of a plan's finished chunks, by their manifests."""
    return Counts.of(manifest for _, manifest in finished_chunks(layout))


def counts_so_far(folder: str | Path) -> tuple[int, Counts]:
    """Of a folder's plan: how many generations there are to be, and what became of those in finished chunks."""
    layout = Layout(Path(folder).absolute())
    plan = read_plan(layout)
    if plan is None:
        return 0, Counts()
    return plan.generations, counts_of_parts(layout)
