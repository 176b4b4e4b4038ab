"""The folder of an export: whole or not there. It is written beside its place, and takes it at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from imagetask.errors import DatasetError
from imagetask.layout import Layout
from imagetask.snapshot import write_errors

_LOCK = ".lock"


def free_place(to: Path, layout: Layout) -> Path:
    """The place of a new folder. Raises `DatasetError` where something is there, or where it is the dataset's own."""
    place, root = to.resolve(), layout.root.resolve()
    if place == root or root in place.parents or place in root.parents:
        raise DatasetError(f"{to} is in the dataset's own folder, or holds it: export to a folder beside it")
    if place.exists() and not place.is_dir():
        raise DatasetError(f"{to} is a file: give a folder for the export")
    if place.is_dir() and any(place.iterdir()):
        raise DatasetError(f"{to} already holds something: remove it, or give another folder for the export")
    return place


@contextmanager
def written_beside(place: Path) -> Iterator[Path]:
    """A folder beside `place` to write into, which takes its place at the end; an error leaves nothing.

    What a killed export left there is swept. Raises `DatasetError` where another one is writing, `StorageError`.
    """
    beside = place.with_name(f".{place.name}.partial")
    with write_errors(place):
        beside.mkdir(parents=True, exist_ok=True)
    lock = FileLock(beside / _LOCK, mode=0o666)
    with write_errors(place):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DatasetError(f"another export is writing {place}: wait for it to end, or stop it") from None
    try:
        with write_errors(place):
            _clear(beside)
        yield beside
        with write_errors(place):
            if place.is_dir():
                place.rmdir()  # empty: where a folder is renamed onto another, systems differ
            beside.rename(place)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        lock.release()
        for folder in (place, beside):
            with suppress(OSError):
                (folder / _LOCK).unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
