"""What a dataset holds, counted from its shards: rows, images, failures, formats, sizes, models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from imagetask.layout import Layout
from imagetask.shards import shard_files

_COUNTED = ("error_kind", "image_size", "image_format", "model_name", "provider")
"""The columns by which generations are counted; a dataset of an earlier version, or of a custom task, may lack some."""


@dataclass(frozen=True, slots=True)
class DatasetCounts:
    """Counts of a dataset. file_bytes: of its shards; picture_bytes: of the pictures alone, 0 where no row tells.

    failed: by kind. formats, sizes ("WIDTHxHEIGHT", px), models, providers: of the images, the most frequent first.
    """

    rows: int
    file_bytes: int
    images: int
    picture_bytes: int
    pending: int
    failed: Mapping[str, int]
    formats: Mapping[str, int]
    sizes: Mapping[str, int]
    models: Mapping[str, int]
    providers: Mapping[str, int]


def count_dataset(layout: Layout) -> DatasetCounts:
    """Counts shard by shard; in memory are a few columns of one of them. Raises `DatasetError` where there are none."""
    files = shard_files(layout)
    by: dict[str, Counter[str]] = {name: Counter() for name in _COUNTED}
    images = pending = picture_bytes = 0
    for group in (group for file in files for group in _groups(pl.scan_parquet(file))):
        count = group["count"]
        if group.get("error_kind") is not None:
            by["error_kind"][group["error_kind"]] += count
        elif group.get("image_size") is None:
            pending += count
        else:
            images += count
            picture_bytes += group["bytes"]
            for name in _COUNTED[1:]:
                if group.get(name) is not None:
                    by[name][group[name]] += count
    failed, sizes, formats, models, providers = (dict(by[name].most_common()) for name in _COUNTED)
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    file_bytes = sum(file.stat().st_size for file in files)
    return DatasetCounts(rows, file_bytes, images, picture_bytes, pending, failed, formats, sizes, models, providers)


def _groups(frame: pl.LazyFrame) -> Iterator[dict[str, Any]]:
    """Generations of one shard that are alike, with their number and the bytes of their pictures."""
    schema = frame.collect_schema()
    keys = [name for name in _COUNTED if name in schema]
    num_bytes = pl.col("image_bytes") if "image_bytes" in schema else pl.lit(0, pl.Int64).alias("image_bytes")
    picked = frame.select(*keys, num_bytes)
    lists = [name for name in (*keys, "image_bytes") if isinstance(schema.get(name), pl.List)]
    picked = picked.explode(lists) if lists else picked
    counted = picked.group_by(keys, maintain_order=True).agg(
        pl.len().alias("count"), pl.col("image_bytes").sum().alias("bytes")
    )
    yield from counted.collect(engine="streaming").iter_rows(named=True)
