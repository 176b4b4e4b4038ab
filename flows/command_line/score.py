"""The command `imagetask score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .terminal import DONE, console, if_interrupted, say

if TYPE_CHECKING:
    import polars as pl


def score(
    folder: Annotated[Path, Parameter(help="Folder of the dataset.")],
    /,
    *,
    scorer: Annotated[
        list[str] | None,
        Parameter(help="Repeatable. A function of yours, as in my_scorers:score; the folder keeps it.", negative=()),
    ] = None,
) -> int:
    """Score the pictures in FOLDER: blank, blurred, alike. None is removed, and each is scored once.

    The scores are a table beside the rows, quality/train-00000.parquet; export --keep selects by them.
    """
    import polars as pl
    from rich.progress import Progress

    from imagetask.card import write_card
    from imagetask.columns import flat
    from imagetask.layout import Layout, alone_in
    from imagetask.quality import scan_scored, scored
    from imagetask.shards import shard_files

    layout = Layout(folder)
    shard_files(layout)
    progress = Progress(console=console, transient=True, disable=not console.is_terminal)
    with if_interrupted("Interrupted. The scores are as they were before."), alone_in(layout), progress as bar:
        pictures = bar.add_task("pictures", total=None)
        scored(layout, scorer or (), told=lambda more: bar.update(pictures, advance=more), say=say)
        write_card(layout)
    scores = scan_scored(layout).select("blank", "blur", "near_duplicate_group", "same_bytes_group", "duplicate")
    found = scores.collect()
    _say_what_there_is(folder, found.height, pl.DataFrame({name: flat(found[name]) for name in found.columns}))
    return DONE


def _say_what_there_is(folder: Path, rows: int, found: pl.DataFrame) -> None:
    blur = found["blur"].drop_nulls()
    say(f"{folder}: {rows:,} rows, pictures scored: {len(blur):,}")
    say(f"blank: {found['blank'].sum():,}")
    if len(blur):
        middle, least = blur.quantile(0.5), blur.quantile(0.0)
        say(f"blur (the lower, the more blurred): median {middle:,.0f}, lowest {least:,.0f}")
    for name, words in (("near_duplicate_group", "look alike"), ("same_bytes_group", "have the same bytes")):
        say(f"groups of pictures that {words}: {found[name].drop_nulls().n_unique():,}")
    say(f"duplicates of one that stands before: {found['duplicate'].sum():,}")
    say(f"the scores: {folder / 'quality' / 'train-00000.parquet'}")
