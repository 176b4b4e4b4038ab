"""What stands where in a dataset folder, and how small files in it are written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from imagetask.crash_points import reach
from imagetask.errors import DatasetError, StorageError

FORMAT_VERSION = 3
"""Of plan, parts and shards; part of every digest, so that a new format makes them anew, from the store."""

_TEMPORARY = re.compile(r"\..+\.\d+|\.(train-\d+|rows|ordinals)\.parquet")
"""Names of files that are being written."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of a dataset folder `root`.

    README.md and data/ are the dataset; `_imagetask/` is what it takes to go on.
    """

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def card(self) -> Path:
        return self.root / "README.md"

    @property
    def card_sheet(self) -> Path:
        """The picture in the card: images from all over the dataset."""
        return self.root / "contact-sheet.jpg"

    @property
    def quality(self) -> Path:
        """What the pictures were scored, row for row."""
        return self.root / "quality"

    @property
    def contact_sheet(self) -> Path:
        """The picture of a preview."""
        return self.root / "contact-sheet.png"

    @property
    def newest(self) -> Path:
        """The picture of the newest images, while a run goes on."""
        return self.state / "newest.jpg"

    @property
    def report(self) -> Path:
        """What the last run came to, for people."""
        return self.state / "report.md"

    @property
    def report_picture(self) -> Path:
        """The picture in the report: images from all over the dataset."""
        return self.state / "report.jpg"

    @property
    def state(self) -> Path:
        return self.root / "_imagetask"

    @property
    def rows(self) -> Path:
        """The snapshot of the source: its columns, as they were."""
        return self.state / "plan" / "rows.parquet"

    @property
    def ordinals(self) -> Path:
        """Beside the snapshot, row for row: `ordinal` (UInt32) and `row_id` (text)."""
        return self.state / "plan" / "ordinals.parquet"

    @property
    def plan(self) -> Path:
        return self.state / "plan" / "plan.json"

    @property
    def failed(self) -> Path:
        """The rows that the last `imagetask retry` was to try again: `model` (text) and `row` (UInt32, of the plan)."""
        return self.state / "plan" / "failed.parquet"

    @property
    def instead(self) -> Path:
        """Which rows that failed were tried again, and with which models and seeds."""
        return self.state / "plan" / "instead.parquet"

    @property
    def placeholders(self) -> Path:
        """Which generations are being voided."""
        return self.state / "plan" / "placeholders.json"

    @property
    def spent(self) -> Path:
        """What the dataset's images cost so far, call by call."""
        return self.state / "spent.txt"

    @property
    def parts(self) -> Path:
        return self.state / "parts"

    @property
    def parts_lock(self) -> Path:
        """Held while a part and its manifest take their places."""
        return self.state / "parts.lock"

    @property
    def results(self) -> Path:
        """Where the scheduler keeps the results of chunks."""
        return self.state / "results"

    @property
    def run(self) -> Path:
        """What the last run was asked, and how it went."""
        return self.state / "run.json"

    @property
    def lock(self) -> Path:
        """Held by the run that writes into the folder."""
        return self.state / "lock"

    @property
    def shards(self) -> Path:
        return self.state / "shards.json"

    @property
    def pushed(self) -> Path:
        """Where the dataset was pushed to, and which shards may be there: these keep their rows."""
        return self.state / "pushed.json"

    @property
    def store(self) -> Path:
        return self.state / "store"

    def check(self) -> None:
        """Raises `DatasetError` where the folder is a file, or holds something that is not a dataset of ours."""
        if self.root.exists() and not self.root.is_dir():
            raise DatasetError(f"{self.root} is a file: give a folder for the dataset")
        if self.root.is_dir() and not self.is_ours and self._holds_something():
            raise DatasetError(f"{self.root} already holds something else: choose a new or an empty folder")

    @property
    def is_ours(self) -> bool:
        """Whether a run or a preview was started in the folder, or a dataset made. One that came from elsewhere is not
        ours, also where it was scored here: what its pictures were made of is not known."""
        return any(file.is_file() for file in (self.run, self.shards, self.spent, self.plan))

    def _holds_something(self) -> bool:
        """Beside a preview, and the empty folders that a run makes first."""
        others = [path for path in self.root.iterdir() if path not in (self.state, self.contact_sheet)]
        if self.state.is_dir():
            return any(not path.is_dir() or any(path.iterdir()) for path in others)
        return bool(others)

    def make(self) -> None:
        """Checks and makes the folder, and those in it. Raises `DatasetError`."""
        self.make_state()
        self._make(self.data, self.parts, self.results, self.rows.parent)

    def make_state(self) -> None:
        """Checks and makes the folder, with no more in it than what it takes to hold it. Raises `DatasetError`."""
        self.check()
        self._make(self.state)

    def _make(self, *folders: Path) -> None:
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f"{self.root} cannot be written: {error.strerror}; choose another folder") from error


@contextmanager
def alone_in(layout: Layout) -> Iterator[None]:
    """Holds the dataset folder for one writer; a lock of a process that died holds nothing, and its debris is swept.

    Raises `DatasetError` where another one, in this process or another, holds it, or where it cannot be written.
    """
    lock = FileLock(layout.lock, mode=0o666)
    try:
        lock.acquire(timeout=1.0)
    except Timeout:
        raise DatasetError(f"another run is writing into {layout.root}: wait for it to end, or stop it") from None
    except OSError as error:
        raise DatasetError(f"{layout.root} cannot be written: {error.strerror}; choose another folder") from error
    try:
        _sweep(layout)
        yield
    finally:
        lock.release()


def _sweep(layout: Layout) -> None:
    """Removes what a killed writer left half written: nobody else is writing while the folder is held."""
    for folder in (layout.root, layout.state, layout.plan.parent):
        for path in folder.glob(".*"):
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def is_running(layout: Layout) -> bool:
    """Whether a run holds the dataset folder. Raises `DatasetError` where that cannot be seen."""
    if not layout.lock.is_file():
        return False
    try:
        with FileLock(layout.lock, timeout=0, mode=0o666):
            return False
    except Timeout:
        return True
    except OSError as error:
        raise DatasetError(f"{layout.lock} cannot be opened: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all. Raises `StorageError`."""
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    write_whole(path, text.encode("utf-8", "surrogatepass"))  # as in a path that is not UTF-8


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all. Raises `StorageError`."""
    temporary = path.with_name(f".{path.name}.{uuid4().int}")
    try:
        temporary.write_bytes(data)
        reach("file: written")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"could not write {path}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds, or None where it is not there or is no JSON. Raises `StorageError` where it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise StorageError(f"could not read {path}: {error.strerror}") from error
    return value if isinstance(value, dict) else None
