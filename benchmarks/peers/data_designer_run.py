"""One run of NeMo DataDesigner 0.9.6, by the Python of its own environment.

Prints, as JSON on its last line, when the images were there, which is its end (seconds since the epoch), and the
SHA-256 of every image in the dataset.

Its images stay files, which the dataset names: there is no step that makes image columns. All is as by default but for
the number of calls at once; left out are the call that tries the model beforehand, and the port for metrics.

A second run into the same folder resumes the first one, whose rows count from whole groups of 1,000 (`buffer_size`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import data_designer.config as dd
from data_designer.interface import DataDesigner


def configured(folder: Path, images: int, at_once: int) -> Any:
    """Prompts from a file → an image column. By its name the model is one that is asked on the route for images."""
    source = folder / "prompts.csv"
    source.write_text("prompt\n" + "".join(f"prompt number {number}\n" for number in range(images)))
    model = dd.ModelConfig(
        alias="bench",
        model="dall-e-bench",
        provider="bench",
        inference_parameters=dd.ImageInferenceParams(max_parallel_requests=at_once),
        skip_health_check=True,
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.LocalFileSeedSource(path=str(source)))
    builder.add_column(dd.ImageColumnConfig(name="image", prompt="{{ prompt }}", model_alias="bench"))
    return builder


def run(url: str, folder: Path, images: int, at_once: int) -> dict[str, Any]:
    """Creates the dataset; gives what this script prints."""
    provider = dd.ModelProvider(name="bench", endpoint=url, api_key="none")
    designer = DataDesigner(folder / "artifacts", model_providers=[provider])
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None))
    made = designer.create(
        configured(folder, images, at_once), num_records=images, dataset_name="images", resume=dd.ResumeMode.IF_POSSIBLE
    )
    generated = time.time()
    root = folder / "artifacts" / "images"
    paths = [root / path for cell in made.load_dataset()["image"] for path in cell]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return {"generated": generated, "ended": generated, "sha256": digests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run(options.url, options.folder, options.images, options.at_once)))


if __name__ == "__main__":
    main()
