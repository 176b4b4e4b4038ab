"""What stops a run: each cause alone, in the middle of a run; the same command goes on once the cause is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imagetask.errors import ErrorKind, RunStopped
from imagetask.layout import Layout
from imagetask.runs import Run, counts_so_far
from tests.conftest import Generate
from tests.model_server import Call, ModelServer

pytestmark = pytest.mark.prefect_server

STOPS: tuple[tuple[str, ErrorKind, str], ...] = (
    ("unauthorized", "auth", "Incorrect API key provided.*OPENAI_API_KEY"),
    ("unverified_organization", "auth", "organization must be verified"),
    ("payment_required", "billing", "no credit left.*see to the account's plan"),
    ("insufficient_quota", "billing", "exceeded your current quota"),
    ("billing_hard_limit", "billing", "Billing hard limit has been reached"),
    ("account_blocked", "account_blocked", "temporarily blocked.*talk to its support"),
    ("rate_limited_long", "rate_limited", "come back at 20.*images per day"),
    ("paused", "loading", "endpoint is paused.*resume the endpoint"),
    ("unknown_parameter", "config", "Unknown parameter: 'response_format'"),
    ("model_not_found", "config", "The model `m` does not exist"),
    ("gone", "config", "no longer served here"),
)
"""Fault, the kind that stops the run, and what its message says."""

AT_ONCE = 8
BEFORE = 7
"""Images that come in each run before it is stopped."""


def write_prompts(folder: Path, number: int) -> Path:
    path = folder / "prompts.csv"
    pl.DataFrame({"prompt": [f"teapot number {n}" for n in range(number)]}).write_csv(path)
    return path


def kept(folder: Path) -> int:
    """Images in the store."""
    return len(list(Layout(folder).store.rglob("*.png")))


def assert_each_image_came_once(calls: Sequence[Call], number: int) -> None:
    delivered = Counter(call.prompt for call in calls if call.delivered)
    assert len(delivered) == number
    assert set(delivered.values()) == {1}


@pytest.mark.usefixtures("canary")
def test_command_goes_on_after_each_cause_that_stops_a_run_and_asks_no_image_twice(
    generate: Generate, model_server: ModelServer, tmp_path: Path
) -> None:
    number = BEFORE * (len(STOPS) + 1)
    source, out = write_prompts(tmp_path, number), tmp_path / "out"
    asked: dict[str, Any] = {"model": "openai:m", "base_url": model_server.openai_url}
    asked |= {"max_concurrency": AT_ONCE, "chunk_rows": 12}
    model_server.latency = 0.03
    for runs, (fault, kind, words) in enumerate(STOPS, start=1):
        model_server.recover()
        model_server.fail(None, *["ok"] * BEFORE, fault, shared=True, forever=True)
        with pytest.raises(RunStopped, match=words) as caught:
            generate(source, out, **asked)
        assert caught.value.kind == kind, fault
        assert kept(out) == len(model_server.delivered) == BEFORE * runs, f"{fault}: what came is kept"
        assert sum(call.fault == fault for call in model_server.calls) <= AT_ONCE, f"{fault}: and no call follows"
        run = Run.read(out)
        assert run.state == "stopped"
        assert caught.value.message in str(run.message)
        planned, counts = counts_so_far(out)
        assert (planned, counts.failed) == (number, {}), f"{fault}: no row is lost, and none is blamed"

    model_server.recover()
    counts_after = generate(source, out, **asked)
    assert (counts_after["done"], counts_after["failed"]) == (number, {})
    assert counts_after["reused"] == BEFORE * len(STOPS)
    assert_each_image_came_once(model_server.calls, number)


def calls_after_the_answer(calls: Sequence[Call], fault: str) -> tuple[int, int]:
    """Of the first answer with this fault: the calls that were in flight then, and those that came after it."""
    answered = min(call.time + (call.seconds or 0.0) for call in calls if call.fault == fault)
    in_flight = sum(call.time < answered <= call.time + (call.seconds or 0.0) for call in calls)
    return in_flight, sum(call.time >= answered for call in calls)


def test_quota_that_ends_in_the_middle_costs_no_more_calls_than_were_in_flight(
    generate: Generate, model_server: ModelServer, tmp_path: Path
) -> None:
    source, out = write_prompts(tmp_path, 240), tmp_path / "out"
    asked: dict[str, Any] = {"model": "openai:m", "base_url": model_server.openai_url}
    model_server.latency = 0.2
    model_server.fail(None, *["ok"] * 120, "insufficient_quota", shared=True, forever=True)

    with pytest.raises(RunStopped) as caught:
        generate(source, out, **asked)

    assert caught.value.kind == "billing"
    assert "You exceeded your current quota, please check your plan and billing details" in caught.value.message
    assert caught.value.message.endswith("see to the account's plan or credits with the provider")
    in_flight, after = calls_after_the_answer(model_server.calls, "insufficient_quota")
    assert 4 <= in_flight <= 64
    assert after <= in_flight
    assert kept(out) == 120 == model_server.counts().delivered

    model_server.recover()
    counts = generate(source, out, **asked)
    assert (counts["done"], counts["reused"], counts["failed"]) == (240, 120, {})
    assert_each_image_came_once(model_server.calls, 240)
