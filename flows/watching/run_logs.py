"""Our log lines, in the log of the run that they belong to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from imagetask.errors import ImageTaskError

EVERY_SECONDS = 5.0
"""Of lines from one place, one in so many seconds is shown; errors always are."""

_OURS = (logging.getLogger("imagetask"), logging.getLogger("imagetask_flows"))
_run: ContextVar[object | None] = ContextVar("imagetask_run_logs", default=None)
"""Tells whose a line is: the calls of a run are made in copies of its context, also on the library's event loop."""

_lock = threading.Lock()
_attached: list[logging.Handler] = []
_before: list[tuple[int, bool]] = []
"""Level and propagation of each of `_OURS` before the first of the handlers that are attached."""


@contextmanager
def run_logs(logger: logging.Logger | logging.LoggerAdapter[Any], every: float = EVERY_SECONDS) -> Iterator[None]:
    """Writes the log lines of library and flows, from INFO on, to `logger`, which is that of a flow run.

    A line says how many like it were left out in the `every` seconds before. A line of another run of this process is
    left to that one.
    """
    handler = _ToRun(logger, every)
    mark = _run.set(handler)
    _attach(handler)
    try:
        yield
    finally:
        _detach(handler)
        _run.reset(mark)
        handler.tell_left_out()


class _ToRun(logging.Handler):
    """Hands lines on, thinned."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any], every: float) -> None:
        super().__init__(logging.INFO)
        self._logger = logger
        self._every = every
        self._shown: dict[tuple[str, int], float] = {}
        self._left_out: dict[tuple[str, int], tuple[int, str]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is of this run, or of none in particular."""
        return _run.get() in (None, self)

    def emit(self, record: logging.LogRecord) -> None:
        place, now = (str(record.msg), record.levelno), time.monotonic()
        message = record.getMessage()
        count, _ = self._left_out.get(place, (0, ""))
        recently = now - self._shown.get(place, -self._every) < self._every
        if recently and record.levelno < logging.ERROR:
            self._left_out[place] = (count + 1, message)
            return
        self._shown[place] = now
        self._left_out.pop(place, None)
        self._logger.log(record.levelno, "%s%s", message, f" (and {count:,} more like it before)" if count else "")

    def tell_left_out(self) -> None:
        """Says what was left out and had no line after it."""
        for (_, level), (count, message) in self._left_out.items():
            more = f" (and {count - 1:,} more like it before)" if count > 1 else ""
            self._logger.log(level, "%s%s", message, more)
        self._left_out = {}


def _attach(handler: logging.Handler) -> None:
    """Lines go to the runs alone, whose loggers hand them to the console as well: told once, not twice."""
    with _lock:
        if not _attached:
            _before[:] = [(logger.level, logger.propagate) for logger in _OURS]
            for logger in _OURS:
                logger.setLevel(logger.level or logging.INFO)
                logger.propagate = False
        _attached.append(handler)
        for logger in _OURS:
            logger.addHandler(handler)


def _detach(handler: logging.Handler) -> None:
    with _lock:
        for logger in _OURS:
            logger.removeHandler(handler)
        _attached.remove(handler)
        if not _attached:
            for logger, (level, propagate) in zip(_OURS, _before, strict=True):
                logger.setLevel(level)
                logger.propagate = propagate


class _WithoutTraceback(logging.Filter):
    """Tells an error of ours in one sentence: Prefect tells every error with the way it took through Prefect."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ImageTaskError):
            message = record.getMessage()
            record.msg = message if str(error) in message else f"{message.rstrip('.')}: {error}"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


@cache
def without_tracebacks() -> None:
    """Errors that imagetask raises on purpose stand in Prefect's logs without a traceback."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_WithoutTraceback())
