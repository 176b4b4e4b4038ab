"""How many task runs a run has, and what a thousand of them ask of a Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.task_runs import HEALTH_BAR, TASK_RUNS, measure, p95
from imagetask.plan import MOST_TASK_RUNS, chunk_rows_for


@pytest.mark.parametrize("models", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 250, 249_750, 249_751, 1_000_000, 5_003_001, 1_000_000_000])
@pytest.mark.parametrize("remembered", [None, 1, 1_000])
def test_a_run_of_any_size_has_at_most_a_thousand_task_runs(rows: int, models: int, remembered: int | None) -> None:
    chunks = -(-rows // chunk_rows_for(rows, models, remembered))
    assert chunks * models + 1 <= MOST_TASK_RUNS == 1000


@pytest.mark.prefect_server
def test_a_server_answers_while_a_run_has_a_thousand_task_runs(tmp_path: Path) -> None:
    figures = measure(TASK_RUNS, tmp_path)
    assert figures.task_runs == TASK_RUNS
    assert len(figures.health) > 100
    assert p95(figures.health) < HEALTH_BAR, sorted(figures.health)[-10:]
