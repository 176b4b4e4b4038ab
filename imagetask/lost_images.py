"""Images that the store had and has no longer: found where shards are made, and given back to be made again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from imagetask.columns import flat
from imagetask.errors import LostImage
from imagetask.layout import Layout
from imagetask.parts import part_path
from imagetask.store import GenerationStore

logger = logging.getLogger(__name__)


def take_back_parts(layout: Layout, manifests: Sequence[Mapping[str, Any]], store: GenerationStore) -> int:
    """Removes the parts with images that are gone or damaged, and what is left of these; gives how many they are."""
    count = 0
    for manifest in manifests:
        part = part_path(layout, manifest["digest"])
        lost = [path for path in _image_paths(part, manifest["images"]) if _is_lost(path, store)]
        for path in lost:
            logger.warning("the image %s is gone from the store or damaged: it is made again", path)
            store.discard(path)
        if lost:
            part.with_suffix(".json").unlink(missing_ok=True)
        count += len(lost)
    return count


def lacks_images(layout: Layout, manifests: Iterable[Mapping[str, Any]], store: GenerationStore) -> bool:
    """Whether the store lacks the first image that the parts tell of: it is not the one that they were made from."""
    of_parts = (_image_paths(part_path(layout, manifest["digest"]), manifest["images"]) for manifest in manifests)
    first = next((paths[0] for paths in of_parts if paths), None)
    return first is not None and _is_lost(first, store)


def _image_paths(part: Path, images: Sequence[str]) -> list[str]:
    frame = pl.read_parquet(part, columns=list(images))
    paths: set[str] = set()
    for cells in frame:
        paths.update(flat(cells).drop_nulls().to_list())
    return sorted(paths)


def _is_lost(path: str, store: GenerationStore) -> bool:
    try:
        store.read(path)
    except LostImage:
        return True
    return False
