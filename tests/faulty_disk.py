"""Runs on a small disk of their own that fills up or turns read-only, or without the right to write.

As a program, in a process of its own: `python -m tests.faulty_disk FAULT FOLDER`, FAULT is "full", "read-only" or
"denied". It makes a dataset in FOLDER until the fault stops it, mends the disk, gives the same command again, and
prints as JSON what happened. A disk needs the right to mount: `unshare -rm` gives it, where the system lets it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import polars as pl

from imagetask import GenerationStore, ImageDataset, ManagedModel
from imagetask.chunks import run_chunk
from imagetask.dataset import build_dataset
from imagetask.errors import GenerationError, ImageTaskError
from imagetask.images import Image
from imagetask.layout import alone_in
from imagetask.models.base import ImageGenerationModel, ImageRequest
from imagetask.models.placeholder import PlaceholderImageGeneration
from imagetask.parts import is_final, read_manifest
from imagetask.plan import make_plan
from imagetask.settings import RunSettings

ROWS = 60
CHUNK = 20
ROOT = Path(__file__).parents[1]
WITH_A_DISK = ["unshare", "--map-root-user", "--mount"]


@dataclass(frozen=True, slots=True)
class Happened:
    """told: the error of the first run. kept: images in the store after it that are whole. calls: of both runs.

    finished: whether a dataset was there after the first run. rows, images: of the dataset after the second.
    """

    told: str
    kind: str
    kept: int
    calls: list[int]
    finished: bool
    rows: int
    images: int


class Counting(ImageGenerationModel):
    """Makes placeholders, and counts them; before one of them, something happens."""

    happens: Callable[[], None] | None = None
    before: int = ROWS
    made: int = 0

    @property
    def model_name(self) -> str:
        return "counting"

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        self.made += len(requests)
        if self.happens is not None and self.made > self.before:
            happens, self.happens = self.happens, None
            happens()
        return PlaceholderImageGeneration().generate(requests)


def settings_for(out: Path, source: Path, store: Path | None = None) -> RunSettings:
    place = None if store is None else str(store)
    return RunSettings(source=str(source), out=out, width=128, height=128, chunk_rows=CHUNK, store=place)


def run(settings: RunSettings, model: Counting) -> ImageDataset:
    """A run as the flow makes one, without a scheduler."""
    settings.layout.make()
    with alone_in(settings.layout):
        store = GenerationStore(settings.store_url)
        plan = make_plan(settings, [model])
        manifests = []
        with ManagedModel(model, store=store) as managed:
            for chunk in plan.chunks:
                manifest = read_manifest(settings.layout, chunk)
                manifests.append(manifest if is_final(manifest) and manifest else run_chunk(settings, chunk, managed))
        return build_dataset(settings.layout, manifests, store, {"model": settings.model, "seed": 0})


def whole_images(store: Path) -> int:
    """Images that a new process takes from the store."""
    opened = GenerationStore(store)
    records = [opened.get(path.stem) for path in store.rglob("*.json")]
    return sum(len(opened.read(record["image"]["path"])) > 0 for record in records if record and record.get("image"))


def happening(settings: RunSettings, happens: Callable[[], None], mend: Callable[[], None]) -> Happened:
    """What becomes of a run in which something happens before its 26th image, and of the same command after."""
    first = Counting(happens=happens, before=25, generation_kwargs=settings.generation_kwargs())
    told = kind = ""
    try:
        run(settings, first)
    except ImageTaskError as error:
        told, kind = str(error), type(error).__name__
    finished = any((settings.out / "data").glob("*.parquet"))
    mend()
    kept = whole_images(Path(settings.store_url))
    second = Counting(generation_kwargs=settings.generation_kwargs())
    dataset = run(settings, second)
    images = dataset.scan().select(pl.col("image").is_not_null().sum()).collect().item()
    return Happened(told, kind, kept, [first.made, second.made], finished, len(dataset), images)


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True, capture_output=True)


def fill(folder: Path, leave: int) -> None:
    """Leaves so many bytes of a disk free."""
    free = os.statvfs(folder)
    (folder / "ballast").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))


def full(folder: Path, source: Path) -> Happened:
    mount(folder, "size=4m")
    return happening(settings_for(folder / "out", source), partial(fill, folder, 40_000), (folder / "ballast").unlink)


def read_only(folder: Path, source: Path) -> Happened:
    """Of the store alone: a disk with a file that is open for writing, as the folder's lock is, cannot turn so."""
    mount(folder, "size=20m")

    def turn() -> None:
        for _ in range(100):
            with suppress(subprocess.CalledProcessError):  # busy, while an image is being written
                return mount(folder, "remount,ro")
            time.sleep(0.05)
        raise TimeoutError("the disk stayed busy")

    settings = settings_for(folder.with_name("out"), source, folder)
    return happening(settings, turn, lambda: mount(folder, "remount,rw"))


def denied(folder: Path, source: Path) -> Happened:
    """Root may write everywhere: it becomes nobody, once what Python reads while it works is read."""
    folder.chmod(0o777)
    if os.geteuid() == 0:
        run(settings_for(folder.with_name("warm"), source), Counting(generation_kwargs={"width": 16, "height": 16}))
        os.setegid(65534)
        os.seteuid(65534)
    places = (folder / "out" / "_imagetask" / "store", folder / "out" / "_imagetask" / "parts")

    def allow(mode: int) -> None:
        for place in places:
            for path in (place, *(child for child in place.iterdir() if child.is_dir())):
                path.chmod(mode)

    return happening(settings_for(folder / "out", source), partial(allow, 0o555), partial(allow, 0o777))


FAULTS = {"full": full, "read-only": read_only, "denied": denied}


def main() -> None:
    fault, folder = sys.argv[1], Path(sys.argv[2])
    source = folder.with_name("prompts.parquet")
    pl.DataFrame({"prompt": [f"prompt {number}" for number in range(ROWS)]}).write_parquet(source)
    sys.stdout.write(json.dumps(asdict(FAULTS[fault](folder, source))))


if __name__ == "__main__":
    main()
