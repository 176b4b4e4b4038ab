"""imagetask beside distilabel 1.5.3 and NeMo DataDesigner 0.9.6: the same prompts, the same model server, side by side.

    python benchmarks/against_peers.py            # 3,000 images, five interleaved runs, and a kill: about 20 minutes
    python benchmarks/against_peers.py --short    # a tenth of the images, one run

Each peer is installed once, in a virtual environment of its own below `--envs`. JPEGs of 100 KB, 0.2 s a call, 50 calls
at a time, over the OpenAI protocol. Each figure is the median of its ratios in the single rounds; all processes run on
this machine. Not compared are start-up and imports, which come before the first call.

Generation is from the first call to the last answer, as the server's ledger has them. Transform is distilabel's
`transform_columns_to_image` beside the step of a run that makes Parquet shards of the store's files. Memory is that of
all of a tool's processes, added up, at its highest from the start to the end of the transform; a page that several
processes share counts once (the sum of their proportional set sizes: resident sets would count it in each, to the
disadvantage of the tool with more processes). Prefect's embedded server, which is no process of ours and may run
elsewhere, is not in the figure with the bar; the share with it is told below that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.peers.environments import DATA_DESIGNER, DISTILABEL, interpreter  # noqa: E402
from benchmarks.peers.runs import (  # noqa: E402
    AT_ONCE,
    IMAGE_KIB,
    IMAGETASK,
    LATENCY,
    Killed,
    Measured,
    Tool,
    killed,
    measured,
    peer_tool,
)

IMAGES, SPOILED_IMAGES = 3000, 300
ENVIRONMENTS = Path.home() / ".cache" / "imagetask-peers"

Rounds = dict[str, list[Measured]]


@dataclass(frozen=True, slots=True)
class Figure:
    """name: in the JSON. bar: to be reached, from above where `most`; None for a figure that is only told."""

    name: str
    words: str
    seen: float
    bar: float | None = None
    goal: float | None = None
    most: bool = False

    @property
    def reached(self) -> bool:
        return self.bar is None or (self.seen <= self.bar if self.most else self.seen >= self.bar)


def rounds(tools: Sequence[Tool], runs: int, images: int, folder: Path) -> Rounds:
    """So many rounds of one run each, in another order every time."""
    seen: Rounds = {tool.name: [] for tool in tools}
    for number in range(runs):
        turn = number % len(tools)
        for tool in (*tools[turn:], *tools[:turn]):
            one = measured(tool, folder / f"{tool.name}{number}", images)
            seen[tool.name].append(one)
            print(f"round {number + 1}  {tool.name:14} {told(one)}", flush=True)
    return seen


def told(one: Measured) -> str:
    transform = "" if one.transform is None else f", transform {one.transform:.2f} s"
    server = "" if one.whole == one.peak else f" ({one.whole:.0f} with Prefect's server)"
    return (
        f"calls {one.calls:.2f} s, until all images were there {one.phase:.2f} s ({one.cpu:.1f} s of CPU){transform}, "
        f"{one.generating:.0f} MiB then, {one.peak:.0f} MiB at most{server}, "
        f"calls at once {one.at_once}, "
        f"the server's own bytes {one.exact} of {one.images}"
    )


def beside(seen: Rounds, peer: str, value: Callable[[Measured], float]) -> float:
    """Median over the rounds of the peer's value over ours."""
    pairs = zip(seen[peer], seen["imagetask"], strict=True)
    return statistics.median(value(theirs) / value(ours) for theirs, ours in pairs)


def speed_and_memory(seen: Rounds) -> list[Figure]:
    def transform(one: Measured) -> float:
        assert one.transform is not None
        return one.transform

    memory = 1 / beside(seen, "distilabel", lambda one: one.peak)
    whole = 1 / beside(seen, "distilabel", lambda one: one.whole)
    generating = 1 / beside(seen, "distilabel", lambda one: one.generating)
    ours = seen["imagetask"]
    bar = 0.2 if ours[0].images >= IMAGES else None  # distilabel's grows with the images
    ideal = ours[0].images * LATENCY / AT_ONCE
    over = {name: statistics.median(one.calls for one in runs) / ideal for name, runs in seen.items()}
    return [
        Figure("distilabel_generation", "generation, × distilabel", beside(seen, "distilabel", _calls), 2.2, 2.5),
        Figure("distilabel_phase", "  until all images were there", beside(seen, "distilabel", _phase)),
        Figure("distilabel_transform", "transform, × distilabel", beside(seen, "distilabel", transform), 6, 10),
        Figure("distilabel_memory", "peak memory, share of distilabel's", memory, bar, most=True),
        Figure("distilabel_memory_with_prefects_server", "  with Prefect's embedded server", whole, most=True),
        Figure("distilabel_generating_memory", "  until all images were there", generating, most=True),
        Figure("distilabel_cpu", "CPU an image, distilabel's over ours", beside(seen, "distilabel", _cpu)),
        Figure("data_designer_generation", "generation, × DataDesigner", beside(seen, "data_designer", _calls), 1.1),
        Figure("data_designer_phase", "  until all images were there", beside(seen, "data_designer", _phase)),
        Figure("data_designer_cpu", "CPU an image, DataDesigner's over ours", beside(seen, "data_designer", _cpu)),
        *(Figure(f"{name}_over_ideal", f"{name}, calls over the ideal", ratio) for name, ratio in over.items()),
        Figure("exact", "images with the server's own bytes", _share(ours), 1.0),
        Figure("distilabel_exact", "  distilabel's", _share(seen["distilabel"])),
        Figure("data_designer_exact", "  DataDesigner's", _share(seen["data_designer"])),
    ]


def _calls(one: Measured) -> float:
    return one.calls


def _phase(one: Measured) -> float:
    return one.phase


def _cpu(one: Measured) -> float:
    return one.cpu


def _share(runs: Sequence[Measured]) -> float:
    return sum(one.exact for one in runs) / sum(one.images for one in runs)


def after_kills(tools: Sequence[Tool], images: int, folder: Path) -> list[Figure]:
    """Kills a run of each halfway, and gives the same command again.

    The bar is the number of calls at once: an answer that the kernel has may not have been read when the kill comes.
    """
    figures = []
    for tool in tools:
        one = killed(tool, folder / f"{tool.name}-killed", images)
        print(f"killed   {tool.name:14} {told_of_kill(one, images)}", flush=True)
        bar, whole = (float(AT_ONCE), 1.0) if tool is IMAGETASK else (None, None)
        words = f"killed, then again: {tool.name}, rows whole"
        figures.append(Figure(f"{tool.name}_whole", words, one.images / images, whole))
        if one.ended == 0:
            figures.append(Figure(f"{tool.name}_asked_again", "  images asked for again", one.again, bar, most=True))
    return figures


def told_of_kill(one: Killed, images: int) -> str:
    ended = {0: "ended well", None: "did not end"}.get(one.ended, f"ended with exit code {one.ended}")
    return (
        f"{one.in_flight} calls unanswered; then the same command {ended}: {one.before} + {one.after} calls "
        f"for {images} images, {one.again} asked for again that had arrived, {one.images} in the dataset"
    )


def with_images_cut_short(tools: Sequence[Tool], folder: Path) -> list[Figure]:
    """Runs in which the first answer to some prompts is an image cut short: how many end in the dataset."""
    figures = []
    for tool in tools:
        one = measured(tool, folder / f"{tool.name}-cut", SPOILED_IMAGES, cut_short=True)
        bad = one.images - one.exact
        print(f"cut      {tool.name:14} {bad} images cut short among {one.images} in the dataset", flush=True)
        bar = 0.0 if tool is IMAGETASK else None
        figures.append(Figure(f"{tool.name}_cut_short_kept", f"cut short, kept: {tool.name}", bad, bar, most=True))
    return figures


def print_table(figures: Sequence[Figure]) -> None:
    print(f"\n{'figure':40} {'bar':>8} {'goal':>6} {'seen':>8}")
    for one in figures:
        sign = "≤" if one.most else "≥"
        bar = "" if one.bar is None else f"{sign} {one.bar:g}"
        goal = "" if one.goal is None else f"{one.goal:g}"
        verdict = "" if one.bar is None else "OK" if one.reached else "SHORT"
        print(f"{one.words:40} {bar:>8} {goal:>6} {one.seen:8.2f}  {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, default=ENVIRONMENTS, help="folder of the peers' environments")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="a tenth of the images, one run")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where the figures go, by name")
    options = parser.parse_args()
    images, runs = (IMAGES // 10, 1) if options.short else (IMAGES, options.runs)
    distilabel = peer_tool("distilabel", interpreter(DISTILABEL, options.envs))
    data_designer = peer_tool("data_designer", interpreter(DATA_DESIGNER, options.envs))
    tools = (IMAGETASK, distilabel, data_designer)
    print(
        f"{images} images of {IMAGE_KIB} KiB, {LATENCY} s a call, {AT_ONCE} calls at a time (what is compared: --help)"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = speed_and_memory(rounds(tools, runs, images, folder))
        figures += after_kills(tools, images, folder)
        figures += with_images_cut_short((IMAGETASK, data_designer), folder)
    print_table(figures)
    if options.json is not None:
        options.json.write_text(json.dumps({one.name: one.seen for one in figures}, indent=2) + "\n")
    if not all(one.reached for one in figures):
        sys.exit("a bar was not reached")


if __name__ == "__main__":
    main()
