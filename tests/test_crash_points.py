"""Runs that are killed at every named point, and at random times: no row is lost, and only what was in flight is paid
for again."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

from imagetask.crash_points import CRASH_POINTS, VARIABLE, CrashPoint
from tests.torture.kills import (
    AFTER_CALLS,
    AT_ONCE,
    BEFORE_CALLS,
    WITH_CALLS,
    broken_promises,
    finish,
    kill_at_random,
    kill_everywhere,
    killing,
)

ROWS = 1400
DOCS = Path(__file__).parents[1] / "docs" / "guarantees.md"


def test_runs_killed_at_every_point_and_at_random_times_lose_no_row_and_pay_again_only_for_what_was_in_flight(
    tmp_path: Path, server_url: dict[str, str], canary: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with killing(work, {**server_url, "HF_TOKEN": canary}, ROWS) as (killed, undisturbed):
        kills = [*kill_everywhere(killed), *kill_at_random(killed, 5, random.Random(20261123)), *finish(killed)]
        undisturbed.to_the_end()
        table = "\n".join(map(str, kills))
        assert broken_promises(killed, undisturbed, ROWS) == [], table
        assert sum(kill.lost > 0.75 * AT_ONCE for kill in kills) >= 5, f"too little was in flight:\n{table}"


def test_every_point_is_known_is_killed_at_and_is_in_the_page_of_guarantees() -> None:
    names = set(get_args(CrashPoint))
    assert CRASH_POINTS.keys() == names
    assert {step.point for step in (*BEFORE_CALLS, *AFTER_CALLS, *WITH_CALLS)} == names
    assert set(re.findall(r"^\| `([^`]+: [^`]+)` \|", DOCS.read_text(), re.MULTILINE)) == names


DIES = """
import sys
from imagetask.crash_points import reach
for name in sys.argv[1:]:
    reach(name)
    print(name)
"""


def passing(*names: str, crash_at: str | None, leader: bool = True) -> subprocess.CompletedProcess[str]:
    """A process that comes by these points."""
    env = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", DIES, *names],
        env=env if crash_at is None else {**env, VARIABLE: crash_at},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=leader,
        check=False,
    )


def test_a_process_dies_at_the_passing_that_the_variable_names_and_without_it_nowhere() -> None:
    points = ["part: written", "file: written", "file: written"]
    assert passing(*points, crash_at=None).stdout.splitlines() == points
    assert passing(*points, crash_at="part: in place").returncode == 0
    killed = passing(*points, crash_at="file: written:2", leader=False)
    assert killed.returncode == -signal.SIGKILL
    assert passing(*points, crash_at="part: written").returncode == -signal.SIGKILL


def test_a_point_that_does_not_exist_is_told() -> None:
    refused = passing("part: written", crash_at="part: burnt:2")
    assert refused.returncode == 1
    assert "IMAGETASK_CRASH_AT=part: burnt:2: there is no such point" in refused.stderr


def test_the_processes_that_a_run_has_started_die_with_it() -> None:
    script = f"import os, subprocess\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\n{DIES}"
    env = {**os.environ, VARIABLE: "card: in place"}
    words = [sys.executable, "-c", script, "card: in place"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert process.wait(60) == -signal.SIGKILL
    end = time.monotonic() + 10
    while _goes_on(child) and time.monotonic() < end:
        time.sleep(0.01)
    assert not _goes_on(child)


def _goes_on(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
