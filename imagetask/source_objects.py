"""Objects of object stores as sources: `s3://BUCKET/KEY`, `gs://…`, `az://…`, also with globs in the key."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError

from imagetask.errors import SourceError, UsageError
from imagetask.object_stores import is_without_bucket, open_store, refusal
from imagetask.source_files import SourceFile, cached, format_suffix, packing


def object_files(url: str) -> list[SourceFile]:
    """The objects that a URL names, fetched into the cache; with the credentials of the environment.

    Raises `SourceError`, `UsageError`.
    """
    scheme, _, place = url.partition("://")
    bucket, _, key = place.partition("/")
    if not bucket or not key:
        raise SourceError(f"{url} names no object: expected {scheme}://BUCKET/KEY")
    root = f"{scheme}://{bucket}"
    store = open_store(root, hasty=True)
    return [_fetched(store, root, path) for path in (_matching(store, url, key) if glob.has_magic(key) else [key])]


def _matching(store: obstore.store.ObjectStore, url: str, pattern: str) -> list[str]:
    before = next(number for number, letter in enumerate(pattern) if letter in "*?[")
    folder = pattern[:before].rpartition("/")[0]
    with _refusals(url):
        pages = obstore.list(store, prefix=folder or None)
        found = [entry["path"] for page in pages for entry in page if fnmatchcase(entry["path"], pattern)]
    if not found:
        raise SourceError(f"no object matches {url}; check the bucket, the path and the suffix")
    return sorted(found)


def _fetched(store: obstore.store.ObjectStore, root: str, key: str) -> SourceFile:
    name = f"{root}/{key}"
    suffix = format_suffix(name) + packing(name)
    with _refusals(name):
        meta = obstore.get(store, key).meta  # unlike the answer to a HEAD it tells whether the bucket is there
    if meta["size"] == 0:
        raise SourceError(f"{name} is empty (0 bytes); give a file with at least one row")
    state = (meta["e_tag"] or str(meta["last_modified"])).strip('"')

    def fetch(new: Path) -> None:
        with _refusals(name), new.open("wb") as file:
            for piece in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                file.write(piece)

    return SourceFile(cached(f"{name} {state} {meta['size']}", suffix, fetch), name, f"{name} ({state})")


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """What the store said is not kept behind the error: see `imagetask.object_stores`."""
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        if is_without_bucket(error):
            raise SourceError(f"{name} cannot be read: the bucket does not exist") from None
        raise SourceError(f"there is no object {name}; check the bucket and the key") from None
    except BaseError as error:
        raise UsageError(f"{name} cannot be read: {refusal(error)}") from None
