"""A schedule that fires while prompts are added: the dataset grows by what is new, and nothing is asked for twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imagetask import ImageDataset
from tests.machine import Machine, readme
from tests.model_server import ModelServer

EVERY = 12
"""Seconds between two firings."""
LONG = 150
"""Seconds within which even a slow machine has fired and run."""


@pytest.mark.prefect_server
def test_a_schedule_extends_the_dataset_by_the_prompts_that_are_new(machine: Machine, models: ModelServer) -> None:
    """They come as a further file of a glob, and as further rows of a file that grows."""
    [deploy] = readme("On a schedule")
    before = len(models.calls)
    inbox, out = machine.checkout / "inbox", machine.checkout / "out" / "growing"
    inbox.mkdir()
    _add(inbox, "monday", ["a red barn", "a blue boat"])
    _add(machine.checkout, "grows", ["a wide river"])
    machine.do(deploy.replace("3600", str(EVERY)).replace('"inbox/*.csv"', '"inbox/*.csv" grows.csv'))
    try:
        machine.wait_until(lambda: _completed(machine) >= 1, "the schedule did not fire", LONG)
        assert _prompts(out) == ["a red barn", "a blue boat", "a wide river"]

        _add(inbox, "tuesday", ["a green hill", "a red barn"])
        _add(machine.checkout, "grows", ["a wide river", "a deep lake"])
        machine.wait_until(lambda: len(ImageDataset(out)) == 6, "the dataset did not grow", LONG)
        machine.wait_until(lambda: _completed(machine) >= 2, "the schedule did not fire again", LONG)
        _check_deployment(machine, out)
    finally:
        machine.do("prefect deployment delete generate-images/scheduled")

    expected = ["a red barn", "a blue boat", "a green hill", "a red barn", "a wide river", "a deep lake"]
    assert _prompts(out) == expected
    asked = Counter(call.prompt for call in models.calls[before:] if call.prompt in expected)
    assert asked == Counter(expected), "an equal row gets an image of its own, and no row gets two"


def _check_deployment(machine: Machine, out: Path) -> None:
    told: dict[str, Any] = machine.ask("deployments/name/generate-images/scheduled")
    assert told["parameters"]["source"] == [f"{machine.checkout}/inbox/*.csv", f"{machine.checkout}/grows.csv"]
    assert told["parameters"]["out"] == str(out)
    assert told["global_concurrency_limit"]["limit"] == 1
    assert told["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    states = Counter(run["state_type"] for run in machine.runs("scheduled"))
    assert set(states) <= {"COMPLETED", "SCHEDULED", "PENDING", "RUNNING", "CANCELLED"}


def _add(folder: Path, name: str, prompts: list[str]) -> None:
    """A file that is there whole at once, as whoever delivers prompts should put it."""
    part = folder / f"{name}.part"
    part.write_text("\n".join(["prompt", *prompts]) + "\n")
    part.replace(folder / f"{name}.csv")


def _completed(machine: Machine) -> int:
    """How many runs of the schedule did all that there was."""
    return sum(run["state_type"] == "COMPLETED" for run in machine.runs("scheduled"))


def _prompts(out: Path) -> list[str]:
    return ImageDataset(out).scan().select("prompt").collect()["prompt"].to_list()
