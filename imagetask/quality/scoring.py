"""Pictures → scores, a row for each picture: of those that the table does not know yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import polars as pl
from PIL import Image as PILImage

from imagetask.errors import ImageError, TaskError
from imagetask.images import Image
from imagetask.layout import Layout
from imagetask.quality.measures import Measures, measure
from imagetask.quality.pictures import picture_groups
from imagetask.quality.scorers import BATCH, BATCH_PIXELS, Scorer
from imagetask.quality.table import GROUPS, KEYS, MEASURES

Told = Callable[[int], None]


def new_scores(
    layout: Layout,
    wanted: Callable[[str], bool],
    scorers: Sequence[Scorer],
    columns: dict[str, list[str]],
    told: Told | None = None,
) -> Iterator[pl.DataFrame]:
    """The scores of every picture whose hash is wanted: `image_sha256`, the measures, the scorers' columns.

    In memory are the bytes of a row group, and the pictures of a batch where there are scorers; else one for each
    processor. columns: of each scorer by its path; those of new ones are put in. told: takes how many more pictures
    were scored. Raises `TaskError` for a scorer that breaks its contract.
    """
    done: set[str] = set()
    with ThreadPoolExecutor(cpu_count() or 1) as threads:
        for group in picture_groups(layout):
            new = {key for key in group.hashes.to_list() if key is not None and key not in done and wanted(key)}
            if not new:
                continue
            done |= new
            data = {key: item or b"" for key, item in zip(group.hashes, group.data(), strict=True) if key in new}
            for batch in _batches(data):
                looked = threads.map(measure if scorers else _measured_alone, batch.values())
                yield _scores(list(batch), list(looked), scorers, columns, group.file.schema_arrow.names)
                if told is not None:
                    told(len(batch))


def _measured_alone(data: bytes) -> tuple[Measures, None] | None:
    """The measures without the picture, which would stay in memory."""
    found = measure(data)
    return found and (found[0], None)


def _batches(data: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    batch: dict[str, bytes] = {}
    pixels = 0
    for key, item in data.items():
        size = _pixels(item)
        if batch and (len(batch) == BATCH or pixels + size > BATCH_PIXELS):
            yield batch
            batch, pixels = {}, 0
        batch[key] = item
        pixels += size
    if batch:
        yield batch


def _pixels(data: bytes) -> int:
    try:
        image = Image.from_bytes(data)
    except ImageError:
        return 0
    return image.width * image.height


def _scores(
    hashes: list[str],
    found: Sequence[tuple[Measures, PILImage.Image | None] | None],
    scorers: Sequence[Scorer],
    columns: dict[str, list[str]],
    dataset: Sequence[str],
) -> pl.DataFrame:
    measured = [
        pl.Series(name, [None if one is None else getattr(one[0], name) for one in found], dtype=kind)
        for name, kind in MEASURES.items()
    ]
    frame = pl.DataFrame([pl.Series("image_sha256", hashes, dtype=pl.String), *measured])
    pictures = {key: one[1] for key, one in zip(hashes, found, strict=True) if one is not None and one[1] is not None}
    for scorer in scorers if pictures else ():
        own = scorer.score(list(pictures.values()))
        _check_names(scorer, own.columns, columns, {*dataset, *KEYS, *MEASURES, *GROUPS})
        own = own.with_columns(image_sha256=pl.Series(list(pictures)))
        frame = frame.join(own, on="image_sha256", how="left", maintain_order="left")
    return frame


def _check_names(scorer: Scorer, names: list[str], columns: dict[str, list[str]], taken: set[str]) -> None:
    """Puts the names of a scorer's columns into `columns`; they are its own alone, and those that it gave before."""
    others = {name for path, theirs in columns.items() if path != scorer.path for name in theirs}
    if clash := sorted((taken | others).intersection(names)):
        raise TaskError(f"the scorer {scorer.path} gave the column {clash[0]!r}, which there is already: rename it")
    before = columns.get(scorer.path) or names
    if set(names) != set(before):
        said = f"{', '.join(names)} for one batch and {', '.join(before)} for another"
        raise TaskError(f"the scorer {scorer.path} gave the columns {said}: expected the same for each")
    columns[scorer.path] = before
