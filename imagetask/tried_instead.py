"""With which models and seeds failed rows of a dataset were tried again: of each row, whatever plan it stands in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import polars as pl

from imagetask.errors import StorageError
from imagetask.layout import Layout
from imagetask.models.identity import Identity
from imagetask.snapshot import write_frame

_ROWS = {"model": pl.String, "row_id": pl.String, "identity": pl.String}
"""A row and one of the run's models, and with what it was tried in its place (JSON), in the order of trying."""


def tried_instead(layout: Layout, model: str, row_ids: Sequence[str]) -> list[list[Identity]]:
    """Of each row with which models and seeds it was tried again in place of one of the run's, the first first.

    Raises `StorageError` where what is known cannot be read.
    """
    known = _known(layout).filter(pl.col("model") == model, pl.col("row_id").is_in(list(row_ids)))
    found: dict[str, list[Identity]] = {}
    for row_id, identity in known.select("row_id", "identity").iter_rows():
        found.setdefault(row_id, []).append(Identity(**json.loads(identity)))
    return [found.get(row_id, []) for row_id in row_ids]


def add_instead(layout: Layout, model: str, row_ids: pl.Series, identity: Identity) -> None:
    """Writes down that these rows are tried again so: the runs to come find what came of it. Raises `StorageError`."""
    text = json.dumps(asdict(identity), sort_keys=True)
    new = pl.DataFrame({"row_id": row_ids}).select(pl.lit(model).alias("model"), "row_id", identity=pl.lit(text))
    rows = pl.concat([_known(layout), new]).unique(keep="first", maintain_order=True)
    write_frame(layout.instead, rows)


def _known(layout: Layout) -> pl.DataFrame:
    if not layout.instead.is_file():
        return pl.DataFrame(schema=_ROWS)
    try:
        return pl.read_parquet(layout.instead).select(*_ROWS)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StorageError(
            f"{layout.instead} is damaged: remove it, and rows that were tried again with another model are asked of "
            "their own once more"
        ) from error
