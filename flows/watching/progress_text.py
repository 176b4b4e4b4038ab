"""How far a run is, as markdown for its live artifact."""

from __future__ import annotations

import time
from collections.abc import Mapping

from imagetask.markdown import code, pairs, text
from imagetask.models import AsyncImageGenerationModel, model_class, split_model
from imagetask.settings import RunSettings

from ..monitoring import Progress
from ..outcome import Ending
from ..wording import by_kind, dollars, duration

_BAR = 40
_RELOAD = "; reload the page to see newer"
_WAITS: Mapping[str, str] = {"rate_limited": "a rate limit", "loading": "the model to be loaded"}


def progress_text(settings: RunSettings, progress: Progress, ending: Ending | None = None) -> str:
    """ending: None while the run goes on."""
    done, total = min(progress.finished, progress.total), progress.total
    share = done / total if total else 1.0
    bar = "█" * int(_BAR * share) + "░" * (_BAR - int(_BAR * share))
    head = [f"{done:,} of {total:,} done", f"{int(100 * share)} %"]
    rows = {
        "images": _images(progress),
        "failed": failed_told(progress.failed),
        "speed": _speed(progress, ending is None),
        "time left": _left(progress) if ending is None else "",
        "waiting for": _waiting(progress) if ending is None else "",
        "estimate": "" if progress.estimate is None or not progress.estimate.images else str(progress.estimate),
        "cost so far": cost_told(settings, progress),
        "calls": f"{progress.calls:,}",
        "model": ", ".join(code(model) for model in settings.model),
        "dataset": code(settings.out),
        "updated": time.strftime("%H:%M:%S UTC, %d %b %Y", time.gmtime()) + (_RELOAD if ending is None else ""),
    }
    doing = _doing(progress) if ending is None else f"**{text(ending.name)}** · {text(ending.message, 500)}"
    return f"## {' · '.join(head)}\n\n`{bar}`\n\n{doing}\n\n{pairs(rows)}\n"


def failed_told(failed: Mapping[str, int]) -> str:
    """How many failed, and of which kind."""
    return f"{sum(failed.values()):,} ({text(by_kind(failed))})" if failed else "none"


def cost_told(settings: RunSettings, progress: Progress) -> str:
    """What this run's images cost, or why that is not known; empty where only models of this machine were asked."""
    if not any(issubclass(model_class(split_model(model)[0]), AsyncImageGenerationModel) for model in settings.model):
        return ""
    if not progress.unpriced:
        return dollars(progress.cost)
    if not progress.cost:
        return "not known: prices belong in the block"
    return f"{dollars(progress.cost)}, and {progress.unpriced:,} images for which the block has no price"


def _images(progress: Progress) -> str:
    reused = progress.images - progress.new_images
    return f"{progress.images:,}" + (f" ({reused:,} reused, {progress.new_images:,} new)" if reused else "")


def _doing(progress: Progress) -> str:
    if progress.cancelled:
        return "**Being cancelled**"
    return "**Running**" if progress.chunk_seconds is None else "**Making the dataset**"


def _speed(progress: Progress, running: bool) -> str:
    """Just now, while images come; then over the whole run."""
    if running and progress.chunk_seconds is None:
        return "" if progress.speed is None else f"{progress.speed:,.0f} images a minute"
    return f"{progress.mean_speed:,.0f} images a minute, over the run" if progress.new_images else ""


def _left(progress: Progress) -> str:
    if progress.chunk_seconds is not None or progress.finished >= progress.total:
        return ""
    return "" if progress.time_left is None else f"about {duration(progress.time_left)}"


def _waiting(progress: Progress) -> str:
    kind = progress.waiting
    if kind is None:
        return ""
    return f"{_WAITS.get(kind, kind)}, {max(progress.waiting_seconds, 1.0):.0f} s more"
