"""What a run is called in the UI."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect.runtime import flow_run


def run_name() -> str:
    """The name of the flow run that goes on here: dataset · models · day and time (UTC)."""
    parameters = flow_run.parameters
    model = parameters.get("model") or "placeholder"
    models = " + ".join([model] if isinstance(model, str) else map(str, model))
    dataset = Path(str(parameters.get("out", ""))).name or "dataset"
    return f"{dataset} · {models} · {_start():%Y-%m-%d %H:%M}"


def day() -> str:
    """The day for which the flow run that goes on here was asked, as YYYY-MM-DD (UTC)."""
    return f"{_start():%Y-%m-%d}"


def _start() -> datetime:
    return flow_run.scheduled_start_time or datetime.now(UTC)
