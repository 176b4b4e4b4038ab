"""Whether a change has made a figure worse: the short forms of the benchmarks beside the committed figures.

    python benchmarks/check.py                 # make bench-check; six to eight minutes
    python benchmarks/check.py flat_memory     # one benchmark alone
    python benchmarks/check.py --commit        # takes today's figures as those to compare with

Compared are ratios taken side by side in one run, megabytes and counts, never seconds: they are much the same on any
machine. What is worse than committed by more than its tolerance is measured once more, and then the check fails; so it
does where a benchmark says both times that a bar of its own was missed. The figures are in committed.json; a tolerance
of 0.2 lets a figure be a fifth worse.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
COMMITTED = FOLDER / "committed.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """As it was committed. better: "higher" or "lower"."""

    value: float
    better: str
    tolerance: float

    @property
    def limit(self) -> float:
        """The worst that passes."""
        sign = -1 if self.better == "higher" else 1
        return self.value * (1 + sign * self.tolerance)

    def passes(self, seen: float) -> bool:
        return seen >= self.limit if self.better == "higher" else seen <= self.limit


def measured(benchmark: str, arguments: list[str]) -> tuple[dict[str, float], bool]:
    """The figures of one benchmark, and whether it missed a bar of its own, which is told. Raises `SystemExit` where it
    fails without figures, with what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "figures.json"
        command = [sys.executable, str(FOLDER / f"{benchmark}.py"), *arguments, "--json", str(found)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if not found.is_file():
            raise SystemExit(f"{benchmark} ended with {done.returncode} and without figures:\n{done.stdout}")
        if done.returncode != 0:
            print(f"{benchmark} says: {done.stdout.strip().splitlines()[-1]}", flush=True)
        figures: dict[str, float] = json.loads(found.read_text())
    return figures, done.returncode != 0


def worse(committed: Mapping[str, Figure], seen: Mapping[str, float]) -> list[str]:
    """The figures that are missing, or worse than their tolerance allows."""
    return [name for name, figure in committed.items() if name not in seen or not figure.passes(seen[name])]


def checked(benchmark: str, entry: Mapping[str, Any]) -> list[str]:
    """Measures a benchmark, twice where the first time was worse, and prints a line for each figure. Gives what failed
    both times."""
    committed = {name: Figure(**figure) for name, figure in entry["figures"].items()}
    seen, missed = measured(benchmark, entry["arguments"])
    if (again := worse(committed, seen)) or missed:
        second, missed = measured(benchmark, entry["arguments"])
        seen = seen | {name: second[name] for name in again if name in second}
    failed = worse(committed, seen)
    for name, figure in committed.items():
        words = "WORSE" if name in failed else ""
        print(
            f"{benchmark:16} {name:48} {seen.get(name, float('nan')):9.3f}   "
            f"committed {figure.value:9.3f}, {'at least' if figure.better == 'higher' else 'at most'} "
            f"{figure.limit:9.3f} {words}",
            flush=True,
        )
    return [f"{benchmark}: {name}" for name in [*failed, *(["a bar was missed"] if missed else [])]]


def commit(known: dict[str, Any], names: list[str]) -> None:
    """Writes today's figures into the file; directions and tolerances stay. Raises `SystemExit` where a bar is
    missed: that is nothing to compare with."""
    for name in names:
        seen, missed = measured(name, known[name]["arguments"])
        if missed:
            raise SystemExit(f"{name} missed a bar: nothing is committed")
        for figure, entry in known[name]["figures"].items():
            entry["value"] = round(seen[figure], 3)
    COMMITTED.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="*", help="default: all that have committed figures")
    parser.add_argument("--commit", action="store_true")
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(COMMITTED.read_text())
    if unknown := [name for name in options.benchmark if name not in known]:
        parser.error(f"{unknown[0]} has no committed figures; {', '.join(known)} have")
    names = options.benchmark or list(known)
    if options.commit:
        commit(known, names)
        return
    failed = [words for name in names for words in checked(name, known[name])]
    if failed:
        raise SystemExit(f"worse than committed, or than a bar: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
