"""What a run is called in the UI: its name and its tags tell dataset, model and day."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run

from imagetask.settings import RunSettings


def run_name() -> str:
    """The name of the flow run that goes on here: dataset · models · day."""
    parameters = flow_run.parameters
    model = parameters.get("model") or "placeholder"
    models = " + ".join([model] if isinstance(model, str) else map(str, model))
    return f"{_dataset(parameters)} · {models} · {_day()}"


def tag_run(settings: RunSettings, run_id: str) -> None:
    """Adds to the tags of a flow run: dataset:NAME, model:MODEL for each model, day:YYYY-MM-DD."""
    own = {f"dataset:{settings.out.name}", f"day:{_day()}", *(f"model:{model}" for model in settings.model)}
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(run_id), tags={*flow_run.tags, *own})


def _dataset(parameters: dict[str, Any]) -> str:
    return Path(str(parameters.get("out", ""))).name or "dataset"


def _day() -> str:
    start = flow_run.scheduled_start_time or datetime.now(UTC)
    return f"{start:%Y-%m-%d}"
