"""Objects of object stores as sources: `s3://BUCKET/KEY`, `gs://…`, `az://…`, also with globs in the key."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError, PreconditionError

from imagetask.errors import SourceError, StorageError, UsageError
from imagetask.object_stores import is_without_bucket, may_pass, open_store, refusal
from imagetask.sources.files import SourceFile, cached, format_suffix, matches, packing

_PIECE = 4 << 20
"""Bytes that are asked for at once: obstore gives each answer 30 s, however large it is."""


def object_files(url: str) -> list[SourceFile]:
    """The objects that a URL names, fetched into the cache; with the credentials of the environment.

    Raises `SourceError`, `UsageError`, `StorageError` for a store that does not answer.
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
        found = [entry["path"] for page in pages for entry in page if matches(entry["path"], pattern)]
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
        patient = open_store(root)
        with _refusals(name), new.open("wb") as file:
            for start in range(0, meta["size"], _PIECE):
                end = min(start + _PIECE, meta["size"])
                answer = obstore.get(patient, key, options={"range": (start, end), "if_match": meta["e_tag"]})
                file.write(answer.bytes())

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
    except PreconditionError:
        raise StorageError(f"{name} changed while it was fetched; run the same command again") from None
    except BaseError as error:
        kind, told = StorageError if may_pass(error) else UsageError, f"{name} cannot be read: {refusal(error)}"
        error.args = ("what the store answered is not kept",)
        raise kind(told) from None
