"""Standard input as a source: a file in the dataset's folder, so that the same command goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from imagetask.errors import StorageError, UsageError

STANDARD_INPUT = "/dev/stdin"
"""What stands for the word - within: Cyclopts takes that for an option."""
_PACKINGS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
_HEAD = 65_536


def saved_standard_input(out: Path) -> str:
    """What comes on standard input, as a file in the folder of the dataset, named by what it holds; gives its path.

    Its first bytes tell the format: Parquet, JSON lines, TSV where its first line has a tab and no comma, else CSV;
    packed with gzip or Zstandard, or not. Raises `UsageError` where nothing comes, before a folder is made, and where
    it is packed and cut short; `DatasetError`, `StorageError`.
    """
    from imagetask.layout import Layout

    stream = sys.stdin.buffer if sys.stdin is not None else BytesIO()  # None where it was closed
    if stream.isatty():
        raise UsageError("- reads the prompts from standard input, which is a terminal: pipe a file into it")
    layout = Layout(out.absolute())
    layout.check()
    temporary = layout.state / f".source-{os.getpid()}"
    try:
        first = stream.read(_HEAD)
        if not first:
            raise UsageError("nothing came on standard input: pipe a file with at least one row into it")
        layout.make_state()
        digest = _written(first, stream, temporary)
        return str(temporary.replace(layout.state / f"source-{digest}{_suffix(first, temporary)}"))
    except OSError as error:
        raise StorageError(f"could not keep standard input in {layout.state}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _written(first: bytes, stream: BinaryIO, path: Path) -> str:
    with path.open("wb+") as file:
        file.write(first)
        shutil.copyfileobj(stream, file, 1 << 20)
        file.seek(0)
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def _suffix(head: bytes, path: Path) -> str:
    packing = next((suffix for magic, suffix in _PACKINGS.items() if head.startswith(magic)), "")
    if packing:
        from imagetask.sources.files import unpacking

        with unpacking(path, packing, "what came on standard input") as data:
            head = data.read(_HEAD)
    return f"{_format(head)}{packing}"


def _format(head: bytes) -> str:
    if head.startswith(b"PAR1"):
        return ".parquet"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return ".jsonl"
    line = head.partition(b"\n")[0]
    return ".tsv" if b"\t" in line and b"," not in line else ".csv"
