"""The library's log lines reach the log of their run: thinned, with their level, and only there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest
from imagetask_flows.watching.run_logs import run_logs

from imagetask import ManagedModel, load_model
from imagetask.errors import RunStopped
from tests.model_server import ModelServer

library = logging.getLogger("imagetask.somewhere")
flows = logging.getLogger("imagetask_flows.watching.somewhere")


class Lines(logging.Handler):
    """Keeps what is logged: (level, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


def run_logger(name: str) -> tuple[logging.Logger, list[tuple[str, str]]]:
    """A logger as of a run, and the lines it got."""
    logger, handler = logging.getLogger(f"tests.runs.{name}"), Lines()
    logger.setLevel(logging.DEBUG)
    logger.handlers = [handler]
    return logger, handler.lines


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    """Whatever a test does, our loggers are as before."""
    roots = [logging.getLogger(name) for name in ("imagetask", "imagetask_flows")]
    before = [(root.level, root.propagate, list(root.handlers)) for root in roots]
    yield
    assert [(root.level, root.propagate, list(root.handlers)) for root in roots] == before


def test_lines_come_with_their_level_from_info_on() -> None:
    logger, lines = run_logger("levels")
    with run_logs(logger):
        library.debug("a detail")
        library.info("waiting %d s", 3)
        library.warning("a row failed")
    library.warning("after the run")
    assert lines == [("INFO", "waiting 3 s"), ("WARNING", "a row failed")]


def test_lines_of_the_flows_come_as_those_of_the_library_and_each_once() -> None:
    logger, lines = run_logger("flows")
    with run_logs(logger):
        flows.warning("an artifact was not updated")
        library.warning("a row failed")
    flows.warning("after the run")
    assert lines == [("WARNING", "an artifact was not updated"), ("WARNING", "a row failed")]


def test_lines_from_one_place_are_thinned_and_the_next_one_says_how_many_were_left_out() -> None:
    logger, lines = run_logger("thinned")
    pause = threading.Event()
    with run_logs(logger, every=0.2):
        for number in range(5):
            library.info("waiting %d s", number)
        library.info("another place")
        pause.wait(0.25)
        library.info("waiting %d s", 5)
    assert lines == [
        ("INFO", "waiting 0 s"),
        ("INFO", "another place"),
        ("INFO", "waiting 5 s (and 4 more like it before)"),
    ]


def test_what_was_left_out_at_last_is_told_at_the_end() -> None:
    logger, lines = run_logger("end")
    with run_logs(logger):
        for number in range(3):
            library.warning("row %d failed", number)
    assert lines == [("WARNING", "row 0 failed"), ("WARNING", "row 2 failed (and 1 more like it before)")]


def test_errors_are_never_thinned() -> None:
    logger, lines = run_logger("errors")
    with run_logs(logger):
        for number in range(3):
            library.error("stopping %d", number)
    assert lines == [("ERROR", f"stopping {number}") for number in range(3)]


def test_two_runs_at_once_get_each_their_own_lines() -> None:
    (one, of_one), (other, of_other) = run_logger("one"), run_logger("other")
    entered, done = threading.Event(), threading.Event()

    def other_run() -> None:
        with run_logs(other):
            library.info("of the other")
            entered.set()
            done.wait(10)

    thread = threading.Thread(target=copy_context().run, args=(other_run,))
    with run_logs(one):
        thread.start()
        entered.wait(10)
        library.info("of the one")
        done.set()
        thread.join()
    assert (of_one, of_other) == ([("INFO", "of the one")], [("INFO", "of the other")])


def test_a_line_of_no_run_in_particular_goes_to_all() -> None:
    logger, lines = run_logger("nobody's")
    with run_logs(logger):
        thread = threading.Thread(target=library.warning, args=("the store is damaged",))
        thread.start()
        thread.join()
    assert lines == [("WARNING", "the store is damaged")]


def test_a_wait_a_retry_a_failed_row_and_a_stop_are_told_with_their_kind(model_server: ModelServer) -> None:
    logger, lines = run_logger("calls")
    model_server.fail("fox", "rate_limited")
    model_server.fail("owl", "server_error")
    model_server.fail("goat", "refused")
    model_server.fail("crow", "insufficient_quota")
    model = load_model("openai:m", base_url=model_server.openai_url, api_key="sk-of-nobody-0815")
    with run_logs(logger), ManagedModel(model) as managed:
        managed.generate_outputs(["a fox", "an owl", "a goat"])
        with pytest.raises(RunStopped):
            managed.generate_outputs(["a crow"])
    told = {level: text for level, text in lines if not text.startswith(("attempt", "waiting"))}
    assert [text.split(": ")[1] for text in told.values()] == ["refused", "billing"]
    assert "prompt: a goat" in told["WARNING"]
    waits = [text for level, text in lines if level == "INFO"]
    assert any("waiting" in text and "rate_limited" in text for text in waits)
    assert any("attempt 2" in text and "server" in text and "prompt: an owl" in text for text in waits)
    assert not any("sk-of-nobody" in text for _, text in lines)
