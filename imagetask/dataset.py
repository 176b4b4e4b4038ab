"""ImageDataset: a finished folder, which `datasets`, Polars and the Hub open as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PILImage

from imagetask.card import card_settings, write_card
from imagetask.card.counts import count_dataset
from imagetask.columns import image_columns
from imagetask.dataset_rows import Row, as_images
from imagetask.errors import DatasetError, RowIndexError
from imagetask.images import Image
from imagetask.layout import Layout, alone_in, read_json, write_json
from imagetask.shards import shard_files, transform_shards, write_shards
from imagetask.shown import GRID_ROWS, dataset_html
from imagetask.store import GenerationStore

if TYPE_CHECKING:
    from imagetask.exports import Exported, Format
    from imagetask.push import Pushed


class ImageDataset:
    """A dataset folder of images: one row for each generation, with its picture or with why there is none.

    Columns: the source's own, `row_id`, the task's (`image` as struct<bytes, path>, `model_name`), and what there is to
    know of each picture, as `imagetask.card.columns.MEANINGS` tells.
    `dataset[0]` is a row, `for row in dataset` gives all of them, a row group in memory at a time. In a notebook the
    dataset and its rows show their pictures.
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

    def __getitem__(self, row: int) -> Row:
        """A row by its number (0-based, or from the end). Raises `RowIndexError`, an `IndexError`."""
        place = self._place(index(row))
        return Row(self.scan().slice(place, 1).collect().row(0, named=True), self.image_columns, place)

    def __iter__(self) -> Iterator[Row]:
        names, number = self.image_columns, 0
        for file in self._files:
            with pq.ParquetFile(file) as shard:
                for group in range(shard.num_row_groups):
                    for values in _frame(shard.read_row_group(group)).iter_rows(named=True):
                        yield Row(values, names, number)
                        number += 1

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
        place = self._place(row)
        if column not in self.image_columns:
            raise DatasetError(
                f"{column!r} is no image column of {self.folder}; it has {', '.join(self.image_columns) or 'none'}"
            )
        cell = self.scan().select(column).slice(place, 1).collect().item()
        if isinstance(cell, pl.Series):
            cell = cell[generation] if -len(cell) <= generation < len(cell) else None
        if isinstance(cell, pl.Series):
            raise DatasetError(f"{column!r} holds lists of lists of pictures: take them from scan()")
        image: Image | None = as_images(cell)
        return image

    def to_pil(self, row: int, column: str = "image", generation: int = 0) -> PILImage.Image | None:
        """The decoded picture of a row (0-based), or None where its generation failed."""
        image = self.image(row, column, generation)
        return None if image is None else image.to_pil()

    def transform_columns_to_image(self, columns: str | Sequence[str]) -> ImageDataset:
        """Turns further columns (base64 text, bytes, lists of these) into pictures, also for the runs to come.

        Rows and order stay. A null stays null. Raises `ImageError`, naming column and row, for a cell that is no image,
        and `UsageError` for a missing column; the dataset then is as it was.
        """
        if read_json(card_settings(self._layout)) is None:
            raise DatasetError(f"{self.folder} was not made by a run of its own: transform a frame of it instead")
        with alone_in(self._layout):
            transform_shards(self._layout, [columns] if isinstance(columns, str) else columns)
            write_card(self._layout)
        return ImageDataset(self.folder)

    def score(self, *scorers: str) -> pl.LazyFrame:
        """Brings the quality columns up to date, and gives all rows with these beside the others, lazily.

        Each picture is scored once. scorers: import paths of your own, as in "my_scorers:score", from now on beside
        those that there are. Raises `UsageError`, `TaskError`, `StorageError`.
        """
        from imagetask.quality import scan_scored, scored

        with alone_in(self._layout):
            scored(self._layout, scorers)
            write_card(self._layout)
        return scan_scored(self._layout)

    def export(self, to: str | Path, format: Format = "parquet", **options: Any) -> Exported:
        """Writes the rows to the new folder `to` for other tools; options as `imagetask.exports.export`.

        Raises `UsageError`, `DatasetError`.
        """
        from imagetask.exports import export

        return export(self._layout, Path(to), format=format, **options)

    def report(self, to: str | Path | None = None) -> Path:
        """Writes one HTML page to look at the dataset with, and gives its path. Raises `DatasetError`."""
        from imagetask.report import write_report

        return write_report(self._layout, None if to is None else Path(to))

    def push_to_hub(
        self, repo: str, *, token: str | None = None, private: bool = True, replace: bool = False
    ) -> Pushed:
        """Brings the dataset OWNER/NAME on the Hub up to date; it is made where there is none.

        token: default: HF_TOKEN, or that of the login. private: of one that is made. replace: also where another
        dataset of imagetask is there. Raises `UsageError`, `HubError`.
        """
        from imagetask.push import push

        with alone_in(self._layout):
            return push(self._layout, repo, token=token, private=private, replace=replace)

    def _place(self, row: int) -> int:
        count = len(self)
        if not -count <= row < count:
            raise RowIndexError(f"there is no row {row} in {self.folder}: it has {count} rows")
        return row % count

    def _repr_html_(self) -> str:
        return dataset_html(self.folder.absolute().name, count_dataset(self._layout), list(islice(self, GRID_ROWS)))

    def __repr__(self) -> str:
        return f"ImageDataset({str(self.folder)!r}, rows={len(self)}, image_columns={self.image_columns})"


def _frame(group: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(group))


def build_dataset(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], store: GenerationStore, settings: Mapping[str, Any]
) -> ImageDataset:
    """The last step of a run: the parts, in the order of the dataset, as shards and a card.

    manifests: of the parts; they come model by model, and in each model in the order of the source.
    settings: what was asked, for the card.
    """
    ordered = sorted(manifests, key=lambda m: (settings["model"].index(m["model"]), m["start"]))
    write_shards(layout, ordered, store)
    write_json(card_settings(layout), dict(settings))
    write_card(layout)
    return ImageDataset(layout.root)
