"""The picture in a card: images from all over the dataset on one JPEG."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PILImage

from imagetask.columns import image_columns
from imagetask.drawing.contact_sheet import contact_sheet, thumbnail
from imagetask.errors import ImageError, StorageError
from imagetask.images import Image
from imagetask.layout import Layout, read_json, write_whole
from imagetask.shards import shard_files

MOST_PICTURES, COLUMNS, TILE, TYPE_SIZE = 24, 6, 160, 11
"""Pictures on the sheet, how many stand in a row, and the side of each and the height of captions, px."""

_VERSION = 1
_QUALITY = 85


def write_sheet(layout: Layout) -> None:
    """Brings the sheet up to date with the shards; removes it where there is no picture. Raises `StorageError`.

    A sheet that was drawn of the same shards stays as it is: what it was drawn of is the comment in its file.
    """
    schema = pq.read_schema(shard_files(layout)[0])
    column = next(iter(image_columns(schema)), None) if "image_size" in schema.names else None
    digest = _digest(layout, column)
    if digest is not None and _comment(layout.card_sheet) == digest:
        return
    cells = [] if column is None else list(_drawn(shard_files(layout), column))
    try:
        if not cells:
            layout.card_sheet.unlink(missing_ok=True)
            return
    except OSError as error:
        raise StorageError(f"could not remove {layout.card_sheet}: {error.strerror}") from error
    data = io.BytesIO()
    sheet = contact_sheet(cells, columns=COLUMNS, tile=TILE, type_size=TYPE_SIZE)
    sheet.save(data, "JPEG", quality=_QUALITY, comment=(digest or "").encode())
    write_whole(layout.card_sheet, data.getvalue())


def _digest(layout: Layout, column: str | None) -> str | None:
    """Of what the sheet is drawn; None where the folder does not tell of its shards."""
    record = read_json(layout.shards)
    if record is None:
        return None
    shards = [(entry["file"], entry["digest"]) for entry in record["shards"]]
    return hashlib.blake2b(repr((_VERSION, column, shards)).encode(), digest_size=16).hexdigest()


def _comment(path: Path) -> str | None:
    try:
        with PILImage.open(path, formats=("JPEG",)) as sheet:
            comment = sheet.info.get("comment", b"")
            return comment.decode("ascii", "replace") if isinstance(comment, bytes) else None
    except (OSError, ValueError):
        return None


def _drawn(files: list[Path], column: str) -> Iterator[tuple[PILImage.Image, str]]:
    """Small pictures with their prompts, drawn by lot, in the order of the dataset; one row group is read at a time.

    Not at even distances: a source is often made by running through lists.
    """
    good = [pl.scan_parquet(file).select(_has_picture(file)).sum().collect().item() for file in files]
    drawn = sorted(random.Random(_VERSION).sample(range(sum(good)), min(sum(good), MOST_PICTURES)))
    start = 0
    for file, count in zip(files, good, strict=True):
        inside = [number - start for number in drawn if start <= number < start + count]
        start += count
        if inside:
            has = pl.scan_parquet(file).select(_has_picture(file)).collect().to_series()
            yield from _of_shard(file, column, [int(row) for row in has.arg_true().gather(inside)])


def _has_picture(file: Path) -> pl.Expr:
    """Whether a row has a picture, told without reading one."""
    sizes = pl.col("image_size")
    if isinstance(pl.read_parquet_schema(file)["image_size"], pl.List):
        return sizes.list.drop_nulls().list.len() > 0
    return sizes.is_not_null()


def _of_shard(file: Path, column: str, rows: list[int]) -> Iterator[tuple[PILImage.Image, str]]:
    with pq.ParquetFile(file) as shard:
        names = shard.schema_arrow.names
        captions = [name for name in ("asked_prompt", "prompt") if name in names][:1]
        start = 0
        for number in range(shard.num_row_groups):
            height = shard.metadata.row_group(number).num_rows
            inside = [row - start for row in rows if start <= row < start + height]
            start += height
            if not inside:
                continue
            for picture, words in _cells(shard, number, [column, *captions], inside):
                if (small := _small(picture)) is not None:
                    yield small, str(words or "")


def _cells(shard: pq.ParquetFile, group: int, names: list[str], rows: list[int]) -> list[tuple[Any, Any]]:
    """The first picture of each of these rows of a row group, and its words; nothing else of the group stays."""
    table = shard.read_row_group(group, columns=names)
    cells = [[_first(table[name][row].as_py()) for name in names] for row in rows]
    del table
    pa.default_memory_pool().release_unused()
    return [(picture, words[0] if words else None) for picture, *words in cells]


def _first(cell: Any) -> Any:
    """What a cell holds; of lists, also in lists, the first that is there."""
    if not isinstance(cell, list):
        return cell
    return next((found for item in cell if (found := _first(item)) is not None), None)


def _small(cell: Any) -> PILImage.Image | None:
    if not isinstance(cell, dict) or cell.get("bytes") is None:
        return None
    with suppress(ImageError):  # the card does without a picture that cannot be decoded
        return thumbnail(Image.from_bytes(cell["bytes"]), TILE)
    return None
