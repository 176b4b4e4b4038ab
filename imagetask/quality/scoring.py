"""Pictures → scores, a row for each picture: of those that the table does not know yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import polars as pl
from PIL import Image as PILImage

from imagetask.errors import TaskError
from imagetask.layout import Layout
from imagetask.quality.measures import Measures, measure
from imagetask.quality.pictures import picture_groups
from imagetask.quality.scorers import BATCH, Scorer
from imagetask.quality.table import GROUPS, KEYS, MEASURES

Told = Callable[[int], None]


def new_scores(
    layout: Layout, known: Sequence[str], scorers: Sequence[Scorer], told: Told | None = None
) -> Iterator[pl.DataFrame]:
    """The scores of every picture whose hash is not `known`: `image_sha256`, the measures, the scorers' columns.

    In memory are the pictures of a batch, and the bytes of a row group. told: takes how many pictures were scored so
    far. Raises `TaskError` for a scorer that breaks its contract.
    """
    seen, count = set(known), 0
    with ThreadPoolExecutor(cpu_count() or 1) as threads:
        for group in picture_groups(layout):
            hashes = group.hashes.to_list()
            if seen.issuperset(key for key in hashes if key is not None):
                continue
            data = dict(zip(hashes, group.data(), strict=True))
            new = [key for key in data if key is not None and key not in seen]
            seen.update(new)
            for start in range(0, len(new), BATCH):
                batch = new[start : start + BATCH]
                found = list(threads.map(measure, (data.pop(key) or b"" for key in batch)))
                yield _scores(batch, found, scorers, group.file.schema_arrow.names)
                count += len(batch)
                if told is not None:
                    told(count)


def _scores(
    hashes: list[str],
    found: list[tuple[Measures, PILImage.Image] | None],
    scorers: Sequence[Scorer],
    taken: Sequence[str],
) -> pl.DataFrame:
    columns = {
        name: pl.Series(name, [None if one is None else getattr(one[0], name) for one in found], dtype=kind)
        for name, kind in MEASURES.items()
    }
    frame = pl.DataFrame({"image_sha256": hashes, **columns})
    whole = [number for number, one in enumerate(found) if one is not None]
    pictures = [one[1] for one in found if one is not None]
    for scorer in scorers if pictures else ():
        own = _plain(scorer.score(pictures))
        _check_names(scorer, own.columns, {*taken, *KEYS, *GROUPS, *frame.columns})
        frame = frame.join(
            own.with_columns(image_sha256=pl.Series([hashes[number] for number in whole])),
            on="image_sha256",
            how="left",
            maintain_order="left",
        )
    return frame


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Numbers as Float64, so that batches agree; true and false, and text, as they are; nothing else is taken."""
    return frame.with_columns(pl.selectors.numeric().cast(pl.Float64))


def _check_names(scorer: Scorer, columns: Sequence[str], taken: set[str]) -> None:
    if clash := sorted(taken.intersection(columns)):
        raise TaskError(f"the scorer {scorer.path} gave the column {clash[0]!r}, which there is already: rename it")
