"""A flow run in this process for a command: its server, its progress bar, its summary, its exit code."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagetask.settings import RunSettings

from .terminal import DONE, SOME_FAILED, SOME_PENDING, console, if_interrupted, say

if TYPE_CHECKING:
    from ..embedded_server import EmbeddedServer

KEPT = "What came in is kept; the same command goes on from there."


_AT_THE_START = ("fastapi.encoders", "prefect.flow_engine", "prefect.task_engine", "prefect.utilities.visualization")
"""What Prefect imports when a flow starts (seen with 3.8.8): while its server starts, that takes no time of its own."""


def run_flow(name: str, parameters: dict[str, Any], out: Path, settings: RunSettings, server: EmbeddedServer) -> int:
    """Runs a flow with a progress bar, and tells what it came to; gives the exit code. Prefect's logs go to its server.

    name: "generate_images" or "retry_failed". out: the folder as it was given. server: prepared, not yet started.
    """
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _end)  # Prefect's engine puts its own in its place, and this back at the flow's end
    with if_interrupted(f"Interrupted. {KEPT}"):
        state_name, counts = _ended(name, parameters, server)
    from ..outcome import BUDGET_REACHED
    from .progress_bar import print_summary

    reached = state_name == BUDGET_REACHED
    print_summary(console, out, settings, counts, time.monotonic() - started, budget_reached=reached)
    if reached:
        return SOME_PENDING
    return SOME_FAILED if counts["failed"] else DONE


def _end(*_: object) -> None:
    """Ends this process as SIGTERM does where nobody handles it, and says what that leaves: to the log of a cluster."""
    console.show_cursor()
    say(f"Terminated. {KEPT}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


class _OnTerminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


_TOLD = {"imagetask.store": logging.WARNING, "imagetask.plan": logging.WARNING, "imagetask.push": logging.INFO}
"""Logs whose lines stand on the terminal too, from which level on: what is found damaged in the store and made again,
for it may be paid for again; what a plan takes out of the dataset; and how far a push is."""


@contextmanager
def _told_here() -> Iterator[None]:
    handlers = {logging.getLogger(name): _OnTerminal(level) for name, level in _TOLD.items()}
    for log, handler in handlers.items():
        log.addHandler(handler)
    try:
        yield
    finally:
        for log, handler in handlers.items():
            log.removeHandler(handler)


def _ended(name: str, parameters: dict[str, Any], server: EmbeddedServer) -> tuple[str | None, dict[str, Any]]:
    """The name of the state that the flow came to, and its counts. Raises what it raises."""
    wait_for_server = server.start(lambda text: console.print(text, highlight=False))
    for module in _AT_THE_START:
        with suppress(ImportError):  # another Prefect may import it under another name, when its flow starts
            import_module(module)
    from ..generate_images import generate_images
    from ..retry_failed import retry_failed
    from .progress_bar import shown

    wait_for_server()
    with shown(console), _told_here():
        flow: Any = {"generate_images": generate_images, "retry_failed": retry_failed}[name]
        state = flow(**parameters, return_state=True)
        return state.name, state.result()
