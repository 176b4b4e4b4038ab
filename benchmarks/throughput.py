"""Throughput and memory of the pipeline beside a bare asyncio loop, on one server, in one run.

    python benchmarks/throughput.py            # every setting once: about 40 minutes
    python benchmarks/throughput.py --runs 5   # five interleaved runs of each
    python benchmarks/throughput.py --latency 0.2 --at-once 64 --backend openai --image jpeg --runs 5
    python benchmarks/throughput.py --short    # two settings with few images

For each backend, kind of image, latency and number of calls at once. Compared are the images a second after the ramp:
the second half of them, by the times at which their files were written (loop) or made durable (pipeline); by then the
pipeline's number of calls has grown to what is allowed. Beside them the CPU of the process for each image, the seconds
of the whole chunk phase, and its memory. All processes, the model server among them, share this machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imagetask_flows.embedded_server import start_server  # noqa: E402

from tests.model_server import start_model_server  # noqa: E402

BAR, GOAL, LARGE_MEMORY_MIB = 0.9, 0.97, 500
BACKENDS = ("openai", "inference-endpoints")
LATENCIES = (0.05, 0.2, 1.0, 5.0)
AT_ONCE = (16, 64, 256)
KIB = {"jpeg": 100, "png": 1500}
MOST = {"jpeg": 3000, "png": 600}
"""Images of a run, at most; but at least `ROUNDS` times the number of calls at once."""
ROUNDS, SECONDS = 6, 8.0


@dataclass(frozen=True, slots=True)
class Setting:
    """latency: seconds of a call. at_once: calls. image: "jpeg" (100 KiB) or "png" (1,500 KiB)."""

    backend: str
    latency: float
    at_once: int
    image: str
    share: int = 1

    @property
    def images(self) -> int:
        """As many as the backend makes in 8 seconds, or fewer."""
        wanted = min(MOST[self.image], int(SECONDS * self.at_once / self.latency))
        return max(ROUNDS * self.at_once, wanted) // self.share

    @property
    def words(self) -> str:
        return f"{self.backend:20} {self.image:4} {self.latency:4g} s × {self.at_once:3}"


def measured(script: str, *arguments: object) -> dict[str, Any]:
    """What a benchmark script prints, run in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script} failed:\n{done.stderr}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def steady(folder: Path, setting: Setting) -> float:
    """Images a second in the second half; in whole rounds of calls, which come in bursts."""
    written = sorted(
        path.stat().st_mtime for path in folder.rglob("*.*") if path.suffix in (".img", ".jpg", ".png") and _whole(path)
    )
    if len(written) < setting.images:
        raise SystemExit(f"{len(written)} of {setting.images} images are in {folder}")
    first, last = setting.images // 2, setting.images - 1
    last -= (last - first) % setting.at_once if last - first > setting.at_once else 0
    return (last - first) / (written[last] - written[first])


def _whole(path: Path) -> bool:
    return "data" not in path.parts and path.name not in ("newest.jpg", "report.jpg")


def once(script: str, setting: Setting, folder: Path) -> dict[str, Any]:
    """One run of a script against a server of its own; "rate" is that of `steady`."""
    with start_model_server(latency=setting.latency, image_kib=KIB[setting.image], format=setting.image) as server:
        url = server.openai_url if setting.backend == "openai" else server.model_url("bench")
        common = ("--images", setting.images, "--at-once", setting.at_once)
        figures = measured(script, setting.backend, url, folder, *common)
    figures["rate"] = steady(folder, setting)
    shutil.rmtree(folder)
    return figures


def in_turn(setting: Setting, run: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loop and pipeline, once the one first and once the other."""
    figures = {}
    for script in ("bare_loop", "pipeline")[:: -1 if run % 2 else 1]:
        figures[script] = once(script, setting, folder / script)
    return figures["bare_loop"], figures["pipeline"]


def compare(setting: Setting, runs: int, folder: Path) -> float:
    """Prints one line of the table; gives the median of pipeline over loop."""
    pairs = [in_turn(setting, run, folder) for run in range(runs)]
    ratio: float = statistics.median(pipeline["rate"] / loop["rate"] for loop, pipeline in pairs)
    loops, pipelines = zip(*pairs, strict=True)
    cells = [
        f"{statistics.median(one['rate'] for one in loops):7.1f}/s",
        f"{statistics.median(one['rate'] for one in pipelines):7.1f}/s",
        f"{ratio:6.3f}",
        f"{1000 * statistics.median(one['cpu_per_image'] for one in loops):6.1f} ms",
        f"{1000 * statistics.median(one['cpu_per_image'] for one in pipelines):6.1f} ms",
        f"{statistics.median(one['seconds'] for one in pipelines):6.1f} s",
        f"{max(one['peak_mib'] for one in pipelines):5.0f} MiB",
    ]
    print(
        setting.words,
        *cells,
        "" if ratio >= GOAL else "under the goal" if ratio >= BAR else "UNDER THE BAR",
        flush=True,
    )
    return ratio


def large(images: int, folder: Path) -> float:
    """Memory with large images in one chunk: PNGs of 1.5 MB, 50 at once. MiB."""
    with start_model_server(latency=0.2, image_kib=1500, format="png") as server:
        common = ("--images", images, "--at-once", 50, "--chunk-rows", images)
        figures = measured("pipeline", "openai", server.openai_url, folder, *common)
    peak = float(figures["peak_mib"])
    print(f"{images} PNGs of 1.5 MB, one chunk: {peak:.0f} MiB (bar {LARGE_MEMORY_MIB}), {figures['seconds']:.1f} s")
    return peak


def settings_of(options: argparse.Namespace) -> list[Setting]:
    if options.short:
        return [Setting("openai", 0.2, 64, "jpeg", 2), Setting("inference-endpoints", 0.05, 64, "jpeg", 3)]
    every = itertools.product(options.backend, options.image, options.latency, options.at_once)
    return [Setting(backend, latency, at_once, image) for backend, image, latency, at_once in every]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--image", nargs="+", choices=KIB, default=list(KIB))
    parser.add_argument("--latency", nargs="+", type=float, default=LATENCIES)
    parser.add_argument("--at-once", nargs="+", type=int, default=AT_ONCE)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--no-large", action="store_true", help="without the memory of large images in one chunk")
    parser.add_argument("--json", type=Path, help="file that the figures are written to")
    options = parser.parse_args()
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        wait_for_server = start_server(lambda text: print(text, file=sys.stderr))  # one for all runs
        wait_for_server()
        print(f"{'':39} {'loop':>9} {'pipeline':>9}  ratio   CPU/image: both    phase  memory   bar {BAR}, goal {GOAL}")
        for setting in settings_of(options):
            figures[f"throughput {setting.words}"] = compare(setting, options.runs, Path(folder))
        low = [name for name, ratio in figures.items() if ratio < BAR]
        if not options.no_large:
            figures["large images MiB"] = peak = large(100 if options.short else 1000, Path(folder) / "large")
            low += [f"{peak:.0f} MiB (bar {LARGE_MEMORY_MIB})"] if peak >= LARGE_MEMORY_MIB else []
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if low:
        sys.exit(f"a bar was not reached: {'; '.join(low)}")


if __name__ == "__main__":
    main()
