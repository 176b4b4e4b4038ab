"""Runs for the tests of what one sees of them: their chunks one by one, inside a flow run of Prefect's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import polars as pl
from imagetask_flows import monitoring
from imagetask_flows.accounts import make_model
from imagetask_flows.models_in_use import closing_models, open_model
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run

from imagetask.chunks import run_chunk
from imagetask.plan import Plan, make_plan
from imagetask.runs import Counts, counts_of_parts
from imagetask.settings import RunSettings

T = TypeVar("T")


def wait_for(true: Callable[[], bool], what: str = "it did not come about", seconds: float = 30) -> None:
    """Returns as soon as `true` says so; fails with `what` where it does not in time."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A run whose chunks are answered when the test says so."""

    settings: RunSettings
    plan: Plan
    progress: monitoring.Progress

    def answer(self, *chunks: int) -> None:
        """Answers these chunks of the plan, counted from 0; where none is named, all."""
        for number in chunks or range(len(self.plan.chunks)):
            chunk = self.plan.chunks[number]
            run_chunk(self.settings, chunk, open_model(self.settings, chunk.model, self.progress.run))

    @property
    def counts(self) -> Counts:
        """Of the chunks that have their part."""
        return counts_of_parts(self.settings.layout)


@contextmanager
def watched_run(out: Path, prompts: Sequence[str | None], run: str, **options: Any) -> Iterator[WatchedRun]:
    """A run into `out`, planned but not begun; its models are closed at the end."""
    source = out.with_suffix(".parquet")
    pl.DataFrame({"prompt": prompts}, schema={"prompt": pl.String}).write_parquet(source)
    settings = RunSettings.checked(source=str(source), out=out, **options)
    settings.layout.make()
    plan = make_plan(settings, [make_model(settings, model) for model in settings.model])
    with closing_models(run):
        yield WatchedRun(settings, plan, monitoring.begin(run, plan.generations))


def in_flow_run(work: Callable[[str], T]) -> T:
    """What `work` gives, called with the run's id inside a flow run. Needs the fixture `prefect_server`."""

    @flow(name="watched", persist_result=False)
    def watched() -> T:
        return work(str(flow_run.id))

    return watched()


def artifacts_of(run: str) -> dict[str, Artifact]:
    """Key → the artifact of the flow run; fails where two have one key."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
    with get_client(sync_client=True) as client:
        found = [one for one in client.read_artifacts(artifact_filter=wanted) if one.key is not None]
    keys = [str(one.key) for one in found]
    assert len(set(keys)) == len(keys), keys
    return dict(zip(keys, found, strict=True))
