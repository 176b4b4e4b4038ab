"""Which rows an export holds: those that `keep` is true of, and that have the pictures their format needs."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from imagetask.errors import UsageError
from imagetask.exports.encoding import Encoding
from imagetask.exports.rows import Mask, ScoredRows
from imagetask.exports.writing import SplitWriter
from imagetask.images import FORMATS


@dataclass(frozen=True, slots=True)
class Selection:
    """chosen: whether each row of the dataset is exported. left_out: rows that `keep` is not true of.

    without_picture: rows that were kept and lack a picture that the format needs. suffixes: of the pictures in each
    image column, as exported; none for a column of lists.
    """

    chosen: Mask
    left_out: int
    without_picture: int
    suffixes: Mapping[str, Set[str]]


def select_rows(rows: ScoredRows, keep: str | None, writer: type[SplitWriter], encoding: Encoding) -> Selection:
    """Reads no picture. Raises `UsageError` where no row would remain, or the format cannot hold those that do."""
    kept = rows.kept(keep)
    if not kept.any():
        raise UsageError(f"no rows would remain: keep {keep!r} is true of none of {rows.num_rows:,} rows")
    chosen, pictures = kept, dict[str, npt.NDArray[np.str_]]()
    if writer.pictures != "none":
        plain = [name for name in rows.images if not pa.types.is_list(rows.schema.field(name).type)]
        pictures = rows.suffixes(plain)
    if pictures:
        there = [cells != "" for cells in pictures.values()]
        chosen = kept & (np.any(there, axis=0) if writer.pictures == "any" else np.all(there, axis=0))
    fixed = {FORMATS[encoding.image_format.upper()]} if encoding.image_format else None
    suffixes = {name: fixed or set(np.unique(cells[chosen]).tolist()) - {""} for name, cells in pictures.items()}
    writer.check(rows.schema, rows.images, suffixes)
    if not chosen.any():
        raise UsageError("no rows would remain: none has a picture; parquet holds rows without one")
    return Selection(chosen, int((~kept).sum()), int((kept & ~chosen).sum()), suffixes)
