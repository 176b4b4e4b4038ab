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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
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


def unpacked(file: SourceFile) -> SourceFile:
    """The same file, unpacked where it is packed. Raises `SourceError`, `StorageError`."""
    kind = packing(file.name)
    if not kind:
        return file
    stat = file.path.stat()
    if stat.st_size == 0:
        raise SourceError(f"{file.name} is empty (0 bytes); give a file with at least one row")
    suffix = format_suffix(file.name)
    path = cached(f"{file.path} {stat.st_size} {stat.st_mtime_ns}", suffix, lambda new: _unpack(file, kind, new))
    return replace(file, path=path)


def _unpack(file: SourceFile, kind: str, new: Path) -> None:
    with _packing_errors(file.name, "gzip" if kind == ".gz" else "Zstandard"), new.open("wb") as to:
        if kind == ".gz":
            with gzip.open(file.path) as data:
                shutil.copyfileobj(data, to, 1 << 20)
        else:
            with pa.CompressedInputStream(pa.OSFile(str(file.path)), "zstd") as data:
                while piece := data.read(1 << 20):
                    to.write(piece)


@contextmanager
def _packing_errors(name: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, pa.ArrowException) as error:
        raise SourceError(f"{name} is cut short, or is not {kind}: pack or download it again") from error
    except OSError as error:
        if error.errno is None:  # Arrow's
            raise SourceError(f"{name} is cut short, or is not {kind}: pack or download it again") from error
        raise StorageError(f"could not unpack {name}: {error.strerror}") from error


def cached(key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """The file of the cache under a key, which `make` writes where it is not there. Raises what `make` raises."""
    folder = _folder()
    path = folder / f"{hashlib.blake2b(key.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if path.is_file():
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # used now; its change is part of keys
            return path
    except OSError as error:
        raise StorageError(f"the cache {folder} cannot be written: {error.strerror}; set IMAGETASK_CACHE") from error
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        make(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


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
