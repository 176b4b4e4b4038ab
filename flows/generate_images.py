"""The flow `generate_images`: plan → chunks, retried and cached, in a sliding window → image columns → dataset."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.runtime import flow_run

from imagetask.chunks import run_chunk
from imagetask.dataset import build_dataset
from imagetask.errors import HubError, ImageTaskError, RunStopped, StorageError, UsageError
from imagetask.layout import alone_in
from imagetask.lost_images import lacks_images
from imagetask.models import MAX_CONCURRENCY
from imagetask.parts import finished_chunks, is_final, read_manifest, sweep_parts
from imagetask.placeholders import remake_placeholders, void_listed
from imagetask.plan import Chunk, Plan, make_plan, plan_again, read_plan
from imagetask.retry_settings import Retry
from imagetask.retrying import mark_failed, marked, note_instead
from imagetask.runs import Counts, Run, counts_of_parts
from imagetask.settings import DEFAULT_TASK, Runner, RunSettings
from imagetask.store import GenerationStore

from . import monitoring
from .accounts import named_model
from .check import check_hub
from .chunk_runs import chunk_runs
from .estimate import estimate
from .hub_credentials import hub_token
from .models_in_use import budget_reached, closing_models, identity_instead, open_model, stop_models
from .monitoring import Progress
from .naming import run_name
from .outcome import announce, completed_state, ended_early, failed_state, finished
from .parameters_told import descriptions_of, with_parameters_told
from .task_runners import THREADS, chunk_runner
from .watching.artifacts import live_artifacts
from .watching.report import publish_report
from .watching.run_logs import run_logs, without_tracebacks
from .watching.telling import CANCELLED, cancelling, tag_run, tell_dead
from .wording import by_kind
from .worker_processes import note_chunk, wait_for_share

PUSH_LOG = logging.getLogger("imagetask.push")
"""What a push tells, in the log of the run and on the terminal."""

without_tracebacks()


def _digest(_: TaskRunContext, parameters: dict[str, Any]) -> str:
    return str(parameters["digest"])


def _may_pass(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a chunk is worth another try: not where a person, or a change of code, is needed."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StorageError) or not isinstance(error, ImageTaskError)


@task(
    name="generate-chunk",
    task_run_name="{model} rows {start} to {stop}",
    cache_key_fn=_digest,
    persist_result=True,
    result_serializer="json",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_jitter_factor=0.5,
    retry_condition_fn=_may_pass,
)
def generate_chunk(folder: str, model: str, start: int, stop: int, digest: str) -> dict[str, Any]:
    """Answers rows `start` to `stop` of the plan in `folder` and writes their part; gives its counts.

    The digest covers all that decides the part: it is the cache key.
    """
    run, run_id, chunk = Run.read(folder), str(flow_run.id), Chunk(model, start, stop, digest)
    with run_logs(get_run_logger()) if run.settings.runner != "threads" else nullcontext():
        wait_for_share(run_id, run.settings)
        managed = open_model(run.settings, model, run_id, run.retry)
        again = None if run.retry is None else marked(run.settings.layout, chunk)
        manifest = run_chunk(run.settings, chunk, managed, again)
        note_chunk(run_id, manifest)
    counts = Counts.of([manifest])
    failed = by_kind(counts.failed) or "none"
    get_run_logger().info(
        "rows %d to %d: %d images, of which %d reused; failed: %s", start, stop, counts.done, counts.reused, failed
    )
    return {"digest": digest, "rows": manifest["rows"], "failed": manifest["failed"]}


_ON_THE_CARD = {"task", "prompt_column", "prompt", "param_column", "num_generations", "param", "width", "height"} | {
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "license",
}


@task(name="transform-columns-to-image", task_run_name="dataset of {folder}", persist_result=False)
def transform_columns_to_image(folder: str, chunks: list[dict[str, Any]]) -> int:
    """The last step: the parts of the chunks → shards whose image columns are pictures; gives the number of rows."""
    settings = Run.read(folder).settings
    manifests = [read_manifest(settings.layout, Chunk(**chunk)) for chunk in chunks]
    if None in manifests:
        raise StorageError(f"a part is missing in {settings.layout.parts}: run the same command again to make it anew")
    told = settings.model_dump(mode="json", include=_ON_THE_CARD, exclude_defaults=True)
    told |= {"model": settings.model, "seed": settings.seed, "sources": _sources(settings)}
    dataset = build_dataset(settings.layout, [m for m in manifests if m], GenerationStore(settings.store_url), told)
    return len(dataset)


def _sources(settings: RunSettings) -> list[str]:
    plan = read_plan(settings.layout)
    return list(plan.sources) if plan else []


def _hub_may_answer(_task: Any, _run: Any, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), HubError)


@task(
    name="push-to-hub",
    task_run_name="{folder} to {repo}",
    persist_result=False,
    retries=1,
    retry_delay_seconds=60,
    retry_condition_fn=_hub_may_answer,
)
def push_to_hub(folder: str, repo: str) -> str:
    """Brings the dataset on the Hub up to date; gives its URL."""
    from imagetask.push import push

    settings = Run.read(folder).settings
    pushed = push(settings.layout, repo, token=hub_token(settings.hub_credentials), told=PUSH_LOG.info)
    PUSH_LOG.info("pushed: %s" if pushed.commit else "nothing is new: %s", pushed.url)
    return pushed.url


@flow(
    name="generate-images",
    flow_run_name=run_name,
    task_runner=THREADS,
    persist_result=False,
)
@with_parameters_told(descriptions_of(RunSettings))
def generate_images(
    source: str | list[str],
    out: str,
    model: str | list[str] = "placeholder",
    base_url: str | None = None,
    credentials: str | None = None,
    task: str = DEFAULT_TASK,
    prompt_column: str | None = None,
    prompt: str | None = None,
    param_column: dict[str, str] | None = None,
    row_id_column: str | None = None,
    rename: dict[str, str] | None = None,
    num_generations: int | None = None,
    seed: int = 0,
    width: int | None = None,
    height: int | None = None,
    negative_prompt: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    param: dict[str, Any] | None = None,
    chunk_rows: int | None = None,
    max_concurrency: int = MAX_CONCURRENCY,
    requests_per_minute: float | None = None,
    timeout: float | None = None,
    max_images: int | None = None,
    max_cost: float | None = None,
    max_failed: int | None = None,
    max_failed_share: float = 0.5,
    max_refused_share: float = 0.5,
    exact_size: bool = False,
    limit: int | None = None,
    store: str | None = None,
    rebuild: bool = False,
    runner: Runner = "threads",
    dask_address: str | None = None,
    license: str | None = None,
    push_to: str | None = None,
    hub_credentials: str | None = None,
) -> Any:
    """Generates an image for every row of a table of prompts, and makes a dataset of them.

    Finished generations are never asked for again: the same parameters go on where an earlier run ended.
    Gives the counts: rows, generations, done, reused, failed (by kind), failed_rows, pending. The state tells how it
    ended: Completed, "Completed with failures", "Budget reached", "Stopped: KIND" with what to mend, Failed, Cancelled.
    """
    parameters = {name: value for name, value in locals().items() if value is not None}
    try:
        settings = _with_its_store(RunSettings.checked(**parameters))
        settings.layout.make()
        with alone_in(settings.layout):
            return recorded(settings)
    except ImageTaskError as error:
        return failed_state(error)


def _with_its_store(settings: RunSettings) -> RunSettings:
    """With the store by name, for other machines and later runs, whose environment may name another.

    Where none is named it is that of the last run into the folder: its images are there.
    """
    last = None if settings.store or os.environ.get("IMAGETASK_STORE") else Run.last(settings.out)
    store = settings.store_url if last is None or last.settings.store is None else last.settings.store
    return settings if store == str(settings.layout.store) else settings.model_copy(update={"store": store})


def _check_store(last: Run | None, settings: RunSettings) -> None:
    """Raises `UsageError` where the images of the last run are in another store, and not in this one."""
    earlier = None if last is None else last.settings.store or str(settings.layout.store)
    if earlier is None or earlier == settings.store_url:
        return
    manifests = (manifest for _, manifest in finished_chunks(settings.layout))
    if lacks_images(settings.layout, manifests, GenerationStore(settings.store_url)):
        raise UsageError(
            f"--store {settings.store_url}: the images of {settings.out} are in {earlier}, and would be paid for "
            f"again; give --store {earlier}, or copy them"
        )


def recorded(settings: RunSettings, retry: Retry | None = None) -> State[Any]:
    """The run, with its record in the dataset folder from start to end, and then its report; gives its state.

    The caller holds the folder. retry: which failed rows are tried again, and nothing else. Raises `ImageTaskError`.
    """
    run_id = str(flow_run.id)
    with run_logs(get_run_logger()):
        tag_run(settings, run_id)
        last = Run.last(settings.out)
        _check_store(last, settings)
        _clean_up_after(last, settings, run_id)
        run = Run.start(settings, run_id, retry)
        progress = None
        try:
            plan = _planned(settings, retry)
            progress = monitoring.begin(run_id, plan.generations, estimate(settings, plan, retry))
            counts = _watched(settings, plan, progress, retry)
        except BaseException as error:
            ending = ended_early(error)
            run.end("stopped", ending.message)  # first: a process that was told to end may soon be killed
            if progress is not None:
                publish_report(settings, progress, ending)
            raise
        reached = budget_reached(run_id)
        ending = finished(counts, settings, budget_reached=reached)
        run.end("finished", None if ending.whole else ending.message, budget_reached=reached)
        publish_report(settings, progress, ending)
    announce(settings, counts)
    return completed_state(counts, settings, budget_reached=reached)


def _planned(settings: RunSettings, retry: Retry | None) -> Plan:
    """The plan: of the source, or for a retry that of the last run, in which the failed rows are marked."""
    check_hub(settings, of_folder=True)
    void_listed(settings.layout, GenerationStore(settings.store_url))
    models = [named_model(settings, model, retry) for model in settings.model]
    if retry is None:
        return make_plan(settings, models, hub_token(settings.hub_credentials))
    mark_failed(settings.layout, retry.kind)
    for model in settings.model if retry.elsewhere else ():
        note_instead(settings.layout, model, identity_instead(settings, model, retry))
    return plan_again(settings, models)


def _clean_up_after(last: Run | None, settings: RunSettings, run_id: str) -> None:
    """After a run that did not come to its end; a run that Prefect starts again has the same id."""
    if last is not None and last.state != "finished":
        GenerationStore(settings.store_url).sweep()
        if last.state == "running" and last.id not in (None, run_id):
            tell_dead(str(last.id))


def _watched(settings: RunSettings, plan: Plan, progress: Progress, retry: Retry | None) -> Counts:
    """The run, with what one sees of it in the UI while it goes on."""
    log = get_run_logger()
    log.info("%s: rows %d, chunks %d", settings.source, plan.rows, len(plan.chunks))
    log.info("%s", progress.estimate)
    cancel = partial(stop_models, progress.run, "interrupted", CANCELLED)
    with live_artifacts(settings, progress, cancel), closing_models(progress.run), cancelling(progress.run):
        return _generated(settings, plan, progress, retry)


def _stands(settings: RunSettings, retry: Retry | None, chunk: Chunk) -> bool:
    """Whether the part of a chunk is taken as it is: nothing in it is to be asked for by this run."""
    manifest = read_manifest(settings.layout, chunk)
    if settings.rebuild or manifest is None:
        return False
    return is_final(manifest) if retry is None else not any(marked(settings.layout, chunk))


def _generated(settings: RunSettings, plan: Plan, progress: Progress, retry: Retry | None) -> Counts:
    """The run itself: chunks, then image columns."""
    layout = settings.layout
    failed_rows = 0
    stands = partial(_stands, settings, retry)
    with (
        chunk_runner(settings, progress.run, retry) as runner,
        chunk_runs(generate_chunk, settings, plan, progress.run, stands, runner) as ended,
    ):
        for chunk, state in ended:
            state.result()
            manifest = read_manifest(layout, chunk)
            assert manifest is not None
            if state.name == "Cached":
                progress.add_cached(manifest)
            failed_rows += manifest["failed_rows"]
            _check_failed(settings, failed_rows)
    remake_placeholders(settings, lambda model: open_model(settings, model, progress.run, retry))
    counts = progress.end_chunks(counts_of_parts(layout))
    _check_failed(settings, counts.failed_rows)
    transform_columns_to_image(str(settings.out), [asdict(chunk) for chunk in plan.chunks])
    sweep_parts(layout, plan.chunks)
    if settings.push_to is not None:
        push_to_hub(str(settings.out), settings.push_to)
    return counts


def _check_failed(settings: RunSettings, failed_rows: int) -> None:
    if settings.max_failed is not None and failed_rows > settings.max_failed:
        allowed = f"more than --max-failed {settings.max_failed} allows"
        raise RunStopped("max_failed", f"{failed_rows} rows failed, {allowed}")
