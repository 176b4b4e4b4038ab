"""Failed rows that are tried again: which they are, with what, and what they were tried with before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imagetask.errors import ErrorKind, UsageError
from imagetask.layout import Layout
from imagetask.models import model_class, split_model
from imagetask.models.identity import Identity
from imagetask.parts import finished_chunks, part_path
from imagetask.plan import Chunk
from imagetask.settings import RunSettings, what_is_wrong
from imagetask.snapshot import write_frame
from imagetask.tried_instead import add_instead

_ROWS = {"model": pl.String, "row": pl.UInt32}


class Retry(BaseModel):
    """What is to be tried again, and with what in place of the run's own.

    kind: of the failures; none for all. model, seed: None for those of the run. base_url, credentials: of `model`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: list[ErrorKind] = Field(default_factory=list)
    model: str | None = None
    seed: int | None = Field(default=None, ge=0)
    base_url: str | None = None
    credentials: str | None = None

    @classmethod
    def checked(cls, **fields: Any) -> Retry:
        """The retry, or a `UsageError` of one sentence that names the option."""
        try:
            retry = cls(**fields)
        except ValidationError as error:
            field, why = what_is_wrong(error)
            raise UsageError(f"--{field.replace('_', '-')}: {why or 'there is no such option'}") from None
        for name in ("base_url", "credentials"):
            if retry.model is None and getattr(retry, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} goes with a --model: name the run's own to ask it elsewhere"
                )
        return retry

    @property
    def elsewhere(self) -> bool:
        """Whether another model, or another seed, is asked than the run's own."""
        return self.model is not None or self.seed is not None

    def settings_for(self, settings: RunSettings, model: str) -> RunSettings:
        """The settings with which the failed rows of one of a run's models are asked for.

        Credentials and URL are the run's, where it asks the backend itself and the backend takes them: with another
        model they are the same for all models of the run. Raises `UsageError`.
        """
        tried = self.model or model
        changed: dict[str, Any] = {"model": [tried]}
        backend = split_model(tried)[0]
        asked = backend in {split_model(one)[0] for one in settings.model}
        takes = model_class(backend).model_fields
        changed |= {} if asked and "base_url" in takes else {"base_url": None}
        changed |= {} if asked and "api_key" in takes else {"credentials": None}
        for name in ("seed", "base_url", "credentials"):
            if getattr(self, name) is not None:
                changed[name] = getattr(self, name)
        return RunSettings.checked(**{**settings.model_dump(), **changed})


def failed_rows(layout: Layout, kinds: Sequence[str]) -> pl.DataFrame:
    """The rows of the plan's finished chunks that failed: `model` (text) and `row` (UInt32, of the plan).

    kinds: of the failures; none for all. Rows that the last retry was to try, and did not reach, are among them.
    """
    left = _marks(layout).collect()
    found = [
        _failed_rows(layout, chunk, kinds, left.filter(model=chunk.model)["row"])
        for chunk, manifest in finished_chunks(layout)
        if manifest["failed"] or manifest["pending"]
    ]
    return pl.concat(found) if found else pl.DataFrame(schema=_ROWS)


def mark_failed(layout: Layout, kinds: Sequence[str]) -> None:
    """Writes down which rows `failed_rows` gives, for `marked`."""
    write_frame(layout.failed, failed_rows(layout, kinds))


def _failed_rows(layout: Layout, chunk: Chunk, kinds: Sequence[str], left: pl.Series) -> pl.DataFrame:
    """left: rows that were to be tried again before."""
    part = pl.read_parquet(part_path(layout, chunk.digest), columns=["status", "error_kind", "attempts"])
    each = part.height // (chunk.stop - chunk.start)  # several generations of a row are several rows of the part
    rows = part.with_columns(row=(pl.int_range(pl.len()) // each + chunk.start).cast(pl.UInt32))
    if isinstance(rows.schema["error_kind"], pl.List):
        rows = rows.explode("error_kind", "attempts")
    failed = pl.col("error_kind").is_in(list(kinds)) if kinds else pl.col("error_kind").is_not_null()
    unreached = pl.col("error_kind").is_null() & (pl.col("status") != "done") & (pl.col("attempts") > 0)
    wanted = failed.fill_null(value=False) | (unreached & pl.col("row").is_in(left.implode()))
    return rows.filter(wanted).select("row", model=pl.lit(chunk.model)).select(*_ROWS).unique(maintain_order=True)


def _marks(layout: Layout) -> pl.LazyFrame:
    """What `mark_failed` wrote down last; no rows where it never did."""
    return pl.scan_parquet(layout.failed) if layout.failed.is_file() else pl.LazyFrame(schema=_ROWS)


def marked(layout: Layout, chunk: Chunk) -> list[bool]:
    """Of each row of a chunk whether it is to be tried again, as `mark_failed` wrote it down."""
    inside = (pl.col("model") == chunk.model) & pl.col("row").is_between(chunk.start, chunk.stop - 1)
    rows = set(_marks(layout).filter(inside).collect()["row"].to_list())
    return [row in rows for row in range(chunk.start, chunk.stop)]


def note_instead(layout: Layout, model: str, identity: Identity) -> None:
    """Writes down with what the rows that `mark_failed` found are tried again in place of a model of the run."""
    marks = _marks(layout).filter(pl.col("model") == model)
    rows = pl.scan_parquet(layout.ordinals).with_row_index("row").join(marks, on="row", how="semi")
    add_instead(layout, model, rows.collect()["row_id"], identity)
