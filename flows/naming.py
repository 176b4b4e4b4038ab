"""What a run is called in the UI."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run


def run_name() -> str:
    """The name of the flow run that goes on here: dataset · models · day."""
    parameters = flow_run.parameters
    model = parameters.get("model") or "placeholder"
    models = " + ".join([model] if isinstance(model, str) else map(str, model))
    return f"{_dataset(parameters)} · {models} · {day()}"


def _dataset(parameters: dict[str, Any]) -> str:
    return Path(str(parameters.get("out", ""))).name or "dataset"


def day() -> str:
    """The day for which the flow run that goes on here was asked, as YYYY-MM-DD."""
    start = flow_run.scheduled_start_time or datetime.now(UTC)
    return f"{start:%Y-%m-%d}"
