"""The command `imagetask score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .terminal import DONE, if_interrupted, say


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

    from imagetask.card import write_card
    from imagetask.layout import Layout, alone_in
    from imagetask.quality import scan_scored, scored
    from imagetask.shards import shard_files

    layout = Layout(folder)
    shard_files(layout)
    with if_interrupted("Interrupted. The scores are as they were before."), alone_in(layout):
        scored(layout, scorer or (), say=say)
        write_card(layout)
        rows = scan_scored(layout)
    scores = pl.col("blank", "blur", "near_duplicate_group", "same_bytes_group", "duplicate")
    found = rows.select(scores).collect()
    found = found.explode(found.columns) if isinstance(found.schema["blank"], pl.List) else found
    blur = found["blur"].drop_nulls()
    middle = f"median {blur.median():,.0f}, lowest {blur.min():,.0f}" if len(blur) else "none"
    say(f"{folder}: {len(blur):,} pictures scored, of {len(found):,} rows")
    say(f"blank: {int(found['blank'].sum()):,}")
    say(f"blur (the lower, the more blurred): {middle}")
    for name in ("near_duplicate_group", "same_bytes_group"):
        say(f"{name}: {found[name].n_unique() - bool(found[name].null_count()):,} groups")
    say(f"duplicate (another one stands before it): {int(found['duplicate'].sum()):,}")
    say(f"the scores: {folder / 'quality'}")
    return DONE
