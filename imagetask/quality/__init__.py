"""The quality of pictures: scored from their bytes, once each, in a table beside the rows; none is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import polars as pl

from imagetask.errors import DatasetError, StorageError, TaskError, UsageError
from imagetask.layout import Layout
from imagetask.quality.groups import first_alike
from imagetask.quality.keep import keep_expression
from imagetask.quality.measures import METHOD
from imagetask.quality.pictures import flat, picture_groups
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
    `blur`, `phash`, `aspect`, `colourfulness` (see `imagetask.quality.measures`), null where there is no whole picture;
    `near_duplicate_group`, `same_bytes_group` (the number of the group's first row, null where a picture is alone),
    `duplicate` (another one of its groups stands before it); and the columns of the scorers. Lists where a row holds
    several pictures. Each picture is decoded once, also over later calls.

    scorers: import paths, as in "my_scorers:score"; those of earlier calls stay. told: takes how many pictures were
    scored so far. say: takes what a person should know. The caller holds the folder. Raises `DatasetError`,
    `UsageError`, `TaskError`, `StorageError`.
    """
    origin, shards = read_origin(layout), shards_now(layout)
    wanted, lost = _wanted(origin, scorers, say)
    known = origin if origin is not None and origin.method == METHOD else None
    covered = known is not None and known.scored.issuperset((scorer.path, scorer.digest) for scorer in wanted)
    if covered and known is not None and known.shards == shards:
        return False
    own = {scorer["path"]: scorer["columns"] for scorer in known.scorers} if known else {}
    kept = [name for columns in own.values() for name in columns] if covered else []
    frames = [known_scores(layout, [*MEASURES, *kept])] if covered else []
    frames += new_scores(layout, frames[0]["image_sha256"].to_list() if frames else [], wanted, told)
    scores = _joined(frames)
    columns = [name for name in scores.columns if name not in MEASURES and name != "image_sha256"]
    origins = [{"path": s.path, "digest": s.digest, "columns": own.get(s.path, columns)} for s in wanted]
    _write(layout, scores, Origin(METHOD, shards, [*origins, *(lost if covered else [])]))
    return True


def scan_scored(layout: Layout) -> pl.LazyFrame:
    """All rows of the dataset, lazily, with their scores beside them; no image is read where none is selected.

    Raises `DatasetError` where the table of scores is missing, or is of another state of the dataset.
    """
    origin = read_origin(layout)
    if origin is None or origin.method != METHOD or origin.shards != shards_now(layout):
        raise DatasetError(
            f"the pictures of {layout.root} are not scored as they are now: imagetask score {layout.root}"
        )
    rows, scores = pl.scan_parquet(shard_files(layout)), pl.scan_parquet(table_path(layout)).drop(KEYS)
    return pl.concat([rows, scores], how="horizontal")


def _wanted(
    origin: Origin | None, scorers: Sequence[str], say: Callable[[str], None] | None
) -> tuple[list[Scorer], list[dict[str, object]]]:
    """The scorers of this call and of earlier ones; and those of earlier ones that cannot be had any more."""
    wanted, lost = [load_scorer(path) for path in dict.fromkeys(scorers)], []
    for earlier in origin.scorers if origin else ():
        if earlier["path"] in scorers:
            continue
        try:
            wanted.append(load_scorer(earlier["path"]))
        except UsageError as error:
            lost.append(earlier)
            if say is not None:
                say(f"{error}; what it gave stays, new pictures have null")
    return wanted, lost


def _joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    if not frames:
        return pl.DataFrame(schema={"image_sha256": pl.String, **MEASURES})
    try:
        return pl.concat(frames, how="diagonal_relaxed").rechunk()
    except pl.exceptions.PolarsError as error:
        raise TaskError(f"a scorer gave one column values of several types: {error}") from error


def _write(layout: Layout, scores: pl.DataFrame, origin: Origin) -> None:
    groups = _groups(layout, scores)
    path = table_path(layout)
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(exist_ok=True)
        write_table(temporary, _rows(layout, scores, groups), origin)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _groups(layout: Layout, scores: pl.DataFrame) -> pl.DataFrame:
    """`GROUPS` of every picture, one after the other. What a group is called is the number of its first row."""
    places = pl.DataFrame({"image_sha256": scores["image_sha256"]}).with_row_index("place")
    rows, found = [], []
    first = 0
    for group in picture_groups(layout):
        keys = group.keys.select("image_sha256").with_row_index("row", first)
        first += keys.height
        if isinstance(keys.schema["image_sha256"], pl.List):
            keys = keys.explode("image_sha256", empty_as_null=False, keep_nulls=True)
        joined = keys.join(places, on="image_sha256", how="left", maintain_order="left")
        rows.append(joined["row"])
        found.append(joined["place"])
    frame = pl.DataFrame({"row": pl.concat(rows), "same": pl.concat(found)})
    alike = pl.Series("alike", _alike(scores["phash"])) if scores.height else pl.Series("alike", [], dtype=pl.Int64)
    frame = frame.with_columns(alike=alike.gather(frame["same"].fill_null(0)) if scores.height else None)
    frame = frame.with_columns(alike=pl.when(pl.col("same").is_not_null()).then("alike"))
    named = {"near_duplicate_group": "alike", "same_bytes_group": "same"}
    frame = frame.with_row_index("picture").with_columns(
        *(
            pl.when(pl.col(key).is_not_null() & (pl.len().over(key) > 1))
            .then(pl.col("row").first().over(key))
            .cast(pl.Int64)
            .alias(name)
            for name, key in named.items()
        ),
        duplicate=pl.any_horizontal(
            pl.col(key).is_not_null() & (pl.col("picture") > pl.col("picture").first().over(key))
            for key in named.values()
        ),
    )
    return frame.select(*GROUPS)


def _alike(hashes: pl.Series) -> pl.Series:
    """For each picture the place of the first one of its near-duplicate group; null for one without a hash."""
    there = hashes.is_not_null()
    if not there.any():
        return pl.Series([None] * len(hashes), dtype=pl.Int64)
    words = np.frombuffer(bytes.fromhex("".join(hashes.drop_nulls())), ">u8").astype(np.uint64).reshape(-1, 4)
    own = there.arg_true()
    first = own.gather(pl.Series(first_alike(words))).cast(pl.Int64)
    return pl.Series([None] * len(hashes), dtype=pl.Int64).scatter(own, first)


def _rows(layout: Layout, scores: pl.DataFrame, groups: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The table, a frame for each row group of the dataset."""
    picture = 0
    for group in picture_groups(layout):
        keys = group.keys
        hashes = flat(keys["image_sha256"]).alias("image_sha256")
        cells = hashes.to_frame().join(scores, on="image_sha256", how="left", maintain_order="left")
        cells = cells.drop("image_sha256").hstack(groups.slice(picture, cells.height))
        picture += cells.height
        order = [*MEASURES, *GROUPS, *(name for name in cells.columns if name not in {*MEASURES, *GROUPS})]
        cells = cells.select(order)
        if isinstance(keys.schema["image_sha256"], pl.List):
            rows = pl.Series("row", range(keys.height)).repeat_by(keys["image_sha256"].list.len().fill_null(0))
            cells = (
                cells.with_columns(rows.explode(empty_as_null=False)).group_by("row", maintain_order=True).agg(pl.all())
            )
            cells = cells.drop("row")
        yield keys.hstack(cells)
