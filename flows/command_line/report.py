"""The command `imagetask report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .terminal import DONE, console, if_interrupted, say


def report(
    folder: Annotated[Path, Parameter(help="Folder of the dataset.")],
    /,
    *,
    to: Annotated[Path | None, Parameter(help="HTML file; default: report.html in FOLDER.")] = None,
) -> int:
    """Write one HTML page to look at the dataset in FOLDER: its pictures, what failed, quality, latency, cost.

    The page needs no network and no other file. The quality columns are brought up to date first.
    """
    from imagetask.layout import Layout
    from imagetask.report import write_report

    with if_interrupted("Interrupted. There is no new report; the dataset is as it was."), _progress() as told:
        place = write_report(Layout(folder), to, told=told, say=say)
    say(f"{place}: {max(0.1, place.stat().st_size / 1e6):,.1f} MB; open it in a browser")
    return DONE


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of the pictures that are in the page, on a terminal."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("pictures", total=None)
        yield lambda cards, total: bar.update(row, completed=cards, total=total)
