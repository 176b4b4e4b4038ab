"""The pictures in a run's artifacts: many images on one JPEG that is small enough to be part of a text."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import polars as pl
from PIL import Image as PILImage

from imagetask.drawing.contact_sheet import contact_sheet, thumbnail
from imagetask.errors import ImageTaskError
from imagetask.images import Image
from imagetask.models.base import Generation
from imagetask.models.event_loop import event_loop
from imagetask.parts import finished_chunks, part_path
from imagetask.plan import Chunk
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

from .parts_shown import caption

COLUMNS, TILE, TYPE_SIZE = 5, 164, 12
"""Tiles in a row, their side and the height of captions, px: as wide as the text in Prefect's UI."""

SHOWN_NEWEST, SAMPLED = 20, 15
"""Images on a sheet: of the newest, and of all images of a dataset."""

MOST_BYTES = 150_000
"""Of one picture; as base64 text it is a third larger."""

_QUALITIES = (85, 75, 60, 45, 30)


class NewestImages:
    """Sheets of the newest images, one after the other: what is on the next one too is decoded once."""

    def __init__(self) -> None:
        self._small: dict[str, PILImage.Image] = {}

    def sheet(self, generations: Sequence[Generation]) -> bytes | None:
        """The images on one JPEG, in this order; None where none of them can be read."""
        small: dict[str, PILImage.Image] = {}
        cells: list[tuple[PILImage.Image, str]] = []
        for one in generations:
            picture = self._small.get(one.key) or _thumbnail(one.image)
            if picture is not None:
                small[one.key] = picture
                cells.append((picture, one.prompt))
        self._small = small
        return sheet_of(cells) if cells else None


def sheet_of(cells: Sequence[tuple[PILImage.Image, str]]) -> bytes:
    """Pictures with their captions on one JPEG of at most about `MOST_BYTES`."""
    sheet = contact_sheet(cells, columns=COLUMNS, tile=TILE, type_size=TYPE_SIZE)
    for quality in _QUALITIES:
        data = io.BytesIO()
        sheet.save(data, "JPEG", quality=quality)
        if data.tell() <= MOST_BYTES:
            break
    return data.getvalue()


def _thumbnail(image: Image | None) -> PILImage.Image | None:
    """A small picture; None where there is none or it cannot be read: the run itself does not need it.

    Decoded where the run checks its images: another thread that decodes large ones keeps their memory to itself
    (45 MiB with PNGs of 1.5 MB).
    """
    if image is None:
        return None
    try:
        return event_loop().image_threads.submit(thumbnail, image, TILE).result()
    except ImageTaskError:
        return None


def dataset_sheet(settings: RunSettings) -> bytes | None:
    """Images from all over the dataset on one JPEG, in its order; None where there are none. Reads a few parts."""
    store, cells = GenerationStore(settings.store_url), []
    for path, prompt in _sampled(settings):
        with suppress(ImageTaskError):  # the report tells what there is: it does without a picture that is gone
            if (picture := _thumbnail(Image.from_bytes(store.read(path)))) is not None:
                cells.append((picture, prompt))
    return sheet_of(cells) if cells else None


def _sampled(settings: RunSettings) -> Iterator[tuple[str, str]]:
    """Path in the store and prompt of some images of finished chunks, drawn by lot, in their order.

    Not at even distances: a source is often made by running through lists.
    """
    chunks = [(chunk, manifest) for chunk, manifest in finished_chunks(settings.layout) if manifest["images"]]
    rows = sum(manifest["rows"] for _, manifest in chunks)
    drawn = sorted(random.Random(settings.seed).sample(range(rows), min(rows, SAMPLED)))
    start = 0
    for chunk, manifest in chunks:
        inside = [row - start for row in drawn if start <= row < start + manifest["rows"]]
        if inside:
            yield from _of_part(settings, chunk, manifest["images"][0], inside)
        start += manifest["rows"]


def _of_part(settings: RunSettings, chunk: Chunk, column: str, rows: list[int]) -> Iterator[tuple[str, str]]:
    """These rows of a part; in place of one without an image the next that has one, up to the next of them."""
    frame = pl.scan_parquet(part_path(settings.layout, chunk.digest))
    part = frame.select(pl.col(column), caption(settings, frame.collect_schema())).collect()
    for first, end in pairwise([*rows, part.height]):
        for paths, prompt in part.slice(first, end - first).iter_rows():
            if (path := _first(paths)) is not None:
                yield path, prompt
                break


def _first(paths: Any) -> str | None:
    """The first path of a cell, which holds one, or lists of them, also in lists; None where it has none."""
    if not isinstance(paths, list):
        return None if paths is None else str(paths)
    return next((found for path in paths if (found := _first(path)) is not None), None)
