"""Small datasets made with the library alone, as the flow makes them: plan, chunks, shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from imagetask import GenerationStore, ImageDataset, ManagedModel, PlaceholderImageGeneration
from imagetask.chunks import run_chunk
from imagetask.dataset import build_dataset
from imagetask.parts import is_final, read_manifest
from imagetask.plan import make_plan
from imagetask.settings import RunSettings


def make_dataset(out: Path, rows: pl.DataFrame | list[dict[str, Any]], **options: Any) -> ImageDataset:
    """A dataset of placeholders of 16 × 16 px; parts that stand are kept, as in a run. A null prompt fails its row."""
    source = out.with_suffix(".parquet")
    pl.DataFrame(rows).write_parquet(source)
    settings = RunSettings(source=str(source), out=out, width=16, height=16, **options)
    settings.layout.make()
    model = PlaceholderImageGeneration(generation_kwargs=settings.generation_kwargs())
    store = GenerationStore(settings.store_url)
    managed = ManagedModel(model, store=store)
    manifests = []
    for chunk in make_plan(settings, [model]).chunks:
        manifest = read_manifest(settings.layout, chunk)
        manifests.append(manifest if manifest and is_final(manifest) else run_chunk(settings, chunk, managed))
    told = settings.model_dump(mode="json", include={"model", "seed", "width", "height"})
    return build_dataset(settings.layout, manifests, store, told)
