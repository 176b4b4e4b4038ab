"""The generation store: every generation ever paid for, by key.

One generation is two objects: the image under its own suffix, `ab/KEY-HASH.jpg`, and after it the record,
`ab/KEY.json`. Whoever sees the record sees the whole image. A failure that is not asked again is a record alone.
Durable means against the death of the process, not against power loss.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from obstore.exceptions import BaseError, NotFoundError

from imagetask.crash_points import reach
from imagetask.errors import LostImage, StorageError, UsageError
from imagetask.folder_objects import DEBRIS, FolderObjects
from imagetask.images import Image
from imagetask.object_stores import OBJECT_STORES, StoreObjects, is_without_bucket, refusal
from imagetask.stored_records import RECORD_VERSION, parse_record

logger = logging.getLogger(__name__)

_DEBRIS_AGE = 600.0
_LIVE_WRITE = 0.5
"""Seconds in which a file that is being written changes or gets its name: clocks jump, its age alone tells nothing."""
_HASH_IN_NAME = re.compile(r"([0-9a-f]{8}|[0-9a-f]{32})\.\w+$")
_PROBE = "probe-"


class GenerationStore:
    """Records and images by key, in a folder or an object store (`s3://…`, `gs://…`, `az://…`).

    Several processes and machines may use one store. Credentials of an object store come from its usual environment
    variables, never from the URL. A store that is pickled is the same place in the process that reads it; images that
    were pickled with it are read there.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self._folder: Path | None = None
        if "://" not in self.url or self.url.startswith("file://"):
            self._folder = Path(self.url.removeprefix("file://")).absolute()
            with self._refusals("open"):
                self._objects: FolderObjects | StoreObjects = FolderObjects(self._folder)
        else:
            check_store_url(self.url)
            self._objects = StoreObjects(self.url)

    def __reduce__(self) -> tuple[Any, ...]:
        return opened_store, (self.url if self._folder is None else str(self._folder),)

    @property
    def remote(self) -> bool:
        """Whether its answers are a network away: many should be waited for at once."""
        return self._folder is None

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a key, or None. A record that is damaged, or whose image is gone, is told and is None."""
        try:
            with self._refusals("read from"):
                text = self._objects.get(_record_path(key))
        except FileNotFoundError:
            self._check_folder("read from")
            return None
        record = parse_record(text, key)
        if record is None:
            logger.warning("the record of generation %s in the store is damaged: it is made again", key)
            return None
        image = record.get("image")
        if image is not None and self._size(image["path"]) != image["bytes"]:
            logger.warning("the image of generation %s is gone from the store: it is made again", key)
            return None
        return record

    def check(self) -> None:
        """Writes something and removes it. Raises `StorageError`, before an image is paid for that cannot be kept.

        It does not wait long for a store that does not answer: whoever began the run is still there to be told.
        """
        probe = f"{_PROBE}{'write' if self.remote else uuid4().hex}"  # one name is enough where nothing is swept
        objects = StoreObjects(self.url, hasty=True) if self.remote else self._objects
        with self._refusals("write to"):
            objects.put(probe, b"imagetask")
        with suppress(FileNotFoundError), self._refusals("remove from"):
            objects.delete(probe)

    def put(self, key: str, record: Mapping[str, Any], image: Image | None) -> Image | None:
        """Makes a generation durable: the image first, its record second. Gives the image as a handle.

        record: JSON-able. image: None for a failure that is to be remembered.
        """
        whole: dict[str, Any] = {"version": RECORD_VERSION, "key": key, "created_at": time.time(), **record}
        handle = None
        self._check_folder("write to")
        if image is not None:
            path = f"{key[:2]}/{key}-{image.sha256[:8]}.{image.suffix}"
            reach("store: image to be written")
            whole["image"] = self._write_image(path, image)
            reach("store: image written")
            handle = self.image(whole["image"])
        with self._refusals("write to"):
            self._objects.put(_record_path(key), _record_json(whole))
        reach("store: record written")
        return handle

    def put_image(self, image: Image) -> Image:
        """Stores an image that is no generation of its own (a task made it) under its hash; gives it as a handle."""
        if image.path is not None:
            return image
        return self.image(self._write_image(f"own/{image.sha256[:2]}/{image.sha256[:32]}.{image.suffix}", image))

    def image(self, entry: Mapping[str, Any]) -> Image:
        """The handle of an image by the entry "image" of its record."""
        return Image(
            partial(self.read, entry["path"]),
            format=entry["format"],
            width=entry["width"],
            height=entry["height"],
            sha256=entry["sha256"],
            num_bytes=entry["bytes"],
            path=entry["path"],
        )

    def read(self, path: str) -> bytes:
        """The bytes of an image by its path in the store, which holds the beginning of their hash.

        Raises `LostImage` where they are not there, or are others than were kept.
        """
        try:
            with self._refusals("read from"):
                data = self._objects.get(path)
        except FileNotFoundError as error:
            raise LostImage(f"the image {path} is not in the store {self.url}") from error
        named = _HASH_IN_NAME.search(path)
        if named and not hashlib.sha256(data).hexdigest().startswith(named[1]):
            raise LostImage(f"the image {path} in the store {self.url} is damaged: its bytes are not those of its hash")
        return data

    def discard(self, path: str) -> None:
        """Removes an image that is damaged, so that its generation is made again."""
        with suppress(FileNotFoundError), self._refusals("remove from"):
            self._objects.delete(path)

    def sweep(self) -> int:
        """Removes what killed processes left half written (older than ten minutes); gives the number of files.

        A file that is being written stays, whatever the clocks say. What cannot be removed stays as well.
        """
        if self._folder is None:
            return 0
        old = time.time() - _DEBRIS_AGE
        halves = (path for path in self._folder.rglob("*#*") if DEBRIS.search(path.name))
        found = {path: _seen(path) for path in chain(halves, self._folder.glob(f"{_PROBE}*"))}
        debris = [path for path, seen in found.items() if seen is not None and seen[0] < old]
        if debris:
            time.sleep(_LIVE_WRITE)
        return sum(_removed(path) for path in debris if _seen(path) == found[path])

    @contextmanager
    def _refusals(self, doing: str) -> Iterator[None]:
        """Turns every refusal into `StorageError`, but "there is no such object" into `FileNotFoundError`.

        What an object store said is not kept behind the error: see `imagetask.object_stores`.
        """
        try:
            yield
        except (FileNotFoundError, NotFoundError) as error:
            if doing in ("open", "write to") or is_without_bucket(error):
                raise self._refused(doing, error) from self._cause(error)
            raise FileNotFoundError("there is no such object in the store") from self._cause(error)
        except (BaseError, OSError) as error:
            raise self._refused(doing, error) from self._cause(error)

    def _refused(self, doing: str, error: BaseException) -> StorageError:
        if self._folder is None:
            return StorageError(f"could not {doing} the store {self.url}: {refusal(error)}")
        place = f" {self._folder}" if doing == "open" else ""
        return StorageError(f"could not {doing} the store{place}: {_first_line(error)}")

    def _cause(self, error: BaseException) -> BaseException | None:
        """What an object store said is taken out of its error: Dask pickles errors with all that stands behind them."""
        if self._folder is not None:
            return error
        error.args = ("what the store answered is not kept",)
        return None

    def _check_folder(self, doing: str) -> None:
        """A folder that was deleted would be made again by the next write, and what it held paid for again."""
        if self._folder is not None and not self._folder.is_dir():
            raise StorageError(f"could not {doing} the store: the folder {self._folder} is gone")

    def _write_image(self, path: str, image: Image) -> dict[str, Any]:
        data = image.data
        with self._refusals("write to"):
            self._objects.put(path, data)
        return {
            "path": path,
            "bytes": len(data),
            "sha256": image.sha256,
            "format": image.format,
            "width": image.width,
            "height": image.height,
        }

    def _size(self, path: str) -> int | None:
        try:
            with self._refusals("read from"):
                return self._objects.size(path)
        except FileNotFoundError:
            return None


def generation_key(identity: Mapping[str, Any]) -> str:
    """The key of a generation: blake2b over canonical JSON of everything that decides the pixels. 32 hex digits.

    Raises `TypeError` where the identity is not JSON.
    """
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _record_path(key: str) -> str:
    return f"{key[:2]}/{key}.json"


def _record_json(record: Mapping[str, Any]) -> bytes:
    """`parse_record` reads it back, also where a prompt holds half of a surrogate pair."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _seen(path: Path) -> tuple[float, int] | None:
    """When a file was changed (seconds since 1970) and its bytes; None where it is gone, or cannot be seen."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime, stat.st_size


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


def check_store_url(url: str) -> None:
    """Raises `UsageError` for a URL of no kind of store that is known, and, without repeating it, for credentials."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise UsageError("the store's URL holds credentials or a query: give them in the environment, not in the URL")
    if parts.scheme not in ("file", *OBJECT_STORES):
        raise UsageError(f"a store is a folder, or one of s3://…, gs://… and az://…, not {parts.scheme}://…")
    if parts.scheme not in ("file", "memory") and not parts.netloc:
        raise UsageError(f"{url} names no bucket: expected {parts.scheme}://BUCKET/PREFIX")


@cache
def opened_store(url: str) -> GenerationStore:
    """The one of this process, for images that another process has sent here."""
    return GenerationStore(url)


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
