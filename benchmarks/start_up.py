"""How long a command takes to its first image, beside a bare Prefect flow of one task, in one run.

    python benchmarks/start_up.py                # medians of five interleaved runs of each
    python benchmarks/start_up.py --short        # one of each
    python benchmarks/start_up.py --help-only    # `imagetask --help` alone

Three states of the Prefect server: an embedded one with an empty home (cold: it makes its database), an embedded one
again (warm), and one that runs already (running). The bare flow is one task that notes the time, on Prefect's own
embedded server or on the running one. The first call is there when the model server has it, the first image when its
file is in the store. And `imagetask --help` beside a process that imports what such a command is made of.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.task_runs import free_port, prefect_server  # noqa: E402
from tests.model_server import RemoteModelServer, start_model_server  # noqa: E402

_SCRIPTS = Path(sysconfig.get_path("scripts"))
HELP_BAR = 1.0
_IMPORTS = "import cyclopts, pydantic"
_BARE_FLOW = """
import sys, time
from pathlib import Path
from prefect import flow, task

@task
def note():
    Path(sys.argv[1]).write_text(str(time.time()))

@flow
def bare():
    note()

bare()
"""


def to_first_image(models: RemoteModelServer, folder: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds from the command `imagetask generate` to the first call, and to the first image in the store."""
    models.reset()
    folder.mkdir()
    source, out = folder / "prompts.csv", folder / "dataset"
    source.write_text("prompt\n" + "".join(f"prompt number {number}\n" for number in range(8)))
    model = ["--model", "openai:bench", "--base-url", models.openai_url]
    started = time.time()
    _run([_SCRIPTS / "imagetask", "generate", source, "--out", out, *model], environment)
    images = (out / "_imagetask" / "store").glob("*/*.png")
    return models.calls[0].time - started, min(image.stat().st_mtime for image in images) - started


def to_first_task(folder: Path, environment: Mapping[str, str]) -> float:
    """Seconds from the command to the body of the bare flow's task."""
    folder.mkdir()
    started = time.time()
    _run([sys.executable, "-c", _BARE_FLOW, folder / "time"], environment)
    return float((folder / "time").read_text()) - started


def _run(words: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    ended = subprocess.run(
        [str(word) for word in words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if ended.returncode != 0:
        raise SystemExit(f"{words[0]} failed:\n{ended.stdout.decode()}{ended.stderr.decode()}")


def _environment(home: Path, url: str = "") -> dict[str, str]:
    """Of a command with this Prefect home; url: of the Prefect server that runs already."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "DO_NOT_TRACK": "1",
    }
    return {**inherited, **settings, **({"PREFECT_API_URL": url} if url else {})}


def first_images(runs: int, folder: Path) -> dict[str, list[float]]:
    """Figure → seconds of each run: the three states of the server, ours and the bare flow's by turns."""
    seconds = defaultdict[str, list[float]](list)
    port = free_port()
    running = _environment(folder / "running", f"http://127.0.0.1:{port}/api")
    with start_model_server() as models, prefect_server(port, running, folder):
        for number in range(runs):
            for state in ("cold", "warm", "running"):
                ours, bare = (folder / f"{who}{number}" for who in ("ours", "bare"))
                homes = (running, running) if state == "running" else (_environment(ours), _environment(bare))
                call, image = to_first_image(models, folder / f"{state}-ours{number}", homes[0])
                seconds[f"{state}: first call"].append(call)
                seconds[f"{state}: first image"].append(image)
                seconds[f"{state}: bare flow"].append(to_first_task(folder / f"{state}-bare{number}", homes[1]))
    return seconds


def help_told(runs: int) -> dict[str, list[float]]:
    """Seconds of `imagetask --help` on the clock, and of its CPU and that of the imports alone, by turns."""
    seconds = defaultdict[str, list[float]](list)
    commands: dict[str, list[str | Path]] = {
        "--help": [_SCRIPTS / "imagetask", "--help"],
        "imports of --help": [sys.executable, "-c", _IMPORTS],
    }
    for _ in range(3 * runs):
        for name, words in commands.items():
            before, began = _cpu_of_children(), time.perf_counter()
            _run(words, os.environ)
            seconds[name].append(time.perf_counter() - began)
            seconds[f"{name}, CPU"].append(_cpu_of_children() - before)
    return seconds


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ratios(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Medians of the ratios run by run, of what was measured."""
    pairs = {"--help": ("--help, CPU", "imports of --help, CPU")}
    pairs |= {state: (f"{state}: first image", f"{state}: bare flow") for state in ("cold", "warm", "running")}
    return {
        f"start-up, {name}": statistics.median(a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True))
        for name, (ours, theirs) in pairs.items()
        if ours in seconds
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one run of each")
    parser.add_argument("--help-only", action="store_true", help="`imagetask --help` alone, and no run")
    parser.add_argument("--json", type=Path, help="write the ratios to this file")
    options = parser.parse_args()
    runs = 1 if options.short else options.runs
    with tempfile.TemporaryDirectory() as folder:
        seconds = help_told(runs) | ({} if options.help_only else first_images(runs, Path(folder)))
    for name, values in seconds.items():
        print(f"{name:24} {statistics.median(values):6.2f} s", f"(bar {HELP_BAR} s)" if name == "--help" else "")
    figures = ratios(seconds)
    for name, ratio in figures.items():
        print(f"{name:24} {ratio:6.2f}   beside the {'imports' if '--help' in name else 'bare flow'}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if statistics.median(seconds["--help"]) > HELP_BAR:
        sys.exit("the bar was not reached")


if __name__ == "__main__":
    main()
