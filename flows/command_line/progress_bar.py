"""What a person sees while a run goes on in this process, and at its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from imagetask.models.budget import spent
from imagetask.settings import RunSettings

from .. import monitoring
from ..watching.failures_told import examples
from ..wording import by_kind, paid_for

_LINE_SECONDS = 15.0


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Shows the progress of the run in this process: a bar on a terminal, else a line now and then."""
    ended = threading.Event()
    watch = threading.Thread(target=_bar if console.is_terminal else _lines, args=(console, ended), daemon=True)
    monitoring.tell_estimate(lambda estimate: console.print(f"{estimate}", highlight=False, soft_wrap=True))
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
            text = f"{progress.finished} of {progress.total} done, {_speed(progress)} {_note(progress)}"
            console.print(text.rstrip(), highlight=False)


def _speed(progress: monitoring.Progress) -> str:
    return f"{progress.mean_speed / 60:.1f}/s"


def _note(progress: monitoring.Progress) -> str:
    kinds = by_kind(progress.failed)
    failed = f"failed: {kinds}" if kinds else ""
    waiting = f"waiting ({progress.waiting})" if progress.waiting else ""
    return " · ".join(text for text in (failed, waiting) if text)


def print_summary(
    console: Console,
    out: Path,
    settings: RunSettings,
    counts: Mapping[str, Any],
    seconds: float,
    *,
    budget_reached: bool = False,
) -> None:
    """A short table of what became of the rows, and how to open the dataset. out: the folder as it was given.

    budget_reached: whether rows are pending for lack of one.
    """
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("rows", f"{counts['rows']:,}")
    table.add_row("images", f"{counts['done']:,}" + (f" ({counts['reused']:,} reused)" if counts["reused"] else ""))
    for kind, found in examples(settings, counts["failed"], {}).items():
        why = f", as in: {found[0].message}" if found else ""
        table.add_row("failed", escape(f"{counts['failed'][kind]:,} {kind}{why}"))
    if counts["pending"] or budget_reached:
        larger = "the budget was reached; the same with a larger one goes on"
        why = larger if budget_reached else "they were not to be tried again; imagetask generate goes on with them"
        table.add_row("pending", f"{counts['pending']:,}: {why}")
    so_far = spent(settings.layout.spent)
    if so_far.usd or so_far.unpriced or budget_reached:
        table.add_row(
            "so far", f"{paid_for(so_far)}; by all runs into this folder, calls that may be charged with them"
        )
    table.add_row("time", f"{seconds:.1f} s")
    console.print(table)
    shown_path = escape(repr(str(out)))
    if counts["failed"]:
        console.print(f"Failed rows: [bold]imagetask.ImageDataset({shown_path}).failures()[/bold]")
    console.print(
        f"Open it: [bold]imagetask.ImageDataset({shown_path})[/bold]"
        f"  or  [bold]datasets.load_dataset({shown_path})[/bold]",
        highlight=False,
        soft_wrap=True,
    )
