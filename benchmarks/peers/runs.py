"""Runs of imagetask and of its peers against one kind of model server, as the server's ledger and /proc saw them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.watched import Sample, Watched
from tests.model_server import RemoteModelServer, start_model_server

ROOT = Path(__file__).parents[2]
AT_ONCE, LATENCY, IMAGE_KIB = 50, 0.2, 100
CUT_SHORT = "number 29"
"""To the prompts that hold this the first answer is an image cut short, with a status of 200: 11 of 300."""

_LONGEST = 900.0


@dataclass(frozen=True, slots=True)
class Tool:
    """What makes the images: `python script URL FOLDER --images N --at-once N`, from the root of the repository."""

    name: str
    command: tuple[str, ...]

    def start(self, server: RemoteModelServer, folder: Path, images: int) -> Watched:
        """Starts a run into `folder`: a second one goes on there, as far as the tool can."""
        folder.mkdir(parents=True, exist_ok=True)
        words = [*self.command, server.openai_url, str(folder / "run")]
        words += ["--images", str(images), "--at-once", str(AT_ONCE)]
        return Watched(words, _environment(folder), ROOT, folder)


IMAGETASK = Tool("imagetask", (sys.executable, "-m", "benchmarks.peers.imagetask_run"))


def peer_tool(name: str, python: Path) -> Tool:
    """The peer whose script is `benchmarks/peers/NAME_run.py`, by the Python of its environment."""
    return Tool(name, (str(python), str(ROOT / "benchmarks" / "peers" / f"{name}_run.py")))


def _environment(folder: Path) -> dict[str, str]:
    """This process's environment, with all that the tools keep for themselves in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HF_"))}
    homes = {name: str(folder / name.lower()) for name in ("PREFECT_HOME", "HF_HOME", "DATA_DESIGNER_HOME")}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **homes, **quiet, "OPENAI_API_KEY": "none"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    calls: seconds from the first call to the last answer, as the server saw them. phase: seconds from the first call
    until the tool had all images. transform: seconds, None where there is no such step.
    generating, peak: MiB of all processes of the tool without a Prefect server (see `Sample`), until the images were
    there, and until the end of the transform; whole: with that server.
    cpu: seconds of CPU of the same processes, from the first call until the images were there.
    exact, images: in the dataset, those with the server's own bytes, and all. at_once: the most calls under way.
    """

    calls: float
    phase: float
    transform: float | None
    generating: float
    peak: float
    whole: float
    cpu: float
    exact: int
    images: int
    at_once: int


def measured(tool: Tool, folder: Path, images: int, *, cut_short: bool = False) -> Measured:
    """A run of so many images from start to end. Raises `SystemExit` where the tool fails."""
    with _server() as server:
        if cut_short:
            server.fail(CUT_SHORT, "truncated_image")
        watched = tool.start(server, folder, images)
        if watched.wait(_LONGEST) != 0:
            raise SystemExit(f"{tool.name} failed:\n{watched.last_words()}")
        told: dict[str, Any] = json.loads(watched.last_line())
        calls, at_once = server.calls, server.counts().max_in_flight
    first = min(call.time for call in calls)
    sent = {call.sha256 for call in calls}
    until = [sample for sample in watched.samples if sample.time <= told["ended"]]
    return Measured(
        calls=max(call.time + (call.seconds or 0.0) for call in calls) - first,
        phase=told["generated"] - first,
        transform=told.get("transform_seconds"),
        generating=max(sample.own for sample in until if sample.time <= told["generated"]),
        peak=max(sample.own for sample in until),
        whole=max(sample.whole for sample in until),
        cpu=_cpu(watched.samples, told["generated"]) - _cpu(watched.samples, first),
        exact=sum(digest in sent for digest in told["sha256"]),
        images=len(told["sha256"]),
        at_once=at_once,
    )


def _cpu(samples: Sequence[Sample], until: float) -> float:
    return max(sample.cpu for sample in samples if sample.time <= until)


@dataclass(frozen=True, slots=True)
class Killed:
    """A run killed halfway, and the same command again.

    in_flight: calls that the server had not answered at the kill. before, after: calls of both runs. again: images that
    had arrived before the kill and were asked for once more. ended: the second run's exit code, None where it did not
    end in time. images: in the dataset then.
    """

    in_flight: int
    before: int
    after: int
    again: int
    ended: int | None
    images: int


def killed(tool: Tool, folder: Path, images: int) -> Killed:
    """Kills every process of a run (SIGKILL) once half of the images have arrived, and gives the same command again."""
    with _server() as server:
        first = tool.start(server, folder, images)
        ended = first.wait(_LONGEST, until=lambda: server.counts().delivered >= images // 2)
        if ended is not None:
            raise SystemExit(f"{tool.name} ended before it could be killed:\n{first.last_words()}")
        in_flight = server.counts().in_flight
        first.kill()
        time.sleep(1.0)
        before = server.calls
        second = tool.start(server, folder, images)
        try:
            code = second.wait(_LONGEST)
        except TimeoutError:
            code = None
        after = server.calls[len(before) :]
    arrived = {call.prompt for call in before if call.delivered}
    again = len(arrived & {call.prompt for call in after})
    made = len(json.loads(second.last_line())["sha256"]) if code == 0 else 0
    return Killed(in_flight, len(before), len(after), again, code, made)


def _server() -> Any:
    return start_model_server(latency=LATENCY, image_kib=IMAGE_KIB, format="jpeg")
