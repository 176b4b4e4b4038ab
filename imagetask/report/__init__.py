"""A report to look at: one self-contained HTML page of a finished dataset, which asks for nothing from any network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from imagetask.card.counts import count_dataset
from imagetask.errors import DatasetError
from imagetask.layout import Layout, alone_in, read_json
from imagetask.quality import scored
from imagetask.report.cards import Rows, read_cards
from imagetask.report.details import Details
from imagetask.report.figures import figures
from imagetask.report.page import Page, page_pieces
from imagetask.report.pictures import side_for, small_pictures
from imagetask.report.summary import facts, lede
from imagetask.shards import shard_files
from imagetask.snapshot import write_errors

__all__ = ["read_page", "write_report"]

_NUMBERS = ("created_at", "error_kind", "latency", "blur", "colourfulness", "cost", "cost_source", "model_name")


def write_report(
    layout: Layout,
    to: Path | None = None,
    *,
    told: Callable[[int, int], None] = lambda cards, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes the page, whole or not at all; gives where it is, by default `report.html` in the dataset's folder.

    It shows a card for each picture that was asked for, of more than 20,000 pictures an even choice; numbers and
    figures are of all rows. Quality columns are brought up to date first, and the dataset's folder is held for that; a
    dataset that has no pictures, or lacks columns that scores need, is shown without. In memory is a row group, and the
    columns of the cards but their pictures. told: takes how many cards are done, of how many. say: takes what a person
    should know.

    Raises `DatasetError` where there is no finished dataset, a run is writing into it, or `to` is a folder;
    `StorageError`.
    """
    place = to or layout.root / "report.html"
    if place.is_dir():
        raise DatasetError(f"{place} is a folder: give a file for the report, as in {place / 'report.html'}")
    shard_files(layout)  # there is a dataset
    with alone_in(layout):
        _score(layout, say)
    before = read_json(layout.shards)
    page = read_page(layout)
    cards = page.cards.frame
    image = Rows.of(layout).image
    small = small_pictures(layout, image, cards["_row"].to_list(), cards["_item"].to_list(), page.side)
    with _written(place) as file:
        file.writelines(page_pieces(page, _counted(small, cards.height, told)))
        if read_json(layout.shards) != before:
            raise DatasetError(f"a run wrote into {layout.root} meanwhile: run the same command again")
    return place


def _score(layout: Layout, say: Callable[[str], None]) -> None:
    try:
        scored(layout, say=say)
    except DatasetError as error:
        say(f"without quality: {error}")


def read_page(layout: Layout) -> Page:
    """All of the page but its pictures. Raises `DatasetError`."""
    rows = Rows.of(layout)
    counts, cards = count_dataset(layout), read_cards(rows)
    numbers = rows.of_each_card(_NUMBERS).collect(engine="streaming")
    return Page(
        name=layout.root.absolute().name,
        lede=lede(counts),
        facts=list(facts(counts, numbers)),
        figures=list(figures(numbers)),
        cards=cards,
        details=Details(rows),
        scores=rows.scores,
        side=side_for(cards.frame["image_size"].count()),
    )


def _counted(pictures: Iterator[bytes | None], total: int, told: Callable[[int, int], None]) -> Iterator[bytes | None]:
    for number, picture in enumerate(pictures, 1):
        yield picture
        told(number, total)


@contextmanager
def _written(place: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole."""
    temporary = place.with_name(f".{place.name}.{uuid4().int}")
    try:
        with write_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
            temporary.replace(place)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
