"""What stands on the Hub: a dataset's files at its head, whose they are, and what differs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import DatasetInfo, RepoFile

from imagetask.errors import UsageError
from imagetask.hub import hub_errors
from imagetask.push.local import LocalFile, Pushing

CARD = "README.md"
MARKER = "imagetask.json"
"""Says in a repository which dataset of ours it is, and which files are its own."""
_ANYBODYS = frozenset({".gitattributes", CARD})
"""Files that a repository may have before the first push."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The files of a dataset on the Hub as they are at the commit `head`. marker: None where there is none of ours."""

    repo: str
    head: str
    private: bool
    files: Mapping[str, RepoFile]
    marker: Mapping[str, object] | None

    def check_is_of(self, dataset: str, *, replace: bool = False) -> None:
        """Raises `UsageError` where the repository holds something else than this dataset; replace: or another one that
        we pushed."""
        if self.marker is not None and self.marker["dataset"] != dataset and not replace:
            raise UsageError(
                f"{self.repo} on the Hub holds another dataset, which imagetask pushed from another folder: choose "
                "another name, or let this one, when it is made, take its place with imagetask push … --replace"
            )
        others = sorted(self.files.keys() - _ANYBODYS)
        if self.marker is None and others:
            raise UsageError(f"{self.repo} on the Hub already holds other files ({others[0]}, …): choose another name")

    @property
    def rows(self) -> int:
        """How many rows our marker tells of; 0 where it tells of none."""
        rows = (self.marker or {}).get("rows")
        return rows if isinstance(rows, int) else 0

    def has(self, path: str, file: LocalFile) -> bool:
        """Whether a file of these bytes is there under this path."""
        there = self.files.get(path)
        if there is None or there.size != file.num_bytes:
            return False
        return there.lfs.sha256 == file.sha256 if there.lfs else there.blob_id == file.blob_id

    def gone(self, files: Iterable[str]) -> list[str]:
        """Files of ours that are there and no longer part of the dataset."""
        ours = self.marker.get("files") if self.marker else None
        known = {str(path) for path in ours} if isinstance(ours, list) else set()
        return sorted((known & self.files.keys()) - set(files))

    def text(self, api: HfApi, path: str) -> str | None:
        """What a small file holds; None where it is not there."""
        return _text(api, self.repo, path, self.head) if path in self.files else None


def made(api: HfApi, repo: str, private: bool) -> Remote:
    """A dataset that was not there. Raises `UsageError`, `HubError`."""
    with hub_errors("push to", repo):
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        return _at_head(api, repo, api.dataset_info(repo))


def look_at(api: HfApi, repo: str) -> Remote | None:
    """The dataset as it is on the Hub; None where it is not there. Raises `UsageError`, `HubError`."""
    with hub_errors("push to", repo):
        try:
            info = api.dataset_info(repo)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None
        return _at_head(api, repo, info)


def _at_head(api: HfApi, repo: str, info: DatasetInfo) -> Remote:
    head = str(info.sha)
    tree = api.list_repo_tree(repo, recursive=True, revision=head, repo_type="dataset")
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    marker = _marker(_text(api, repo, MARKER, head)) if MARKER in files else None
    return Remote(repo, head, bool(info.private), files, marker)


def marker_text(pushing: Pushing, files: Iterable[str], rows: int) -> str:
    return json.dumps({"dataset": pushing.dataset, "rows": rows, "files": sorted(files)}, indent=1) + "\n"


def _marker(text: str) -> Mapping[str, object] | None:
    """What our marker says; None for a file of that name that is not ours."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    ours = isinstance(value, dict) and isinstance(value.get("dataset"), str) and isinstance(value.get("files"), list)
    return value if ours else None


def _text(api: HfApi, repo: str, path: str, revision: str) -> str:
    with tempfile.TemporaryDirectory() as folder, hub_errors("read", repo):
        file = api.hf_hub_download(repo, path, repo_type="dataset", revision=revision, local_dir=folder)
        return Path(file).read_text("utf-8", "replace")
