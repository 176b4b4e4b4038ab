"""What a run came to, for people: an artifact of the run, and a file in the dataset folder."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from imagetask.layout import Layout, write_whole
from imagetask.markdown import block, code, pairs, picture, text
from imagetask.plan import read_plan
from imagetask.redact import told
from imagetask.runs import Counts, Run, counts_of_parts
from imagetask.settings import RunSettings

from ..monitoring import Progress
from ..outcome import BUDGET_REACHED, WITH_PENDING, Ending
from ..resume_command import command_of
from ..wording import duration
from .contact_sheets import SAMPLED, NewestImages, dataset_sheet
from .failures_told import Example, examples, meaning, next_run
from .posting import RunArtifact, artifact_key, impatient_client
from .progress_text import cost_told, failed_told

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ANSWER_SECONDS = 10.0
_ALWAYS_SHOWN = ("source", "out", "model", "seed")
_SHEET = "Contact sheet: some of the images"


@dataclass(frozen=True, slots=True)
class _Report:
    """Markdown, with a place for the sheet between head and body. sheet: a JPEG, or None where there is no image."""

    head: str
    body: str
    sheet: bytes | None

    def with_picture(self, markdown: str) -> str:
        """markdown: of the picture; empty for none."""
        return "\n\n".join(filter(None, [self.head, markdown, self.body]))


def publish_report(settings: RunSettings, progress: Progress, ending: Ending) -> None:
    """Writes the report of a run that has just ended, and posts it as an artifact; the one does not need the other.

    Whatever cannot be had, written or posted is told in the log, and raises nothing: the run is over.
    """
    report = _tried("it could not be made", lambda: _report(settings, progress, ending))
    if report is not None:
        _tried("it was not written", lambda: _write(settings, report))
        _tried("it was not posted", lambda: _post(settings, progress, report))


def _tried(trouble: str, work: Callable[[], T]) -> T | None:
    """What `work` gives; None where it raises, which goes to the log as this trouble with the report."""
    try:
        return work()
    except Exception as error:
        logger.warning("the report of the run is not complete: %s: %s", trouble, told(error))
        return None


def _report(settings: RunSettings, progress: Progress, ending: Ending) -> _Report:
    counts = progress.counts or counts_of_parts(settings.layout)
    head, body = _head(settings, progress, counts, ending), _body(settings, progress, counts, ending)
    sheet = _tried("its pictures are the newest ones", lambda: dataset_sheet(settings))
    newest = NewestImages()
    return _Report(head, body, sheet or _tried("it has no picture", lambda: newest.sheet(progress.newest(SAMPLED))))


def _write(settings: RunSettings, report: _Report) -> None:
    layout, markdown = settings.layout, ""
    if report.sheet is not None and _tried("its picture was not written", partial(_written, layout, report.sheet)):
        markdown = f"![{_SHEET}]({layout.report_picture.name})"
    write_whole(layout.report, report.with_picture(markdown).encode())


def _written(layout: Layout, sheet: bytes) -> bool:
    write_whole(layout.report_picture, sheet)
    return True


def _post(settings: RunSettings, progress: Progress, report: _Report) -> None:
    artifact = RunArtifact(progress.run, artifact_key("report", settings.out.name), "What the run came to")
    with impatient_client(_ANSWER_SECONDS) as client:
        artifact.put(client, report.with_picture("" if report.sheet is None else picture(report.sheet, _SHEET)))


def _head(settings: RunSettings, progress: Progress, counts: Counts, ending: Ending) -> str:
    images, failed = _images(progress, counts), sum(_failed(progress, counts).values())
    facts = [
        f"{images:,} of {progress.total:,} images",
        f"{failed:,} failed" if failed else "",
        duration(time.monotonic() - progress.started),
        cost_told(settings, progress) if progress.cost else "",
    ]
    return f"# {text(settings.out.name)}: {text(ending.name)}\n\n**{' · '.join(filter(None, facts))}**"


def _body(settings: RunSettings, progress: Progress, counts: Counts, ending: Ending) -> str:
    failed = _failed(progress, counts)
    found = _tried("it has no examples", lambda: examples(settings, failed, progress.examples)) or {}
    sections = [
        "" if ending.whole else _go_on(settings, ending),
        _rows(settings, progress, counts),
        _failures(failed, found) if failed else "",
        _calls(settings, progress),
        _settings(settings),
        _open(settings, ending.whole, bool(failed)),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _whole(progress: Progress, counts: Counts) -> bool:
    return counts.generations >= progress.total


def _images(progress: Progress, counts: Counts) -> int:
    """Images that are kept, of this and of earlier runs; of a run that was stopped also those of unfinished chunks."""
    return counts.done if _whole(progress, counts) else min(max(counts.done, progress.images), progress.total)


def _failed(progress: Progress, counts: Counts) -> dict[str, int]:
    """Kind → how many; of a run that was stopped also those of unfinished chunks."""
    found = dict(counts.failed)
    if not _whole(progress, counts):
        seen = progress.failed
        found = {kind: max(found.get(kind, 0), seen[kind]) for kind in {*found, *seen}}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _go_on(settings: RunSettings, ending: Ending) -> str:
    """Of a run that did not come to its end: why, and how to go on."""
    heading, before, first = (
        ("What to do", "", "Once this is mended, run")
        if ending.to_mend
        else ("How to go on", "The run did not come to its end: ", "To go on, run")
    )
    larger = ending.name == BUDGET_REACHED
    same = "a larger budget" if larger else "the same parameters"
    before = "" if larger or ending.name == WITH_PENDING else before
    last = Run.last(settings.out)
    command = command_of(settings, retry=None if last is None else last.retry_left, larger=larger)
    return (
        f"## {heading}\n\n{before}{text(ending.message, 1000)}\n\n"
        f"What came in is kept. {first} the same deployment with {same}, "
        f"or the command below; it asks only for what is missing.\n\n{block(_in_lines(command), 'sh')}"
    )


def _in_lines(command: str) -> str:
    """A command with each of its options on a line of its own."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if word.startswith("-"):
            lines.append(f"  {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)


def _rows(settings: RunSettings, progress: Progress, counts: Counts) -> str:
    plan, images = read_plan(settings.layout), _images(progress, counts)
    rows = {
        "rows of the source": f"{plan.rows:,}" if plan else "",
        "models": f"{len(settings.model)}, each asked for every row" if len(settings.model) > 1 else "",
        "images for each row": f"{plan.num_generations}" if plan and plan.num_generations > 1 else "",
        "images": f"{images:,} of {progress.total:,}",
        "new in this run": f"{min(progress.new_images, images):,}",
        "reused": f"{max(0, images - progress.new_images):,}",
        "failed": failed_told(_failed(progress, counts)),
        "pending": f"{counts.pending:,}" if counts.pending else "",
    }
    return f"## Rows\n\n{pairs(rows)}"


def _failures(failed: Mapping[str, int], found: Mapping[str, Sequence[Example]]) -> str:
    kinds = []
    for kind, count in failed.items():
        lines = [f"### {text(kind)}: {count:,}", f"{meaning(kind)} The next run {next_run(kind)}."]
        rows = [f"- “{text(one.prompt, 160)}”: {text(one.message, 300)}{_where(one)}" for one in found.get(kind, ())]
        kinds.append("\n\n".join([*lines, *(["\n".join(rows)] if rows else [])]))
    return "\n\n".join(["## Failures", *kinds])


def _where(example: Example) -> str:
    return f" ({code(example.row_id)})" if example.row_id else ""


def _calls(settings: RunSettings, progress: Progress) -> str:
    if not progress.calls:
        return "## Calls\n\nNone: all that was asked for was there already."
    seconds = sorted(progress.latencies)
    at = {name: seconds[min(len(seconds) - 1, int(len(seconds) * share))] for name, share in _SHARES.items() if seconds}
    rows = {
        "calls": f"{progress.calls:,}, of which {progress.calls_with_image:,} brought an image",
        "latency": ", ".join(f"{name} {value:.2f} s" for name, value in at.items()),
        "throughput": f"{progress.mean_speed:,.0f} images a minute",
        "cost": cost_told(settings, progress),
    }
    return f"## Calls\n\n{pairs(rows)}"


_SHARES: Mapping[str, float] = {"median": 0.5, "p95": 0.95, "longest": 1.0}


def _settings(settings: RunSettings) -> str:
    """What the run was asked, where it is not the default; no secret is in it."""
    given = settings.model_dump(mode="json", exclude_defaults=True)
    every = settings.model_dump(mode="json", include=set(_ALWAYS_SHOWN))
    rows = (f"- {code(name)}: {_value(value)}" for name, value in (every | given).items())
    return "\n".join(["## Settings", "", *rows])


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(code(item) for item in value)
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _open(settings: RunSettings, finished: bool, failures: bool) -> str:
    """How to open the dataset; where there is none yet, nothing."""
    if not any(settings.layout.data.glob("*.parquet")):
        return ""
    folder = repr(str(settings.out))
    lines = [
        "from imagetask import ImageDataset",
        "",
        f"dataset = ImageDataset({folder})",
        "dataset.to_pil(0).show()",
        'dataset.scan().select("prompt", "status").collect()  # Polars; no image is read'
        if settings.prompt_column is None
        else "dataset.scan()  # Polars",
        *(["dataset.failures()  # the rows without an image, with the reason"] if failures and finished else []),
        "",
        "from datasets import load_dataset",
        "",
        f'load_dataset({folder}, split="train")',
    ]
    heading = "Open the dataset" if finished else "Open the dataset, as the last whole run left it"
    return f"## {heading}\n\n{block(chr(10).join(lines), 'python')}"
