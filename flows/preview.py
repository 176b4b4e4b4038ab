"""A few rows of a source, tried without Prefect: a contact sheet, and what the whole would take."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

from imagetask.chunks import answered
from imagetask.drawing.contact_sheet import contact_sheet
from imagetask.images import Image
from imagetask.layout import write_whole
from imagetask.models.base import Generation
from imagetask.models.treatments import TREATMENTS
from imagetask.plan import first_rows, make_task
from imagetask.settings import RunSettings

from .check import check_before_start
from .models_in_use import managed_model

Cell = tuple[PILImage.Image | Image | None, str]


@dataclass(frozen=True, slots=True)
class Preview:
    """sheet: the picture's file. calls: of the whole source; left: without those whose end this preview has seen.

    seconds: what these would take.
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
            f"{self.left:,} are left, about {_duration(self.seconds)}.",
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
    calls = 0
    for model in settings.model:
        with managed_model(settings, model) as managed:
            view = managed.for_rows(ordinals)
            task = make_task(settings, view)
            answered(task, frame.to_dicts())
        calls += total * task.num_generations
        tried += [one for row in view.asked or () for one in row]
    _draw([(one.image, one.error_message or one.prompt) for one in tried], settings.layout.contact_sheet)
    made = sum(one.image is not None for one in tried)
    failed: dict[str, str] = {one.error_kind: one.error_message or "" for one in tried if one.error_kind is not None}
    left = calls - sum(one.error_kind is None or not TREATMENTS[one.error_kind].asked_again for one in tried)
    seconds = _seconds(settings, left, [one.latency for one in tried if one.latency])
    return Preview(settings.layout.contact_sheet, made, failed, total, calls, left, seconds)


def _draw(cells: list[Cell], path: Path) -> None:
    picture = io.BytesIO()
    contact_sheet(cells).save(picture, "PNG")
    write_whole(path, picture.getvalue())


def _seconds(settings: RunSettings, calls: int, latencies: list[float]) -> float:
    """How long so many calls take: as many at once as allowed, and no more a minute than allowed."""
    if not calls:
        return 0.0
    each = sum(latencies) / len(latencies) if latencies else 0.0
    at_once = each * calls / min(settings.max_concurrency, calls)
    return max(at_once, 60 * calls / settings.requests_per_minute if settings.requests_per_minute else 0.0)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
