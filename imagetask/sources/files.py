"""The files of a source, on this machine and unpacked, wherever they came from.

What is fetched or unpacked is kept in a cache (IMAGETASK_CACHE, else `imagetask/sources` in the user's cache folder): a
command opens its source several times. What was not used for a week is removed.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from imagetask.errors import SourceError, StorageError

FORMATS: Mapping[str, str] = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".parquet": "Parquet",
}
"""File suffix → format."""
PACKINGS = (".gz", ".zst")
"""What may stand after it."""

_KEPT = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. path: where it lies here. name: as it was named, for messages. pinned: what names these very
    bytes, without a folder of this machine."""

    path: Path
    name: str
    pinned: str

    @property
    def format(self) -> str:
        return FORMATS[format_suffix(self.name)]


def format_suffix(name: str) -> str:
    """The suffix that says the format, in lower case: ".csv" also of "p.CSV.gz". Raises `SourceError`."""
    plain = name.lower()
    suffix = Path(plain.removesuffix(packing(name))).suffix
    if suffix not in FORMATS:
        raise SourceError(
            f"{name} has no suffix that says its format; known are {', '.join(FORMATS)}, also with "
            f"{' or '.join(PACKINGS)} after it"
        )
    return suffix


def packing(name: str) -> str:
    """ ".gz" or ".zst", as a name ends; "" for neither."""
    return next((suffix for suffix in PACKINGS if name.lower().endswith(suffix)), "")


def is_data(name: str) -> bool:
    """Whether a name says a format that is read."""
    return Path(name.lower().removesuffix(packing(name))).suffix in FORMATS


def matches(path: str, pattern: str) -> bool:
    """Whether a glob names a path of a dataset or a bucket, by the rules of files: `*` stays between two slashes, `**`
    does not, and neither takes a name that begins with a dot."""
    return _fits(path.split("/"), pattern.split("/"))


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not names or not patterns:
        return not names and all(pattern == "**" for pattern in patterns)
    hidden = names[0].startswith(".")
    if patterns[0] == "**":
        return _fits(names, patterns[1:]) or (not hidden and _fits(names[1:], patterns))
    shown = not hidden or patterns[0].startswith(".")
    return shown and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def unpacked(file: SourceFile) -> SourceFile:
    """The same file, unpacked where it is packed. Raises `SourceError`, `StorageError`, and `OSError` of the file."""
    kind = packing(file.name)
    if not kind:
        return file
    with file.path.open("rb") as packed:
        stat = os.fstat(packed.fileno())
    if stat.st_size == 0:
        raise SourceError(f"{file.name} is empty (0 bytes); give a file with at least one row")
    suffix = format_suffix(file.name)

    def unpack(new: Path) -> None:
        with unpacking(file.path, kind, file.name) as data, new.open("wb") as to:
            shutil.copyfileobj(data, to, 1 << 20)

    return replace(file, path=cached(f"{file.path} {stat.st_size} {stat.st_mtime_ns}", suffix, unpack))


@contextmanager
def unpacking(path: Path, kind: str, name: str) -> Iterator[Any]:
    """What is in a file that is packed as ".gz" or ".zst", as a stream of bytes. name: for messages.

    Raises `SourceError`, also while it is read; the system's own errors as they are.
    """
    try:
        with gzip.open(path) if kind == ".gz" else pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as data:
            yield data
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # not of gzip or Arrow
            raise
        meant = "gzip" if kind == ".gz" else "Zstandard"
        raise SourceError(f"{name} is cut short, or is not {meant}: pack or download it again") from error


def cached(key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file of the cache under a key, which `make` writes where it is not there.

    Raises what `make` raises, `StorageError` for the disk.
    """
    folder = _folder()
    path = folder / f"{hashlib.blake2b(key.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}{suffix}"
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if path.is_file():
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # used now; its change is part of keys
            return path
        make(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # a file that lost its end with the power would be taken for whole
        return temporary.replace(path)
    except OSError as error:
        raise StorageError(f"the cache {folder} cannot be written: {error.strerror}; set IMAGETASK_CACHE") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _folder() -> Path:
    own = os.environ.get("IMAGETASK_CACHE")
    if own:
        return Path(own) / "sources"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagetask" / "sources"


def _sweep(folder: Path) -> None:
    old = time.time() - _KEPT
    for path in folder.iterdir():
        with suppress(OSError):
            if path.stat().st_atime < old:
                path.unlink()
