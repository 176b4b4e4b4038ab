"""ImageDataset: a finished folder, which `datasets`, Polars and the Hub open as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
from PIL import Image as PILImage

from imagetask.card import card_text
from imagetask.columns import frame_to_hub_table, transform_columns_to_image
from imagetask.errors import DatasetError
from imagetask.images import Image
from imagetask.layout import Layout, write_whole
from imagetask.shards import write_shards
from imagetask.store import GenerationStore


class ImageDataset:
    """A dataset folder of images: one row for each generation, with its picture or with why there is none.

    Columns: the source's own, `row_id`, the task's (`image` as struct<bytes, path>, `model_name`), and `status`,
    `error_kind`, `error_message`, `attempts`, `seed`, `generation`, `reused`, `maybe_billed`, `latency`.
    Raises `DatasetError` where the folder is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._layout = Layout(self.folder)
        self._files = sorted(self._layout.data.glob("*.parquet"))
        if not self._files:
            raise DatasetError(f"{self.folder} holds no finished dataset: expected {self._layout.data.name}/*.parquet")

    def scan(self) -> pl.LazyFrame:
        """All rows, lazily; selecting no image column reads no image."""
        return pl.scan_parquet(self._files)

    def __len__(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self._files)

    @property
    def image_columns(self) -> list[str]:
        """Columns that hold pictures."""
        features = _hub_features(self._files[0])
        return [name for name, feature in features.items() if "Image" in json.dumps(feature)]

    def failures(self) -> pl.DataFrame:
        """The rows that lack a picture, without the image columns."""
        return self.scan().drop(self.image_columns).filter(pl.col("status") != "done").collect()

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
        return None if cell is None or cell["bytes"] is None else Image.from_bytes(cell["bytes"])

    def to_pil(self, row: int, column: str = "image", generation: int = 0) -> PILImage.Image | None:
        """The decoded picture of a row (0-based), or None where its generation failed."""
        image = self.image(row, column, generation)
        return None if image is None else image.to_pil()

    def transform_columns_to_image(self, columns: str | Sequence[str]) -> ImageDataset:
        """Turns further columns (base64 text, bytes, lists of these) into pictures, shard by shard.

        Rows and order stay. A null stays null. Raises `ImageError`, naming column and row, for a cell that is no image.
        """
        names = [columns] if isinstance(columns, str) else list(columns)
        images = [*dict.fromkeys([*self.image_columns, *names])]
        for file in self._files:
            temporary = self._layout.state / f".{file.name}"
            temporary.parent.mkdir(exist_ok=True)
            source = pq.ParquetFile(file)
            writer: pq.ParquetWriter | None = None
            for group in range(source.num_row_groups):
                frame = pl.DataFrame(pl.from_arrow(source.read_row_group(group)))
                table = frame_to_hub_table(transform_columns_to_image(frame, names), images)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="none", write_page_index=True)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            if writer is not None:
                writer.close()
                temporary.replace(file)
        return ImageDataset(self.folder)

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
    shards = write_shards(layout, ordered, store)
    schema = pq.read_schema(layout.data / shards[0]["file"])
    failed: Counter[str] = Counter()
    for manifest in ordered:
        failed.update(manifest["failed"])
    generations = sum(manifest["generations"] for manifest in ordered)
    counts = {
        "rows": sum(shard["rows"] for shard in shards),
        "images": generations - sum(failed.values()),
        "failed": dict(failed),
        "bytes": sum(shard["bytes"] for shard in shards),
    }
    images = sorted({name for manifest in ordered for name in manifest["images"]})
    write_whole(layout.card, card_text(layout.root.name, schema, images, counts, settings).encode())
    return ImageDataset(layout.root)


def _hub_features(file: Path) -> dict[str, Any]:
    metadata = pq.read_schema(file).metadata or {}
    features: dict[str, Any] = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return features
