"""What `make bench-check` lets pass: a figure's tolerance, a missing figure, a bar that was missed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import check
from benchmarks.check import COMMITTED, FOLDER, Figure, checked, worse


@pytest.mark.parametrize(
    ("figure", "limit", "passing", "failing"),
    [
        (Figure(2.0, "higher", 0.1), 1.8, 1.81, 1.79),
        (Figure(2.0, "lower", 0.1), 2.2, 2.19, 2.21),
        (Figure(81, "lower", 0.0), 81, 81, 82),
        (Figure(1, "higher", 0.0), 1, 1, 0),
        (Figure(0, "lower", 0.5), 0, 0, 1),
    ],
)
def test_a_figure_may_be_worse_by_its_tolerance_and_no_more(
    figure: Figure, limit: float, passing: float, failing: float
) -> None:
    assert figure.limit == pytest.approx(limit)
    assert figure.passes(figure.value)
    assert figure.passes(passing)
    assert not figure.passes(failing)


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_figure_that_is_no_number_does_not_pass(better: str) -> None:
    assert not Figure(1.0, better, 0.5).passes(math.nan)


def test_a_better_figure_always_passes() -> None:
    assert Figure(2.0, "higher", 0.0).passes(100)
    assert Figure(2.0, "lower", 0.0).passes(0)


COMMITTED_FIGURES = {"speed": Figure(2.0, "higher", 0.1), "calls": Figure(1, "lower", 0.0)}


def test_worse_names_what_is_worse_and_what_is_missing() -> None:
    assert worse(COMMITTED_FIGURES, {"speed": 1.9, "calls": 1, "another": 7}) == []
    assert worse(COMMITTED_FIGURES, {"speed": 1.7, "calls": 1}) == ["speed"]
    assert worse(COMMITTED_FIGURES, {"speed": 1.9}) == ["calls"]
    assert worse(COMMITTED_FIGURES, {}) == ["speed", "calls"]


GOOD, SLOW, NONE = {"speed": 2.0}, {"speed": 1.0}, dict[str, float]()


@pytest.mark.parametrize(
    ("measured", "failed"),
    [
        ([(GOOD, False)], []),
        ([(SLOW, False), (GOOD, False)], []),
        ([(GOOD, True), (GOOD, False)], []),
        ([(SLOW, False), (SLOW, False)], ["b: speed"]),
        ([(NONE, False), (NONE, False)], ["b: speed"]),
        ([(GOOD, True), (GOOD, True)], ["b: a bar was missed"]),
        ([(SLOW, True), (SLOW, True)], ["b: speed", "b: a bar was missed"]),
        ([(GOOD, True), (SLOW, False)], []),
    ],
)
def test_what_is_worse_or_misses_a_bar_is_measured_once_more_and_then_fails(
    measured: list[tuple[dict[str, float], bool]], failed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: Iterator[tuple[dict[str, float], bool]] = iter(measured)
    monkeypatch.setattr(check, "measured", lambda benchmark, arguments: next(runs))
    entry = {"arguments": [], "figures": {"speed": {"value": 2.0, "better": "higher", "tolerance": 0.1}}}
    assert checked("b", entry) == failed
    assert next(runs, None) is None, "no run is left out"


def test_what_is_committed_can_be_read_and_belongs_to_benchmarks() -> None:
    known: dict[str, Any] = json.loads(COMMITTED.read_text())
    for name, entry in known.items():
        assert (FOLDER / f"{name}.py").is_file()
        for words in entry["figures"].values():
            figure = Figure(**words)
            assert figure.better in {"higher", "lower"}
            assert 0 <= figure.tolerance <= 1
