"""What of a dataset folder goes to the Hub, and the note that the folder keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from imagetask.errors import DatasetError, UsageError
from imagetask.layout import Layout, read_json, write_json
from imagetask.shards import shard_files


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to be pushed. sha256: of its bytes, in hex."""

    path: Path
    num_bytes: int
    sha256: str

    @property
    def blob_id(self) -> str:
        """As git names a file of these bytes that is not in large-file storage; of small files."""
        data = self.path.read_bytes()
        return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@dataclass(slots=True)
class Pushing:
    """The note of a folder's pushes, `_imagetask/pushed.json`.

    dataset: an id that tells this dataset from others. hashes: path → size, time of change (ns) and hash of files that
    were read before.
    """

    layout: Layout
    repo: str
    dataset: str
    hashes: dict[str, list[Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, layout: Layout, repo: str) -> Pushing:
        known = read_json(layout.pushed) or {}
        pushing = cls(layout, repo, known.get("dataset") or uuid4().hex)
        pushing.hashes, pushing.files = known.get("hashes") or {}, known.get("files") or {}
        return pushing

    def sha256(self, path: Path) -> str:
        """The hash of a file, read anew only where its size or its time of change is another than before."""
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns]
        name = str(path.relative_to(self.layout.root))
        known = self.hashes.get(name)
        if known is None or known[:2] != seen:
            with path.open("rb") as file:
                known = [*seen, hashlib.file_digest(file, "sha256").hexdigest()]
            self.hashes[name] = known
        return str(known[2])

    @contextmanager
    def publishing(self, files: Mapping[str, LocalFile]) -> Iterator[None]:
        """Notes that these shards may be seen from now on, and takes that back where a `UsageError` tells that they are
        not."""
        before = self.files
        self.files = before | self._shards(files)
        self._write(None)
        try:
            yield
        except UsageError:
            self.files = before
            self._write(None)
            raise

    def end(self, files: Mapping[str, LocalFile], commit: str) -> None:
        """Notes that these are there, by this commit, and no others."""
        self.files = self._shards(files)
        self.hashes = {path: known for path, known in self.hashes.items() if path in files}
        self._write(commit)

    def _shards(self, files: Mapping[str, LocalFile]) -> dict[str, str]:
        folder = f"{self.layout.data.name}/"
        return {path.removeprefix(folder): file.sha256 for path, file in files.items() if path.startswith(folder)}

    def _write(self, commit: str | None) -> None:
        note = {"repo": self.repo, "dataset": self.dataset, "commit": commit, "files": self.files}
        write_json(self.layout.pushed, {**note, "hashes": self.hashes})


def check_folder(layout: Layout) -> None:
    """Raises `DatasetError` where the folder holds no finished dataset of ours."""
    if read_json(layout.shards) is None:
        if layout.run.is_file():
            raise DatasetError(
                f"{layout.root} holds no finished dataset yet: imagetask status {layout.root} tells how its run goes on"
            )
        raise DatasetError(f"{layout.root} is no dataset to push: expected a folder that imagetask generate wrote")
    shard_files(layout)


def local_files(layout: Layout, pushing: Pushing) -> dict[str, LocalFile]:
    """The files of the dataset but for its card, by their path in the repository. Raises `DatasetError`."""
    paths = [*shard_files(layout), *sorted(layout.quality.glob("*.parquet"))]
    paths += [layout.card_sheet] if layout.card_sheet.is_file() else []
    return {
        str(path.relative_to(layout.root)): LocalFile(path, path.stat().st_size, pushing.sha256(path)) for path in paths
    }
