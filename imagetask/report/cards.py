"""The cards of a report: one for each picture that was asked for, with all that its row tells, in a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from imagetask.card.columns import MEANINGS
from imagetask.columns import image_columns
from imagetask.errors import DatasetError
from imagetask.layout import Layout
from imagetask.quality import scan_scored
from imagetask.shards import shard_files

MOST_PICTURES, MOST_OTHERS = 20_000, 2_000
"""Pictures on a page, and rows without one, at most: of more, an even choice is shown."""

_LONGEST = 10_000
"""Characters of one cell that a page holds."""

_READ: Mapping[str, pl.DataType] = {
    "prompt": pl.String(),
    "asked_prompt": pl.String(),
    "model_name": pl.String(),
    "provider": pl.String(),
    "error_kind": pl.String(),
    "error_message": pl.String(),
    "image_size": pl.String(),
    "cost": pl.Float64(),
    "cost_source": pl.String(),
    "latency": pl.Float64(),
    "created_at": pl.Datetime("us", "UTC"),
    "blank": pl.Boolean(),
    "blur": pl.Float64(),
    "colourfulness": pl.Float64(),
    "duplicate": pl.Boolean(),
}
"""What a report reads of each card: a column that a dataset lacks is null."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A finished dataset, to be read lazily. image: its column of pictures, or None. scores: its quality columns.

    source: columns of the source. grouped: a row holds all of its generations, in lists.
    """

    scan: pl.LazyFrame
    schema: pl.Schema
    image: str | None
    scores: Sequence[str]
    source: Sequence[str]

    @property
    def grouped(self) -> bool:
        return isinstance(self.schema["error_kind"], pl.List)

    @classmethod
    def of(cls, layout: Layout) -> Rows:
        """The rows with the quality columns beside them, where these are up to date. Raises `DatasetError`."""
        files = shard_files(layout)
        shards = pq.read_schema(files[0])
        images = image_columns(shards)
        if missing := [name for name in ("row_id", "error_kind", "image_size") if name not in shards.names]:
            raise DatasetError(f"{layout.root} has no column {missing[0]!r}: run the command that made it again")
        try:
            scan = scan_scored(layout)
        except DatasetError:
            scan = pl.scan_parquet(files)
        scan = scan.drop(images)
        schema = scan.collect_schema()
        scores = [name for name in schema if name not in shards.names]
        source = [name for name in shards.names[: shards.names.index("row_id")] if name in schema]
        image = "image" if "image" in images else next(iter(images), None)
        return cls(scan, schema, image, scores, source)

    def of_each_card(self, names: Sequence[str], frame: pl.LazyFrame | None = None) -> pl.LazyFrame:
        """These columns, a row for each card; null where the dataset lacks one. frame: of rows, in place of all."""
        there = [name for name in names if name in self.schema]
        missing = [pl.lit(None, _READ[name]).alias(name) for name in names if name not in self.schema]
        rows = (self.scan if frame is None else frame).select(*there, *missing)
        return rows.explode(lists) if (lists := self._lists(there)) else rows

    def _lists(self, names: Sequence[str]) -> list[str]:
        """Those of the columns that hold a list with an item for each picture of a row."""
        own = {*MEANINGS, *self.scores} - set(self.source)
        return [n for n in names if self.grouped and n in own and isinstance(self.schema[n], pl.List)]


@dataclass(frozen=True, slots=True)
class Cards:
    """frame: a row for each card on the page: `_row`, `_item`, `_status`, `_prompt`, and every column of the dataset
    but pictures. in_all: how many cards the whole dataset would have.
    """

    frame: pl.DataFrame
    in_all: int


def read_cards(rows: Rows) -> Cards:
    """The cards of all rows, or of an even choice of them that keeps the pictures of a row together."""
    chosen, in_all = _choice(rows)
    numbered = rows.scan.with_columns(_clipped(rows.schema)).with_row_index("_row")
    if chosen is not None:
        numbered = numbered.filter(pl.col("_row").is_in(chosen.implode()))
    length = pl.col("error_kind").list.len() if rows.grouped else pl.lit(1, pl.UInt32)
    numbered = numbered.with_columns(_item=pl.int_ranges(0, length))
    lists = rows._lists(list(rows.schema))
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in _READ.items() if name not in rows.schema]
    cards = numbered.explode("_item", *lists).with_columns(missing)
    failed, pictured = pl.col("error_kind").is_not_null(), pl.col("image_size").is_not_null()
    status = pl.when(failed).then(pl.lit("failed")).when(pictured).then(pl.lit("done")).otherwise(pl.lit("pending"))
    prompt = pl.coalesce("asked_prompt", pl.col("prompt").cast(pl.String, strict=False))
    return Cards(cards.with_columns(_status=status, _prompt=prompt).collect(engine="streaming"), in_all)


def _clipped(schema: pl.Schema) -> list[pl.Expr]:
    texts = [pl.col(name) for name, dtype in schema.items() if dtype == pl.String]
    return [
        pl.when(text.str.len_chars() > _LONGEST)
        .then(pl.format("{}… ({} characters in all)", text.str.head(_LONGEST), text.str.len_chars()))
        .otherwise(text)
        .name.keep()
        for text in texts
    ]


def _choice(rows: Rows) -> tuple[pl.Series | None, int]:
    """The numbers of the rows on the page, None for all; and how many cards the whole dataset would have."""
    size = pl.col("image_size")
    pictures = size.list.drop_nulls().list.len() if rows.grouped else size.is_not_null().cast(pl.UInt32)
    cards = size.list.len() if rows.grouped else pl.lit(1, pl.UInt32)
    light = rows.scan.select(pl.col("row_id").hash().alias("id"), pictures=pictures, cards=cards)
    counted = light.collect(engine="streaming").with_row_index("row")
    in_all, with_picture = int(counted["cards"].sum()), int(counted["pictures"].sum())
    if with_picture <= MOST_PICTURES and in_all - with_picture <= MOST_OTHERS:
        return None, in_all
    some = _evenly(counted.filter(pl.col("pictures") > 0), MOST_PICTURES / max(1, with_picture))
    others = counted.filter(pl.col("pictures") == 0)
    none = _evenly(others, MOST_OTHERS / max(1, int(others["cards"].sum())))
    return pl.concat([some, none]).sort(), in_all


def _evenly(rows: pl.DataFrame, share: float) -> pl.Series:
    """About this share of the ids, at even distances, with all rows of each."""
    place = pl.col("row").first().over("id").rank("dense").cast(pl.Int64)
    taken = (place * min(share, 1.0)).floor() > ((place - 1) * min(share, 1.0)).floor()
    return rows.filter(taken)["row"]
