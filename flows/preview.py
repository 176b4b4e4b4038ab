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
from imagetask.layout import alone_in, write_whole
from imagetask.models import split_model
from imagetask.models.base import Generation
from imagetask.models.managed import ManagedModel
from imagetask.models.treatments import TREATMENTS
from imagetask.plan import first_rows, make_task
from imagetask.settings import RunSettings
from imagetask.tried_instead import tried_instead

from .accounts import Account, account_of, managed_model
from .check import check_before_start
from .estimate import known_price
from .hub_credentials import hub_token
from .models_in_use import budget_of
from .wording import dollars, duration

Cell = tuple[PILImage.Image | Image | None, str]


@dataclass(frozen=True, slots=True)
class Preview:
    """sheet: the picture's file. pending: images that the budget did not allow. calls: of the whole source; left:
    without those whose end this preview has seen.

    seconds: what these would take: models of one backend one after another, the backends side by side. usd: what they
    cost at most; None where the block's prices do not tell.
    """

    sheet: Path
    made: int
    failed: dict[str, str]
    pending: int
    rows: int
    calls: int
    left: int
    seconds: float
    usd: float | None

    def lines(self) -> list[str]:
        """What to tell a person."""
        failed = [f"failed: {kind}: {message}" for kind, message in self.failed.items()]
        return [
            f"{self.made} images, in one picture: {self.sheet}",
            *failed,
            *([f"pending: {self.pending:,}: the budget of the dataset is reached"] if self.pending else []),
            f"The whole: {self.rows:,} rows, {self.calls:,} calls; "
            f"{self.left:,} are left, about {duration(self.seconds)}{self._price()}.",
            f"They are kept: generate with --out {self.sheet.parent} does not ask for them again.",
        ]

    def _price(self) -> str:
        return f", at most {dollars(self.usd)}" if self.usd else ""


def preview_rows(settings: RunSettings, rows: int) -> Preview:
    """Generates the first rows with each model, into the store of `settings`, within the budget of the dataset.

    Beside the store it writes the picture, and what the images cost; meanwhile no run goes into the folder.
    Raises `UsageError`, `RunStopped`, `TaskError`, `StorageError`.
    """
    check_before_start(settings)
    for model in settings.model if settings.max_cost is not None else ():
        known_price(settings, model)
    settings.layout.make_state()
    with alone_in(settings.layout):
        return _previewed(settings, rows)


def _previewed(settings: RunSettings, rows: int) -> Preview:
    frame, marks, total = first_rows(settings, rows, hub_token(settings.hub_credentials))
    budget = budget_of(settings)
    tried: list[Generation] = []
    calls = left = 0
    usd: float | None = 0.0
    seconds: dict[str, float] = defaultdict(float)
    for model in settings.model:
        account = account_of(settings, model)
        with managed_model(settings, model, account, budget=budget) as managed:
            generations, of_each_row = _tried(settings, model, managed, frame, marks)
        still = total * of_each_row - sum(map(_ended, generations))
        latencies = [one.latency for one in generations if one.latency]
        seconds[split_model(model)[0]] += _seconds(account, still, latencies)
        calls, left = calls + total * of_each_row, left + still
        price = known_price(settings, model)
        usd = None if usd is None or price is None else usd + still * price
        tried += generations
    _draw([(one.image, _told(one)) for one in tried], settings.layout.contact_sheet)
    made = sum(one.image is not None for one in tried)
    failed: dict[str, str] = {one.error_kind: one.error_message or "" for one in tried if one.error_kind is not None}
    pending = sum(one.status == "pending" for one in tried)
    return Preview(settings.layout.contact_sheet, made, failed, pending, total, calls, left, max(seconds.values()), usd)


def _tried(
    settings: RunSettings, model: str, managed: ManagedModel, frame: pl.DataFrame, marks: pl.DataFrame
) -> tuple[list[Generation], int]:
    """The generations of the rows of `frame` with one model, and how many a row has. marks: of the rows."""
    instead = tried_instead(settings.layout, model, marks["row_id"].to_list())
    view = managed.for_rows(marks["ordinal"].to_list(), instead=instead)
    task = make_task(settings, view)
    answered(task, frame.to_dicts())
    return [one for row in view.asked or () for one in row], task.num_generations


def _ended(generation: Generation) -> bool:
    """Whether a run would not ask for it again."""
    if generation.status == "pending":
        return False
    return generation.error_kind is None or not TREATMENTS[generation.error_kind].asked_again


def _told(generation: Generation) -> str:
    return "pending" if generation.status == "pending" else generation.error_message or generation.prompt


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
