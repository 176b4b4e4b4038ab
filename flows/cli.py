"""The command line: `imagetask generate`, `preview` and `status`; further commands are in command_line/."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.markup import escape

from imagetask import __version__
from imagetask.errors import ImageTaskError, RunStopped, UsageError
from imagetask.settings import RunSettings

from .command_line.blocks import blocks
from .command_line.deploy import register as register_deployments
from .command_line.export import export
from .command_line.options import Options, Out, Sources
from .command_line.push import push
from .command_line.report import report
from .command_line.retry import retry
from .command_line.running import KEPT, run_flow
from .command_line.score import score
from .command_line.standard_input import STANDARD_INPUT, saved_standard_input
from .command_line.terminal import (
    DONE,
    SOME_FAILED,
    SOME_PENDING,
    STOPPED,
    WRONG_USAGE,
    console,
    if_interrupted,
    quiet,
    say,
    wrong_words,
)
from .resume_command import command_of
from .wording import paid_for

_DEFAULTS = Options()
app = App(
    name="imagetask",
    help="From a table of prompts to an image dataset: no image paid for twice, no row lost.",
    version=__version__,
    exit_on_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    print_error=False,
)
register_deployments(app)
for command in (retry, report, score, export, push, blocks):
    app.command(command)


def _read(source: tuple[str, ...], out: Path) -> tuple[str, ...]:
    """The words of SOURCE, with a file in place of standard input. Raises `UsageError`."""
    return (saved_standard_input(out),) if source == (STANDARD_INPUT,) else source


@app.command
def generate(*source: Sources, out: Out, options: Annotated[Options, Parameter(name="*")] = _DEFAULTS) -> int:
    """Generate an image for every row of SOURCE, and make a dataset of them in OUT.

    The same command goes on where an earlier run ended: finished images are never asked for again.
    Keys come from a block (--credentials), or from OPENAI_API_KEY or HF_TOKEN.
    Exit codes: 0 all rows done, 3 finished with failed rows, 4 a budget was reached, 1 stopped, 2 wrong usage.
    """
    parameters = options.parameters(_read(source, out), out)
    settings = RunSettings.checked(**parameters)
    quiet()
    from .check import check_hub, check_models, check_source
    from .embedded_server import EmbeddedServer

    check_source(settings)
    if settings.hub_credentials is None:
        check_hub(settings)
    server = EmbeddedServer()
    check_models(settings)
    return run_flow("generate_images", parameters, out, settings, server)


@app.command
def preview(
    *source: Sources,
    rows: Annotated[int, Parameter(help="How many rows to try.")] = 4,
    out: Out = Path("preview"),
    options: Annotated[Options, Parameter(name="*")] = _DEFAULTS,
) -> int:
    """Try the first rows of SOURCE, look at them in one picture, and learn what the whole would take.

    The images are kept: `generate` with the same --out does not ask for them again.
    """
    settings = RunSettings.checked(**options.parameters(_read(source, out), out))
    if rows < 1:
        raise UsageError(f"--rows {rows}: expected at least 1")
    quiet()
    from .preview import preview_rows

    with if_interrupted(f"Interrupted. {KEPT}"):
        result = preview_rows(settings, rows)
    for line in result.lines():
        say(line)
    if result.pending:
        return SOME_PENDING
    return SOME_FAILED if result.failed else DONE


@app.command
def status(folder: Annotated[Path, Parameter(help="Folder of the dataset.")], /) -> int:
    """Tell how far the last run into FOLDER is, what failed, and how to go on."""
    from imagetask.layout import is_running
    from imagetask.models.budget import spent
    from imagetask.runs import Run, counts_so_far

    run = Run.read(folder)
    total, counts = counts_so_far(folder)
    running = is_running(run.settings.layout)
    state = "running" if running else "was killed" if run.state == "running" else run.state

    say(f"{folder}: {state}" + (f": {run.message}" if run.message else ""))
    whole = counts.generations >= total
    say(
        f"images: {counts.done:,} of {total:,}"
        + ("" if whole else " in whole chunks; those of others are kept as well")
    )
    for kind, count in sorted(counts.failed.items()):
        say(f"failed: {count:,} {kind}")
    if counts.pending:
        say(f"pending: {counts.pending:,}")
    so_far = spent(run.settings.layout.spent)
    if so_far.usd or so_far.unpriced:
        say(f"so far: {paid_for(so_far)}")
    if not running and (run.state != "finished" or counts.pending):
        say(f"go on:  {command_of(run.settings, run.started_in, run.retry_left, larger=run.budget_reached)}")
    if not running and counts.failed:
        say(f"failed rows once more: imagetask retry {shlex.quote(str(folder))}")
    return DONE


def _told(error: Exception | KeyboardInterrupt) -> int:
    """Says in one sentence what went wrong, and gives the exit code."""
    if isinstance(error, KeyboardInterrupt):
        say(str(error) or "Interrupted.")
        return STOPPED
    told = f"{error.message} ({error.kind})" if isinstance(error, RunStopped) else str(error)
    console.print(f"[red]Error:[/red] {escape(told)}", highlight=False, soft_wrap=True)
    if isinstance(error, RunStopped):
        say(KEPT)
    return WRONG_USAGE if isinstance(error, UsageError) else STOPPED


def main() -> None:
    """Entry point of the command `imagetask`."""
    try:
        words = sys.argv[1:]
        if words[1:2] == ["-"] and words[0] in ("generate", "preview"):
            words[1] = STANDARD_INPUT
        code = app(words)
    except CycloptsError as error:
        code = _told(UsageError(wrong_words(error)))
    except (ImageTaskError, KeyboardInterrupt) as error:
        code = _told(error)
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)
