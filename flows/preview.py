"""A few rows of a source, tried without Prefect: a contact sheet, and what the whole would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

from imagetask.drawing.contact_sheet import contact_sheet
from imagetask.images import Image
from imagetask.plan import make_plan, make_task, read_rows
from imagetask.settings import RunSettings

from .check import check_before_start
from .models_in_use import managed_model

Cell = tuple[PILImage.Image | Image | None, str]


@dataclass(frozen=True, slots=True)
class Preview:
    """sheet: the picture's file. calls, seconds: what the whole source would take."""

    sheet: Path
    made: int
    failed: dict[str, str]
    rows: int
    calls: int
    seconds: float

    def lines(self) -> list[str]:
        """What to tell a person."""
        failed = [f"failed: {kind}: {message}" for kind, message in self.failed.items()]
        return [
            f"{self.made} images, in one picture: {self.sheet}",
            *failed,
            f"The whole: {self.rows:,} rows, {self.calls:,} calls, about {_duration(self.seconds)}.",
            f"They are kept: generate with --out {self.sheet.parent} does not ask for them again.",
        ]


def preview_rows(settings: RunSettings, rows: int) -> Preview:
    """Generates the first rows with each model, into the store of `settings`. Raises `UsageError`, `RunStopped`."""
    check_before_start(settings)
    settings.layout.make()
    cells: list[Cell] = []
    failed: dict[str, str] = {}
    latencies: list[float] = []
    plan = make_plan(settings)
    frame = read_rows(settings.layout, 0, min(rows, plan.rows))
    for model in settings.model:
        managed = managed_model(settings, model)
        with managed:
            view = managed.for_rows(frame["ordinal"].to_list())
            task = make_task(settings, view)
            list(task.process(frame.drop("row_id", "ordinal").to_dicts()))
        for generation in (one for row in view.asked or () for one in row):
            if generation.error_kind is not None:
                failed[generation.error_kind] = generation.error_message or ""
            latencies += [generation.latency] if generation.latency else []
            cells.append((generation.image, generation.error_message or generation.prompt))
    sheet = settings.out / "contact-sheet.png"
    contact_sheet(cells).save(sheet)
    calls = plan.rows * len(settings.model) * plan.num_generations
    seconds = calls * (sum(latencies) / len(latencies) if latencies else 0.0) / min(settings.max_concurrency, calls)
    return Preview(sheet, sum(image is not None for image, _ in cells), failed, plan.rows, calls, seconds)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
