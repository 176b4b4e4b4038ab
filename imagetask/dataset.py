"""ImageDataset: a finished folder, which `datasets`, Polars and the Hub open as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from PIL import Image as PILImage

from imagetask.card import card_text
from imagetask.columns import image_columns
from imagetask.crash_points import reach
from imagetask.errors import DatasetError
from imagetask.images import Image
from imagetask.layout import Layout, alone_in, read_json, write_json, write_whole
from imagetask.shards import shard_files, transform_shards, write_shards
from imagetask.store import GenerationStore


class ImageDataset:
    """A dataset folder of images: one row for each generation, with its picture or with why there is none.

    Columns: the source's own, `row_id`, the task's (`image` as struct<bytes, path>, `model_name`), and `status`,
    `error_kind`, `error_message`, `attempts`, `seed`, `generation`, `reused`, `maybe_billed`, `cost`, `cost_source`,
    `latency`, `asked_size`, `image_size`.
    Raises `DatasetError` where the folder is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._layout = Layout(self.folder)
        self._files = shard_files(self._layout)

    def scan(self) -> pl.LazyFrame:
        """All rows, lazily; selecting no image column reads no image."""
        return pl.scan_parquet(self._files)

    def __len__(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self._files)

    @property
    def image_columns(self) -> list[str]:
        """Columns that hold pictures."""
        return image_columns(pq.read_schema(self._files[0]))

    def failures(self) -> pl.DataFrame:
        """The rows that failed, wholly or in part, without the image columns."""
        missing = ~pl.col("status").is_in(["done", "pending"])
        return self.scan().drop(self.image_columns).filter(missing).collect()

    def image(self, row: int, column: str = "image", generation: int = 0) -> Image | None:
        """The encoded picture of a row (0-based), or None where its generation failed.

        generation: which one, where a row holds several.
        """
        count = len(self)
        if not -count <= row < count:
            raise DatasetError(f"there is no row {row} in {self.folder}: it has {count} rows")
        if column not in self.image_columns:
            raise DatasetError(f"{column!r} is no image column of {self.folder}: {', '.join(self.image_columns)} are")
        cell = self.scan().select(column).slice(row % count, 1).collect().item()
        if isinstance(cell, pl.Series):
            cell = cell[generation] if -len(cell) <= generation < len(cell) else None
        if isinstance(cell, pl.Series):
            raise DatasetError(f"{column!r} holds lists of lists of pictures: take them from scan()")
        return None if cell is None or cell["bytes"] is None else Image.from_bytes(cell["bytes"])

    def to_pil(self, row: int, column: str = "image", generation: int = 0) -> PILImage.Image | None:
        """The decoded picture of a row (0-based), or None where its generation failed."""
        image = self.image(row, column, generation)
        return None if image is None else image.to_pil()

    def transform_columns_to_image(self, columns: str | Sequence[str]) -> ImageDataset:
        """Turns further columns (base64 text, bytes, lists of these) into pictures, also for the runs to come.

        Rows and order stay. A null stays null. Raises `ImageError`, naming column and row, for a cell that is no image,
        and `UsageError` for a missing column; the dataset then is as it was.
        """
        settings = read_json(_card_settings(self._layout))
        if settings is None:
            raise DatasetError(f"{self.folder} was not made by a run of its own: transform a frame of it instead")
        with alone_in(self._layout):
            transform_shards(self._layout, [columns] if isinstance(columns, str) else columns)
            return _described(self._layout, settings)

    def __repr__(self) -> str:
        return f"ImageDataset({str(self.folder)!r}, rows={len(self)}, image_columns={self.image_columns})"


def build_dataset(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], store: GenerationStore, settings: Mapping[str, Any]
) -> ImageDataset:
    """The last step of a run: the parts, in the order of the dataset, as shards and a card.

    manifests: of the parts; they come model by model, and in each model in the order of the source.
    settings: what was asked, for the card.
    """
    ordered = sorted(manifests, key=lambda m: (settings["model"].index(m["model"]), m["start"]))
    write_shards(layout, ordered, store)
    write_json(_card_settings(layout), dict(settings))
    return _described(layout, settings)


def _described(layout: Layout, settings: Mapping[str, Any]) -> ImageDataset:
    """Writes the card of the shards that there are."""
    dataset, files = ImageDataset(layout.root), shard_files(layout)
    counts, schema = _counts(files), pq.read_schema(files[0])
    reach("card: to be written")
    write_whole(layout.card, card_text(layout.root.name, schema, counts, settings).encode("utf-8", "replace"))
    reach("card: in place")
    return dataset


def _counts(files: Sequence[Path]) -> dict[str, Any]:
    """What the card tells of the shards; in memory are two columns of one of them at a time."""
    rows = images = pending = 0
    failed = Counter[str]()
    for file in files:
        ends = pl.read_parquet(file, columns=["error_kind", "image_size"])
        rows += ends.height
        ends = ends.explode("error_kind", "image_size") if isinstance(ends.schema["error_kind"], pl.List) else ends
        good = ends.filter(pl.col("error_kind").is_null())
        images += good["image_size"].count()
        pending += good["image_size"].null_count()
        failed.update(dict(ends["error_kind"].drop_nulls().value_counts().rows()))
    num_bytes = sum(file.stat().st_size for file in files)
    return {"rows": rows, "images": images, "pending": pending, "failed": dict(failed), "bytes": num_bytes}


def _card_settings(layout: Layout) -> Path:
    """What the card says was asked; kept to write the card again."""
    return layout.state / "card.json"
