"""A finished dataset for other tools, without new calls: Parquet, an image folder, or WebDataset.

Every export has all columns of the dataset and its quality columns, one row for a row, and a README.md whose front
matter lets `datasets.load_dataset(FOLDER)` open it. Without encoding options the bytes of pictures are the provider's
own. With them, `image_format`, `image_bytes`, `image_sha256` and `image_size` tell of the exported picture; the quality
columns, and all others, tell of the picture as it came.

| format | rows | files |
|---|---|---|
| parquet | all, also those that failed | `data/SPLIT-00000.parquet`, … |
| imagefolder | those with a picture in some image column | `SPLIT/00000/NUMBER.png`, …, `SPLIT/metadata.parquet` |
| webdataset | those with a picture in every image column | `SPLIT-000000.tar`, … with `NUMBER.png` and `NUMBER.json` |

NUMBER is that of the row in the dataset, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from imagetask.errors import DatasetError, UsageError
from imagetask.exports.encoding import Encoding, ImageFormat
from imagetask.exports.folder import free_place, written_beside
from imagetask.exports.imagefolder import ImageFolderSplit
from imagetask.exports.parquet import ParquetSplit
from imagetask.exports.pictures import encode_pictures
from imagetask.exports.readme import readme
from imagetask.exports.rows import Rows, ScoredRows
from imagetask.exports.selection import Selection, select_rows
from imagetask.exports.splits import check_split, read_split, splits_of
from imagetask.exports.webdataset import WebDatasetSplit
from imagetask.exports.writing import SplitWriter
from imagetask.layout import Layout, alone_in, read_json
from imagetask.quality import scored
from imagetask.shards import shard_files
from imagetask.snapshot import write_errors

__all__ = ["FORMATS", "Exported", "Format", "ImageFormat", "export", "read_split"]

Format = Literal["parquet", "imagefolder", "webdataset"]

FORMATS: Mapping[str, type[SplitWriter]] = {
    "parquet": ParquetSplit,
    "imagefolder": ImageFolderSplit,
    "webdataset": WebDatasetSplit,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that is whole.

    rows: in it. left_out: rows that `keep` is not true of. without_picture: rows that were kept and have no picture, or
    not all, where the format holds pictures only. files: but README.md. splits: rows of each.
    opened: Python that opens it.
    """

    folder: Path
    rows: int
    left_out: int
    without_picture: int
    files: int
    splits: Mapping[str, int]
    opened: str


def export(
    layout: Layout,
    to: Path,
    *,
    format: Format = "parquet",
    keep: str | None = None,
    image_format: ImageFormat | None = None,
    image_quality: int | None = None,
    max_side: int | None = None,
    split: Mapping[str, float] | None = None,
    told: Callable[[int, int], None] = lambda rows, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Writes a finished dataset to the new folder `to`; it is there whole, or not at all.

    keep: a Polars SQL expression over the columns, such as `status = 'done' AND NOT blank`; rows of which it is not
    true are left out. image_format, image_quality (1 to 100), max_side (px; none is enlarged): how pictures are encoded
    anew, where they are not so already. split: share of each split, by a hash of `row_id`; without it all rows are in
    `train`. told: takes how many rows are written, of how many. say: takes what a person should know.

    Quality columns are brought up to date first, and the dataset's folder is held for that. In memory is a row group
    (16 MB of pictures) for each split. Raises `UsageError` for wrong options, `DatasetError` where `to` is not free or
    no dataset is there, `ImageError` for a damaged picture that is to be encoded anew, `StorageError` for a full disk.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: expected {', '.join(get_args(Format))}")
    encoding = Encoding(image_format, image_quality, max_side)
    shares = dict(split or {"train": 1.0})
    check_split(shares)
    place = free_place(to, layout)
    shard_files(layout)  # there is a dataset, before anything is written beside it
    with alone_in(layout):
        if scored(layout, say=say):
            say(f"the quality columns of {layout.root} were brought up to date first")
    before = read_json(layout.shards)
    rows = ScoredRows(layout)
    selection = select_rows(rows, keep, FORMATS[format], encoding)
    with written_beside(place) as folder:
        writers = {name: FORMATS[format](folder, name, rows.schema, rows.images) for name in shares}
        counts = _write(rows, selection, encoding, shares, writers, to, told)
        if read_json(layout.shards) != before:
            raise DatasetError(f"a run wrote into {layout.root} meanwhile: run the same command again")
        with write_errors(to):
            card = readme(layout, FORMATS[format], rows, selection.suffixes, counts, encoding)
            (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")
    files = sum(writer.files for writer in writers.values())
    opened = FORMATS[format].opened(str(to))
    return Exported(to, sum(counts.values()), selection.left_out, selection.without_picture, files, counts, opened)


def _write(
    rows: ScoredRows,
    selection: Selection,
    encoding: Encoding,
    shares: Mapping[str, float],
    writers: Mapping[str, SplitWriter],
    to: Path,
    told: Callable[[int, int], None],
) -> dict[str, int]:
    """Writes the chosen rows; gives the rows of each split."""
    total, counts = int(selection.chosen.sum()), dict.fromkeys(shares, 0)
    groups = rows.groups(selection.chosen)
    try:
        for few in encode_pictures(groups, rows.images, encoding) if encoding else groups:
            for name, part in _parted(few, shares):
                with write_errors(to):
                    writers[name].write(part)
                counts[name] += part.table.num_rows
            told(sum(counts.values()), total)
        for writer in writers.values():
            with write_errors(to):
                writer.close()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    return counts


def _parted(rows: Rows, shares: Mapping[str, float]) -> Iterable[tuple[str, Rows]]:
    """The rows of each split that has some."""
    if len(shares) == 1:
        return [(name, rows) for name in shares]
    numbers = splits_of(rows.table["row_id"].to_pylist(), shares)
    masks = ((name, numbers == number) for number, name in enumerate(shares))
    return [(name, rows.where(mask)) for name, mask in masks if mask.any()]
