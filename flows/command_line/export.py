"""The command `imagetask export`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from .terminal import DONE, console, if_interrupted, say

if TYPE_CHECKING:
    from imagetask.exports import Exported

_WHICH = Group("Which rows, and where", sort_key=1)
_PICTURES = Group("Pictures", help="Without these, every picture keeps the provider's own bytes.", sort_key=2)


def export(
    folder: Annotated[Path, Parameter(help="Folder of the dataset.")],
    /,
    *,
    to: Annotated[Path, Parameter(help="New folder for the export.", group=_WHICH)],
    format: Annotated[
        Literal["parquet", "imagefolder", "webdataset"],
        Parameter(help="parquet holds all rows; imagefolder and webdataset hold those with a picture.", group=_WHICH),
    ] = "parquet",
    keep: Annotated[
        str | None,
        Parameter(
            help="Polars SQL expression over the columns, also those of quality, that is true of the rows to keep: "
            "\"status = 'done' AND NOT blank\".",
            group=_WHICH,
        ),
    ] = None,
    split: Annotated[
        str | None,
        Parameter(
            help="Splits and their shares, by a hash of row_id: train=0.9,validation=0.05,test=0.05. A row keeps its "
            "split when rows are added.",
            group=_WHICH,
        ),
    ] = None,
    image_format: Annotated[
        Literal["webp", "jpeg", "png"] | None,
        Parameter(help="Encode pictures so, where they are not so already.", group=_PICTURES),
    ] = None,
    image_quality: Annotated[
        int | None, Parameter(help="Of WebP or JPEG, 1 to 100; 90 where it is not given.", group=_PICTURES)
    ] = None,
    max_side: Annotated[
        int | None,
        Parameter(help="Make pictures smaller whose longer side has more px; none is enlarged.", group=_PICTURES),
    ] = None,
) -> int:
    """Write the dataset in FOLDER to the new folder --to for other tools, without new calls.

    All columns are in it, also those of quality, which are brought up to date first. It is there whole, or not at all.
    """
    from imagetask.exports import export as write_export
    from imagetask.exports import read_split
    from imagetask.layout import Layout

    shares = None if split is None else read_split(split)
    with if_interrupted("Interrupted. Nothing is left of the export; the dataset is as it was."), _progress() as told:
        done = write_export(
            Layout(folder),
            to,
            format=format,
            keep=keep,
            image_format=image_format,
            image_quality=image_quality,
            max_side=max_side,
            split=shares,
            told=told,
            say=say,
        )
    _say_what_there_is(done)
    return DONE


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar of the rows that are written, on a terminal."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        row = bar.add_task("rows", total=None)
        yield lambda rows, total: bar.update(row, completed=rows, total=total)


def _say_what_there_is(done: Exported) -> None:
    splits = f": {_counts(done.splits)}" if len(done.splits) > 1 else ""
    say(f"{done.folder}: {done.rows:,} rows in {done.files:,} {'file' if done.files == 1 else 'files'}{splits}")
    if done.left_out:
        say(f"left out by --keep: {done.left_out:,} rows")
    if done.without_picture:
        say(f"left out without a picture: {done.without_picture:,} rows (--format parquet holds them)")
    say(f"open it: {done.opened}")


def _counts(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in splits.items())
