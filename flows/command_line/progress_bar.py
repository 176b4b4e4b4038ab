"""What a person sees while a run goes on in this process, and at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from imagetask.dataset import ImageDataset

from .. import monitoring

_LINE_SECONDS = 15.0


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Shows the progress of the run in this process: a bar on a terminal, else a line now and then."""
    ended = threading.Event()
    watch = threading.Thread(target=_bar if console.is_terminal else _lines, args=(console, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _bar(console: Console, ended: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("starting", total=None, speed="", note="")
        while not ended.wait(0.25):
            _update(bar, row)
        _update(bar, row)


def _update(bar: Progress, row: Any) -> None:
    progress = monitoring.current()
    if progress is None:
        return
    bar.update(
        row,
        description="images" if progress.finished < progress.total else "making the dataset",
        total=progress.total,
        completed=progress.finished,
        speed=_speed(progress),
        note=_note(progress),
    )


def _lines(console: Console, ended: threading.Event) -> None:
    while not ended.wait(_LINE_SECONDS):
        progress = monitoring.current()
        if progress is not None:
            text = f"{progress.finished} of {progress.total} images, {_speed(progress)} {_note(progress)}"
            console.print(text.rstrip(), highlight=False)


def _speed(progress: monitoring.Progress) -> str:
    seconds = progress.chunk_seconds or time.monotonic() - progress.started
    return f"{progress.new_images / max(seconds, 0.001):.1f}/s"


def _note(progress: monitoring.Progress) -> str:
    words = [f"{kind} {count}" for kind, count in sorted(progress.failed.items())]
    failed = f"failed: {', '.join(words)}" if words else ""
    waiting = f"waiting ({progress.waiting})" if progress.waiting else ""
    return " · ".join(text for text in (failed, waiting) if text)


def print_summary(console: Console, out: Path, counts: Mapping[str, Any], seconds: float | None = None) -> None:
    """A short table of what became of the rows, and how to open the dataset."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("rows", f"{counts['rows']:,}")
    table.add_row("images", f"{counts['done']:,}" + (f" ({counts['reused']:,} reused)" if counts["reused"] else ""))
    reasons = _reasons(out) if counts["failed"] else {}
    for kind, count in sorted(counts["failed"].items()):
        table.add_row("failed", escape(f"{count:,} {kind}, as in: {reasons.get(kind)}"))
    if seconds is not None:
        table.add_row("time", f"{seconds:.1f} s")
    console.print(table)
    if counts["failed"]:
        console.print(f"Failed rows: [bold]imagetask.ImageDataset({escape(repr(str(out)))}).failures()[/bold]")
    shown_path = escape(repr(str(out)))
    console.print(
        f"Open it: [bold]imagetask.ImageDataset({shown_path})[/bold]"
        f"  or  [bold]datasets.load_dataset({shown_path})[/bold]",
        highlight=False,
        soft_wrap=True,
    )


def _reasons(out: Path) -> dict[str, str]:
    """Kind of failure → the message of the first row that failed so."""
    rows = ImageDataset(out).failures().select("error_kind", "error_message")
    lists = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.List)]
    rows = (rows.explode(lists) if lists else rows).drop_nulls("error_kind").unique("error_kind", keep="first")
    return dict(rows.iter_rows())
