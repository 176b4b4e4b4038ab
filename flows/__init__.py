"""The application: Prefect flows around imagetask, and the command line. Installed as `imagetask_flows`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from imagetask.dataset import ImageDataset

    from .deploying.triggering import trigger

__all__ = ["generate", "trigger"]

# Prefect gives its embedded server 20 s to start; a cold start takes longer.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


def __getattr__(name: str) -> Any:
    """`trigger`, on first use: it imports Prefect."""
    if name != "trigger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .deploying.triggering import trigger

    return trigger


def generate(
    source: str | Path | Sequence[str] | Sequence[Mapping[str, Any]] | pl.DataFrame | pl.LazyFrame,
    out: str | Path,
    **options: Any,
) -> ImageDataset:
    """Runs the flow `generate_images` in this process and opens the dataset it made.

    source: a file, a glob, a list of files, a Polars frame, or a list of dicts; a frame is written into the dataset
    folder first, since a flow's parameters are kept by the server. options: further parameters of the flow.
    Raises `UsageError`, `RunStopped`.
    """
    from imagetask.dataset import ImageDataset
    from imagetask.layout import Layout
    from imagetask.settings import RunSettings
    from imagetask.sources import scan_source, source_name

    from .check import check_before_start

    if isinstance(source, str | Path):
        source = str(source)
    elif not (isinstance(source, list) and all(isinstance(item, str) for item in source)):
        layout = Layout(Path(out).absolute())
        name, frame = source_name(source), scan_source(source)
        layout.make()
        source = str(_written(frame, name, layout.state))
    check_before_start(RunSettings.checked(source=source, out=out, **options))
    from .generate_images import generate_images

    generate_images(source, str(out), **options)
    return ImageDataset(out)


def _written(frame: pl.LazyFrame, name: str, folder: Path) -> Path:
    """The frame as a Parquet file named by what it holds: one that an earlier run goes on with stays as it is."""
    from imagetask.sources import read_errors

    temporary = folder / f".source-{os.getpid()}.parquet"
    with read_errors(name):
        frame.sink_parquet(temporary)
    with temporary.open("rb") as data:
        digest = hashlib.file_digest(data, "blake2b").hexdigest()[:16]
    return temporary.replace(folder / f"source-{digest}.parquet")
