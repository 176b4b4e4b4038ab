"""A few rows of a source, tried without Prefect: a contact sheet, and what the whole would take."""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image as PILImage

from imagetask.chunks import answered
from imagetask.drawing.contact_sheet import contact_sheet
from imagetask.images import Image
from imagetask.layout import write_whole
from imagetask.models import split_model
from imagetask.models.base import Generation
from imagetask.models.treatments import TREATMENTS
from imagetask.plan import first_rows, make_task
from imagetask.settings import RunSettings

from .check import check_before_start
from .models_in_use import Account, account_of, managed_model
from .wording import duration

Cell = tuple[PILImage.Image | Image | None, str]


@dataclass(frozen=True, slots=True)
class Preview:
    """sheet: the picture's file. calls: of the whole source; left: without those whose end this preview has seen.

    seconds: what these would take: models of one backend one after another, the backends side by side.
    """

    sheet: Path
    made: int
    failed: dict[str, str]
    rows: int
    calls: int
    left: int
    seconds: float

    def lines(self) -> list[str]:
        """What to tell a person."""
        failed = [f"failed: {kind}: {message}" for kind, message in self.failed.items()]
        return [
            f"{self.made} images, in one picture: {self.sheet}",
            *failed,
            f"The whole: {self.rows:,} rows, {self.calls:,} calls; "
            f"{self.left:,} are left, about {duration(self.seconds)}.",
            f"They are kept: generate with --out {self.sheet.parent} does not ask for them again.",
        ]


def preview_rows(settings: RunSettings, rows: int) -> Preview:
    """Generates the first rows with each model, into the store of `settings`; beside it only the picture is written.

    Raises `UsageError`, `RunStopped`, `TaskError`, `StorageError`.
    """
    check_before_start(settings)
    settings.layout.make_root()
    frame, ordinals, total = first_rows(settings, rows)
    tried: list[Generation] = []
    calls = left = 0
    seconds: dict[str, float] = defaultdict(float)
    for model in settings.model:
        account = account_of(settings, model)
        generations, of_each_row = _tried(settings, model, account, frame, ordinals)
        still = total * of_each_row - sum(map(_ended, generations))
        latencies = [one.latency for one in generations if one.latency]
        seconds[split_model(model)[0]] += _seconds(account, still, latencies)
        calls, left = calls + total * of_each_row, left + still
        tried += generations
    _draw([(one.image, one.error_message or one.prompt) for one in tried], settings.layout.contact_sheet)
    made = sum(one.image is not None for one in tried)
    failed: dict[str, str] = {one.error_kind: one.error_message or "" for one in tried if one.error_kind is not None}
    return Preview(settings.layout.contact_sheet, made, failed, total, calls, left, max(seconds.values()))


def _tried(
    settings: RunSettings, model: str, account: Account, frame: pl.DataFrame, ordinals: list[int]
) -> tuple[list[Generation], int]:
    """The generations of the rows of `frame` with one model, and how many a row has."""
    with managed_model(settings, model, account) as managed:
        view = managed.for_rows(ordinals)
        task = make_task(settings, view)
        answered(task, frame.to_dicts())
    return [one for row in view.asked or () for one in row], task.num_generations


def _ended(generation: Generation) -> bool:
    """Whether a run would not ask for it again."""
    return generation.error_kind is None or not TREATMENTS[generation.error_kind].asked_again


def _draw(cells: list[Cell], path: Path) -> None:
    picture = io.BytesIO()
    contact_sheet(cells).save(picture, "PNG")
    write_whole(path, picture.getvalue())


def _seconds(account: Account, calls: int, latencies: list[float]) -> float:
    """How long so many calls of a model take: as many at once as allowed, and no more a minute than allowed."""
    if not calls:
        return 0.0
    each = sum(latencies) / len(latencies) if latencies else 0.0
    at_once = each * calls / min(account.max_concurrency, calls)
    return max(at_once, 60 * calls / account.requests_per_minute if account.requests_per_minute else 0.0)
