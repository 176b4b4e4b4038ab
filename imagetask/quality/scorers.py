"""Scorers of the user's own: functions from a batch of pictures to columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image as PILImage

from imagetask.errors import TaskError, UsageError
from imagetask.import_paths import imported

Score = Callable[[list[PILImage.Image]], Mapping[str, Sequence[Any]]]

BATCH, BATCH_PIXELS = 32, 32_000_000
"""So many pictures, and px in all, a scorer gets at once, at most; a larger picture alone."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A function by its import path; digest: of its module's file."""

    path: str
    digest: str
    function: Score

    def score(self, pictures: list[PILImage.Image]) -> pl.DataFrame:
        """A row for each picture: numbers as Float64, so that batches agree, Boolean and text columns.

        Raises `TaskError` where the scorer raises, or gives something else.
        """
        try:
            columns = self.function(pictures)
        except Exception as error:
            raise TaskError(f"the scorer {self.path} raised {type(error).__name__}: {error}") from error
        if not isinstance(columns, Mapping) or not columns:
            raise TaskError(f"the scorer {self.path} gave {type(columns).__name__}: expected a dict of columns")
        frame = pl.DataFrame([self._series(str(name), values, len(pictures)) for name, values in columns.items()])
        return frame.with_columns(pl.selectors.numeric().cast(pl.Float64))

    def _series(self, name: str, values: Any, count: int) -> pl.Series:
        if isinstance(values, str | bytes) or not hasattr(values, "__len__") or len(values) != count:
            raise TaskError(
                f"the scorer {self.path} gave no {count} values in the column {name!r}: expected one for each picture "
                "of the batch"
            )
        try:
            cells = values.tolist() if hasattr(values, "tolist") else list(values)
            series = pl.Series(name, cells, strict=True)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise TaskError(f"the scorer {self.path} gave several types in the column {name!r}: {error}") from error
        if not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.String, pl.Null)):
            raise TaskError(
                f"the scorer {self.path} gave {series.dtype} in the column {name!r}: expected numbers, true and false, "
                "or text"
            )
        return series


def load_scorer(path: str) -> Scorer:
    """The function that `my_scorers:score` names; the working folder counts. Raises `UsageError`."""
    module, function = imported(path, "scorer", "my_scorers:score")
    if not callable(function):
        raise UsageError(f"{path!r} is no scorer: expected a function of a list of pictures")
    file = getattr(module, "__file__", None)
    text = Path(file).read_bytes() if file and Path(file).is_file() else path.encode()
    return Scorer(path, hashlib.blake2b(text, digest_size=8).hexdigest(), function)
