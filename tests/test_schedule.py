"""A schedule that fires while prompts are added: the dataset grows by what is new, and nothing is asked for twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imagetask import ImageDataset
from tests.machine import Machine, readme
from tests.model_server import ModelServer

EVERY = 6
"""Seconds between two firings."""


@pytest.mark.prefect_server
def test_a_schedule_extends_the_dataset_by_the_prompts_that_are_new(machine: Machine, models: ModelServer) -> None:
    [deploy] = readme("On a schedule")
    inbox, out = machine.checkout / "inbox", machine.checkout / "out" / "growing"
    inbox.mkdir()
    _add(inbox, "monday", ["a red barn", "a blue boat"])
    machine.do(deploy.replace("3600", str(EVERY)))
    first = machine.wait_until(lambda: _completed(machine, 1), "the schedule did not fire")
    assert first["start_time"] is not None
    assert _prompts(out) == ["a red barn", "a blue boat"]

    _add(inbox, "tuesday", ["a green hill", "a red barn"])
    machine.wait_until(lambda: len(ImageDataset(out)) == 4, "the dataset did not grow")
    machine.wait_until(lambda: _completed(machine, 2), "the schedule did not fire again")
    assert _prompts(out) == ["a red barn", "a blue boat", "a green hill", "a red barn"]
    _check_deployment(machine, out)

    machine.do("prefect deployment delete generate-images/scheduled")
    asked = Counter(call.prompt for call in models.calls if call.prompt in _prompts(out))
    assert asked == {"a red barn": 2, "a blue boat": 1, "a green hill": 1}, "an equal row gets an image of its own"


def _check_deployment(machine: Machine, out: Path) -> None:
    told: dict[str, Any] = machine.ask("deployments/name/generate-images/scheduled")
    assert told["parameters"]["source"] == str(machine.checkout / "inbox" / "*.csv")
    assert told["parameters"]["out"] == str(out)
    assert told["global_concurrency_limit"]["limit"] == 1
    assert told["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    states = Counter(run["state_type"] for run in machine.runs("scheduled"))
    assert set(states) <= {"COMPLETED", "SCHEDULED", "PENDING", "RUNNING", "CANCELLED"}


def _add(inbox: Path, name: str, prompts: list[str]) -> None:
    """A file that is there whole at once, as whoever delivers prompts should put it."""
    part = inbox / f"{name}.part"
    part.write_text("\n".join(["prompt", *prompts]) + "\n")
    part.rename(inbox / f"{name}.csv")


def _completed(machine: Machine, count: int) -> dict[str, Any]:
    """The latest of so many completed runs of the schedule; empty where there are fewer."""
    runs = [run for run in machine.runs("scheduled") if run["state_type"] == "COMPLETED"]
    return runs[-1] if len(runs) >= count else {}


def _prompts(out: Path) -> list[str]:
    return ImageDataset(out).scan().select("prompt").collect()["prompt"].to_list()
