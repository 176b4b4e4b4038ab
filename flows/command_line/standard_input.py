"""Standard input as a source: a file in the dataset's folder, so that the same command goes on."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from imagetask.errors import StorageError, UsageError

STANDARD_INPUT = "/dev/stdin"
"""What stands for the word - within: Cyclopts takes that for an option."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_HEAD = 65_536


def saved_standard_input(out: Path) -> str:
    """What comes on standard input, as a file in the folder of the dataset, named by what it holds; gives its path.

    Its first bytes tell the format: Parquet, JSON lines, TSV where its first line has a tab and no comma, else CSV;
    packed with gzip or Zstandard, or not. Raises `UsageError` where nothing comes, `DatasetError`, `StorageError`.
    """
    from imagetask.layout import Layout

    stream = sys.stdin.buffer
    if stream.isatty():
        raise UsageError("- reads the prompts from standard input, which is a terminal: pipe a file into it")
    layout = Layout(out.absolute())
    layout.make_state()
    temporary = layout.state / f".source-{os.getpid()}"
    try:
        digest = _written(stream, temporary)
        path = layout.state / f"source-{digest}{_suffix(temporary)}"
        return str(temporary.replace(path))
    except OSError as error:
        raise StorageError(f"could not write {temporary}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _written(stream: BinaryIO, path: Path) -> str:
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
    if path.stat().st_size == 0:
        raise UsageError("nothing came on standard input: pipe a file with at least one row into it")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def _suffix(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_GZIP):
        with gzip.open(path) as file:
            return f"{_format(file.read(_HEAD))}.gz"
    if head.startswith(_ZSTD):
        import pyarrow as pa

        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as file:
            return f"{_format(file.read(_HEAD))}.zst"
    return _format(head)


def _format(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return ".jsonl"
    line = head.partition(b"\n")[0]
    return ".tsv" if b"\t" in line and b"," not in line else ".csv"
