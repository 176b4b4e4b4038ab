"""The report of a large dataset: how long it takes to write, at which peak memory, and how soon a browser shows it.

    python benchmarks/report_page.py            # 10,000 rows with pictures of 512 × 512 px
    python benchmarks/report_page.py --short    # 1,000

The pictures are placeholders, of which 400 are different; each becomes a small picture of its own. They were scored
before. The page is opened in headless Chromium from its file: its first paint, when its pictures stand, and when it is
loaded whole. The bars are those of the first paint and of the peak: a row group and what is known of the rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import polars as pl  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.own_process import in_its_own_process  # noqa: E402
from imagetask import ImageRequest, PlaceholderImageGeneration  # noqa: E402
from imagetask.columns import frame_to_hub_table  # noqa: E402
from imagetask.images import Image  # noqa: E402
from imagetask.layout import Layout, alone_in  # noqa: E402
from imagetask.quality import scored  # noqa: E402
from imagetask.report import write_report  # noqa: E402
from imagetask.shards import shard_writer  # noqa: E402

PAINT_BAR, MEMORY_BAR = 2.0, 500
_DIFFERENT = 400
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_WATCHED = """() => new Promise(done => {
  const look = () => document.querySelector('.card img') ? done(performance.now()) : setTimeout(look, 5);
  look();
})"""


def make(folder: Path, rows: int) -> None:
    """A dataset of so many rows, scored."""
    layout = Layout(folder)
    layout.make()
    prompts = [f"a fox, number {number}, that walks through deep snow at dawn" for number in range(_DIFFERENT)]
    requests = [ImageRequest(prompt, width=512, height=512, seed=place) for place, prompt in enumerate(prompts)]
    images = [one for one in PlaceholderImageGeneration().generate(requests) if isinstance(one, Image)]
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, _DIFFERENT):
        numbers = range(start, min(rows, start + _DIFFERENT))
        frame = pl.DataFrame(
            [_row(number, images[number % _DIFFERENT]) for number in numbers],
            schema_overrides={"error_kind": pl.String},
        )
        table = frame_to_hub_table(frame, ["image"])
        writer = writer or shard_writer(layout.data / "train-00000.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    with alone_in(layout):
        scored(layout)


def _row(number: int, image: Image) -> dict[str, Any]:
    return {
        "prompt": f"row {number}: a fox that walks through deep snow at dawn",
        "row_id": hashlib.sha256(str(number).encode()).hexdigest()[:16],
        "image": {"bytes": image.data, "path": f"{image.sha256[:16]}.{image.suffix}"},
        "model_name": "placeholder",
        "status": "done",
        "error_kind": None,
        "attempts": 1,
        "seed": number,
        "generation": 0,
        "cost": 0.01,
        "cost_source": "reported",
        "latency": 2 + number % 17 / 10,
        "image_size": "512x512",
        "parameters": '{"width": 512, "height": 512}',
        "image_format": image.format,
        "image_bytes": image.num_bytes,
        "image_sha256": image.sha256,
        "created_at": _BEGAN + timedelta(seconds=number / 5),
    }


def write(folder: Path) -> dict[str, float]:
    """Seconds, CPU seconds and MB of the page, and this process's peak memory (MB)."""
    started, cpu = time.perf_counter(), time.process_time()
    size = write_report(Layout(folder)).stat().st_size
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "cpu": cpu, "page_mb": size / 1e6, "peak_mb": peak}


def opened(page: Path) -> dict[str, float]:
    """Seconds until the first paint, until the first pictures stand, and until the whole page is loaded."""
    from playwright.sync_api import sync_playwright

    own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.goto(page.as_uri(), wait_until="commit")
        pictures = tab.evaluate(_WATCHED)
        tab.wait_for_load_state("load")
        paint = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        loaded = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart")
        browser.close()
    return {"paint": paint / 1000, "pictures": pictures / 1000, "loaded": loaded / 1000}


def measure(rows: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "dataset"
        make(folder, rows)
        page = in_its_own_process(__file__, "--write", folder)
        seen = opened(folder / "report.html")
    return {
        "written, s": page["seconds"],
        "written, ms of CPU a row": page["cpu"] / rows * 1000,
        "written, peak MB": page["peak_mb"],
        "page, MB": page["page_mb"],
        "first paint, s": seen["paint"],
        "first pictures, s": seen["pictures"],
        "loaded whole, s": seen["loaded"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a tenth of the rows")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        print(json.dumps(write(options.write)))
        return
    figures = measure(1_000 if options.short else 10_000)
    for name, value in figures.items():
        print(f"{name:40}{value:10.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if figures["first paint, s"] > PAINT_BAR or figures["written, peak MB"] > MEMORY_BAR:
        sys.exit("a bar was not reached")


if __name__ == "__main__":
    main()
