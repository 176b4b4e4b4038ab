"""One run of the pipeline, in a process of its own: the seconds of its chunk phase and its peak memory, as JSON."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from imagetask_flows import monitoring
from imagetask_flows.embedded_server import start_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["openai", "inference-endpoints"])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--chunk-rows", type=int)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    source = options.folder / "prompts.csv"
    source.write_text("prompt\n" + "".join(f"prompt number {n}\n" for n in range(options.images)))
    wait_for_server = start_server(lambda text: print(text, file=sys.stderr))
    from imagetask_flows.generate_images import generate_images

    wait_for_server()
    started, before = time.perf_counter(), time.process_time()
    counts = generate_images(
        str(source),
        str(options.folder / "dataset"),
        model="openai:bench" if options.backend == "openai" else "inference-endpoints",
        base_url=options.url,
        max_concurrency=options.at_once,
        chunk_rows=options.chunk_rows,
    )
    total, cpu = time.perf_counter() - started, (time.process_time() - before) / options.images
    assert counts["done"] == options.images, counts
    progress = monitoring.current()
    assert progress is not None
    assert progress.chunk_seconds is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"seconds": progress.chunk_seconds, "total_seconds": total, "cpu_per_image": cpu, "peak_mib": peak}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
