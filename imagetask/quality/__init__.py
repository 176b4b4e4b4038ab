"""The quality of pictures: scored from their bytes, once each, in a table beside the rows; none is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from imagetask.errors import DatasetError, StorageError, TaskError, UsageError
from imagetask.layout import Layout, read_json, write_json
from imagetask.quality.groups import alike_pictures
from imagetask.quality.keep import keep_expression
from imagetask.quality.measures import METHOD
from imagetask.quality.pictures import nested, picture_groups
from imagetask.quality.scorers import Scorer, load_scorer
from imagetask.quality.scoring import Told, new_scores
from imagetask.quality.table import (
    GROUPS,
    KEYS,
    MEASURES,
    Origin,
    known_scores,
    read_origin,
    shards_now,
    table_path,
    write_table,
)
from imagetask.shards import shard_files

__all__ = ["keep_expression", "scan_scored", "scored"]


def scored(
    layout: Layout, scorers: Sequence[str] = (), *, told: Told | None = None, say: Callable[[str], None] | None = None
) -> bool:
    """Brings the table of scores up to date with the dataset; gives whether there was anything to do.

    A row for each row of the dataset, in its order: `row_id`, `model_name`, `generation`, `image_sha256`; `blank`,
    `blur`, `phash`, `signature`, `aspect`, `colourfulness` (see `imagetask.quality.measures`), null where there is no
    whole picture; `near_duplicate_group`, `same_bytes_group` (the number of the group's first row, null where a picture
    is alone), `duplicate` (another one of its groups stands before it); and the columns of the scorers. Lists where a
    row holds several pictures. Each picture is scored once, also over later calls; a scorer whose module has changed
    scores all anew. In memory are the scores of all, about 1 KB a picture, and the pictures of a row group.

    scorers: import paths, as in "my_scorers:score"; those of earlier calls stay. told: takes how many more pictures
    were scored. say: takes what a person should know. The caller holds the folder. Raises `DatasetError`, `UsageError`,
    `TaskError`, `StorageError`.
    """
    origin, shards = read_origin(layout), shards_now(layout)
    known = origin if origin is not None and origin.method == METHOD else None
    own = _own_scorers(layout)
    wanted, lost, lacking = _wanted(known, scorers, own)
    entries = {entry["path"]: entry for entry in (known.scorers if known else ())}
    new = [scorer for scorer in wanted if entries.get(scorer.path, {}).get("digest") != scorer.digest]
    if known is not None and known.shards == shards and not new:
        return False
    if say is not None:
        for line in lacking:
            say(line)
    columns = {path: entry["columns"] for path, entry in entries.items() if path not in {one.path for one in new}}
    scores = _scores(layout, known is not None, wanted, new, columns, told)
    origins = [{"path": one.path, "digest": one.digest, "columns": columns.get(one.path, [])} for one in wanted]
    _write(layout, scores, Origin(METHOD, shards, [*origins, *lost]))
    if scorers:
        write_json(_scorers_file(layout), {"scorers": sorted({*own, *scorers})})
    return True


def scan_scored(layout: Layout) -> pl.LazyFrame:
    """All rows of the dataset, lazily, with their scores beside them; no image is read where none is selected.

    Raises `DatasetError` where the table of scores is missing, is of another state of the dataset, or has a column of
    the same name.
    """
    origin = read_origin(layout)
    if origin is None or origin.method != METHOD or origin.shards != shards_now(layout):
        raise DatasetError(
            f"the pictures of {layout.root} are not scored as they are now: imagetask score {layout.root}"
        )
    rows, scores = pl.scan_parquet(shard_files(layout)), pl.scan_parquet(table_path(layout)).drop(*KEYS, "signature")
    if clash := sorted(set(rows.collect_schema()).intersection(scores.collect_schema())):
        raise DatasetError(
            f"{layout.root} has a column {clash[0]!r}, and so has the table of scores: give it another name in the "
            f"source with --rename {clash[0]}=…, or in the scorer, and delete {table_path(layout)}"
        )
    return pl.concat([rows, scores], how="horizontal")


def _scorers_file(layout: Layout) -> Path:
    """Which scorers were named for this folder here. A table may come from elsewhere: no code is run that it names."""
    return layout.state / "scorers.json"


def _own_scorers(layout: Layout) -> set[str]:
    known = (read_json(_scorers_file(layout)) or {}).get("scorers")
    return set(map(str, known)) if isinstance(known, list) else set()


def _wanted(
    known: Origin | None, scorers: Sequence[str], own: set[str]
) -> tuple[list[Scorer], list[dict[str, Any]], list[str]]:
    """The scorers of this call and of earlier ones; what is known of those that cannot be had any more, and why."""
    wanted, lost, lacking = [load_scorer(path) for path in dict.fromkeys(scorers)], [], []
    for entry in known.scorers if known else ():
        if entry["path"] in scorers:
            continue
        try:
            if entry["path"] not in own:
                raise UsageError(f"the scorer {entry['path']!r} was never named for this folder: it is not run")
            wanted.append(load_scorer(entry["path"]))
        except UsageError as error:
            lost.append(entry)
            lacking.append(f"{error}; what it gave stays, new pictures have null")
    return wanted, lost, lacking


def _scores(
    layout: Layout,
    is_known: bool,
    wanted: Sequence[Scorer],
    new: Sequence[Scorer],
    columns: dict[str, list[str]],
    told: Told | None,
) -> pl.DataFrame:
    """The scores of every picture, those of the table first. columns: of each scorer; those of new ones are put in."""
    kept = [*MEASURES, *(name for names in columns.values() for name in names)]
    known = known_scores(layout, kept) if is_known else pl.DataFrame(schema={"image_sha256": pl.String, **MEASURES})
    seen = set(known["image_sha256"])
    again = list(new_scores(layout, seen.__contains__, new, columns, told)) if new and seen else []
    if again:
        own = _joined(again).drop(MEASURES)
        known = known.join(own, on="image_sha256", how="left", maintain_order="left")
    return _joined([known, *new_scores(layout, lambda key: key not in seen, wanted, columns, told)])


def _joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="diagonal_relaxed").rechunk()
    except pl.exceptions.PolarsError as error:
        raise TaskError(f"a scorer gave one column values of several types: {error}") from error


def _write(layout: Layout, scores: pl.DataFrame, origin: Origin) -> None:
    """Puts the table into its place, whole."""
    path = table_path(layout)
    temporary = layout.state / f".{path.name}"
    try:
        layout.state.mkdir(exist_ok=True)
        write_table(temporary, _rows(layout, scores), origin)
        path.parent.mkdir(exist_ok=True)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rows(layout: Layout, scores: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The table, a frame for each row group of the dataset."""
    groups = _groups(layout, scores)
    own = [name for name in scores.columns if name not in MEASURES and name != "image_sha256"]
    first = 0
    for group in picture_groups(layout):
        hashes = group.hashes.alias("image_sha256").to_frame()
        cells = hashes.join(scores, on="image_sha256", how="left", maintain_order="left")
        cells = cells.hstack(groups.slice(first, cells.height)).select(*MEASURES, *GROUPS, *own)
        first += cells.height
        yield group.keys.hstack(
            nested(cells.with_columns(row=group.rows), group.keys.height) if group.listed else cells
        )


def _groups(layout: Layout, scores: pl.DataFrame) -> pl.DataFrame:
    """`GROUPS` of every picture, one after the other. What a group is called is the number of its first row."""
    places = scores.select("image_sha256", same=pl.int_range(pl.len())).with_columns(alike=alike_pictures(scores))
    found, first = [], 0
    for group in picture_groups(layout):
        pictures = pl.DataFrame({"row": group.rows + first, "image_sha256": group.hashes})
        found.append(pictures.join(places, on="image_sha256", how="left", maintain_order="left").drop("image_sha256"))
        first += group.keys.height
    number = pl.col("number")
    pictures = pl.concat(found).with_row_index("number")
    return pictures.select(
        *(
            pl.when(pl.col(key).is_not_null() & (pl.len().over(key) > 1))
            .then(pl.col("row").first().over(key))
            .alias(name)
            for name, key in (("near_duplicate_group", "alike"), ("same_bytes_group", "same"))
        ),
        duplicate=pl.when(pl.col("same").is_not_null()).then(
            pl.any_horizontal(
                pl.col(key).is_not_null() & (number > number.first().over(key)) for key in ("alike", "same")
            )
        ),
    )
