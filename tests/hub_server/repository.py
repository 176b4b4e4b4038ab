"""A dataset repository: immutable commits, each with all its files, and the branches, tags and pull requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from tests.hub_server.refusals import Refused, entry_not_found, revision_not_found

MAIN = "refs/heads/main"


@dataclass(frozen=True, slots=True)
class File:
    """A file in a commit. sha256: of its content. blob_id: git's, for LFS that of the pointer. location: on disk."""

    size: int
    sha256: str
    blob_id: str
    lfs: bool
    location: Path = field(repr=False)

    def read(self) -> bytes:
        return self.location.read_bytes()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


def git_blob_id(content: bytes) -> str:
    """The id that git gives content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer_of(oid: str, size: int) -> bytes:
    """The LFS pointer that stands in git for an object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. added: paths that are new or have new content. files: all that it holds, by path."""

    sha: str
    parent: str | None
    message: str
    description: str
    author: str
    added: tuple[str, ...]
    deleted: tuple[str, ...]
    date: datetime
    files: Mapping[str, File] = field(repr=False)


@dataclass(slots=True)
class Changes:
    """What a commit is to do: files to set, and paths of files and folders that must be there and go."""

    added: dict[str, File] = field(default_factory=dict)
    deleted_files: list[str] = field(default_factory=list)
    deleted_folders: list[str] = field(default_factory=list)


class Repository:
    """A repository with a first commit. id: namespace and name. objects: oids that were uploaded to it.

    granted: users who may read its files where it is gated. refs: the sha that each full reference points to.
    """

    def __init__(self, id: str, private: bool, first: Mapping[str, File]) -> None:
        self.id = id
        self.private = private
        self.gated = False
        self.granted: set[str] = set()
        self.objects: set[str] = set()
        self.refs: dict[str, str] = {}
        self._commits: dict[str, Commit] = {}
        self.commit(MAIN, Changes(dict(first)), "initial commit", author="system")

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, a full reference or a sha names."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self._commits[self.refs[name]]
        found = [sha for sha in self._commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(found) != 1:
            raise revision_not_found(revision)
        return self._commits[found[0]]

    def history(self, revision: str) -> Iterator[Commit]:
        """The commits of a revision, the newest first."""
        commit: Commit | None = self.at(revision)
        while commit is not None:
            yield commit
            commit = self._commits[commit.parent] if commit.parent else None

    def head(self, revision: str) -> str:
        """The full reference of a branch or pull request that can be committed to."""
        for name in (f"refs/heads/{revision}", revision):
            if name in self.refs and not name.startswith("refs/tags/"):
                return name
        raise revision_not_found(revision)

    def new_pull_request(self, sha: str) -> str:
        """Opens a pull request at a commit; gives its reference, `refs/pr/N`."""
        number = 1 + sum(name.startswith("refs/pr/") for name in self.refs)
        self.refs[f"refs/pr/{number}"] = sha
        return f"refs/pr/{number}"

    def commit(self, ref: str, changes: Changes, message: str, description: str = "", author: str = "") -> Commit:
        """Moves a reference to a new commit with these changes, all of them or none."""
        before = self._commits.get(self.refs.get(ref, ""))
        files = dict(before.files) if before else {}
        deleted = list(_to_delete(files, changes, before.sha if before else ""))
        for path in deleted:
            del files[path]
        added = tuple(path for path, file in changes.added.items() if files.get(path) != file)
        files.update(changes.added)
        _check_folders(files)
        parent = before.sha if before else None
        commit = Commit(
            sha=self._new_sha(parent, files, message),
            parent=parent,
            message=message,
            description=description,
            author=author,
            added=added,
            deleted=tuple(path for path in deleted if path not in files),
            date=datetime.now(UTC),
            files=MappingProxyType(files),
        )
        self._commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit

    def _new_sha(self, parent: str | None, files: Mapping[str, File], message: str) -> str:
        content = [self.id, str(parent), message, str(len(self._commits))]
        content += [f"{path} {files[path].blob_id}" for path in sorted(files)]
        return hashlib.sha1("\n".join(content).encode()).hexdigest()


def _to_delete(files: Mapping[str, File], changes: Changes, sha: str) -> Iterator[str]:
    for path in changes.deleted_files:
        if path not in files:
            raise entry_not_found(f"A file with this name doesn't exist: {path}", sha)
        yield path
    for folder in changes.deleted_folders:
        inside = [path for path in files if path.startswith(folder.rstrip("/") + "/")]
        if not inside:
            raise entry_not_found(f"A folder with this name doesn't exist: {folder}", sha)
        yield from (path for path in inside if path not in changes.deleted_files)


def _check_folders(files: Iterable[str]) -> None:
    folders = {str(parent) for path in files for parent in Path(path).parents}
    for path in files:
        if path in folders:
            raise Refused(400, f"{path} cannot be a file and a folder")
