"""The table of scores, `quality/train-00000.parquet`: a row for each row of the dataset, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from imagetask.columns import frame_to_hub_table
from imagetask.layout import Layout, read_json
from imagetask.shards import shard_files

KEYS = ("row_id", "model_name", "generation", "image_sha256")
"""The columns of the dataset that stand in the table too, so that it can be read alone."""
MEASURES: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "blank": pl.Boolean,
    "blur": pl.Float64,
    "phash": pl.String,
    "signature": pl.String,
    "aspect": pl.Float64,
    "colourfulness": pl.Float64,
}
GROUPS: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "near_duplicate_group": pl.Int64,
    "same_bytes_group": pl.Int64,
    "duplicate": pl.Boolean,
}
_METADATA = b"imagetask.quality"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a table was made from. shards: name and state of each. scorers: path, digest and columns of each."""

    method: int
    shards: list[list[Any]]
    scorers: list[dict[str, Any]] = field(default_factory=list)


def table_path(layout: Layout) -> Path:
    return layout.quality / "train-00000.parquet"


def shards_now(layout: Layout) -> list[list[Any]]:
    """Name and state of each shard as it is. Raises `DatasetError`."""
    known = {entry["file"]: entry for entry in (read_json(layout.shards) or {}).get("shards") or []}
    states = []
    for file in shard_files(layout):
        digest = known.get(file.name, {}).get("digest")
        states.append([file.name, file.stat().st_size, digest or file.stat().st_mtime_ns])
    return states


def read_origin(layout: Layout) -> Origin | None:
    """What the table was made from; None where there is none that can be read."""
    try:
        found = (pq.read_metadata(table_path(layout)).metadata or {}).get(_METADATA)
        return None if found is None else Origin(**json.loads(found))
    except (OSError, pa.ArrowException, TypeError, ValueError):
        return None


def write_table(path: Path, frames: Iterator[pl.DataFrame], origin: Origin) -> None:
    """Writes a table that the Hub and `datasets` read, a row group for each frame."""
    writer: pq.ParquetWriter | None = None
    try:
        for frame in frames:
            table = frame_to_hub_table(frame, [])
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.add_key_value_metadata({_METADATA: json.dumps(asdict(origin)).encode()})
    finally:
        if writer is not None:
            writer.close()


def known_scores(layout: Layout, columns: Sequence[str]) -> pl.DataFrame:
    """The scores of every picture that the table tells of: `image_sha256` and `columns`, a row for each picture."""
    frame = pl.read_parquet(table_path(layout), columns=["image_sha256", *columns])
    if isinstance(frame.schema["image_sha256"], pl.List):
        frame = frame.explode(frame.columns, keep_nulls=False, empty_as_null=False)
    return frame.drop_nulls("image_sha256").unique("image_sha256", keep="first", maintain_order=True)
