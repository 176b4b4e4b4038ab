"""Failed rows that are tried again: which they are, and what they were tried with before."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from imagetask.layout import Layout
from imagetask.models.identity import Identity
from imagetask.parts import finished_chunks, part_path
from imagetask.plan import Chunk
from imagetask.snapshot import write_frame
from imagetask.tried_instead import add_instead

_ROWS = {"model": pl.String, "row": pl.UInt32}


def failed_rows(layout: Layout, kinds: Sequence[str]) -> pl.DataFrame:
    """The rows of the plan's finished chunks that failed: `model` (text) and `row` (UInt32, of the plan).

    kinds: of the failures; none for all. Rows that the last retry was to try, and did not reach, are among them.
    """
    left = _marks(layout).collect()
    found = [
        _failed_rows(layout, chunk, kinds, left.filter(model=chunk.model)["row"])
        for chunk, manifest in finished_chunks(layout)
        if manifest["failed"] or manifest["pending"]
    ]
    return pl.concat(found) if found else pl.DataFrame(schema=_ROWS)


def mark_failed(layout: Layout, kinds: Sequence[str]) -> None:
    """Writes down which rows `failed_rows` gives, for `marked`."""
    write_frame(layout.failed, failed_rows(layout, kinds))


def _failed_rows(layout: Layout, chunk: Chunk, kinds: Sequence[str], left: pl.Series) -> pl.DataFrame:
    """left: rows that were to be tried again before."""
    part = pl.read_parquet(part_path(layout, chunk.digest), columns=["status", "error_kind", "attempts"])
    each = part.height // (chunk.stop - chunk.start)  # several generations of a row are several rows of the part
    rows = part.with_columns(row=(pl.int_range(pl.len()) // each + chunk.start).cast(pl.UInt32))
    if isinstance(rows.schema["error_kind"], pl.List):
        rows = rows.explode("error_kind", "attempts")
    failed = pl.col("error_kind").is_in(list(kinds)) if kinds else pl.col("error_kind").is_not_null()
    unreached = pl.col("error_kind").is_null() & (pl.col("status") != "done") & (pl.col("attempts") > 0)
    wanted = failed.fill_null(value=False) | (unreached & pl.col("row").is_in(left.implode()))
    return rows.filter(wanted).select("row", model=pl.lit(chunk.model)).select(*_ROWS).unique(maintain_order=True)


def _marks(layout: Layout) -> pl.LazyFrame:
    """What `mark_failed` wrote down last; no rows where it never did."""
    return pl.scan_parquet(layout.failed) if layout.failed.is_file() else pl.LazyFrame(schema=_ROWS)


def marked(layout: Layout, chunk: Chunk) -> list[bool]:
    """Of each row of a chunk whether it is to be tried again, as `mark_failed` wrote it down."""
    inside = (pl.col("model") == chunk.model) & pl.col("row").is_between(chunk.start, chunk.stop - 1)
    rows = set(_marks(layout).filter(inside).collect()["row"].to_list())
    return [row in rows for row in range(chunk.start, chunk.stop)]


def note_instead(layout: Layout, model: str, identity: Identity) -> None:
    """Writes down with what the rows that `mark_failed` found are tried again in place of a model of the run."""
    marks = _marks(layout).filter(pl.col("model") == model)
    rows = pl.scan_parquet(layout.ordinals).with_row_index("row").join(marks, on="row", how="semi")
    add_instead(layout, model, rows.collect()["row_id"], identity)
