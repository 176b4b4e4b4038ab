"""Files of datasets on the Hub, as sources: `hf://datasets/OWNER/NAME[@REVISION][/FILE or glob]`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from imagetask.errors import SourceError
from imagetask.hub import hub_api, hub_errors
from imagetask.sources.files import SourceFile, format_suffix, is_data, matches

_URL = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?(?:/(?P<path>.*))?")
_SERIES = re.compile(r"\d+")
_SHOWN = 10


def hub_files(url: str, token: str | None = None) -> list[SourceFile]:
    """The files that a URL names, of one revision, in the Hub's own cache on this machine.

    token: None for HF_TOKEN. A URL without a file names the dataset's data files, where these are one, or one numbered
    series. Raises `SourceError`, `UsageError`, `HubError`.
    """
    url = url.rstrip("/")
    match = _URL.fullmatch(url)
    if match is None:
        raise SourceError(f"{url}: expected hf://datasets/OWNER/NAME, with @REVISION or a path after it where you like")
    repo, revision, wanted = match["repo"], match["revision"], match["path"]
    api = hub_api(token)
    with hub_errors("read", repo):
        commit = str(api.dataset_info(repo, revision=revision).sha)
        if wanted and api.file_exists(repo, wanted, repo_type="dataset", revision=commit):
            chosen = [wanted]  # a listing may take many requests
        else:
            tree = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type="dataset")
            paths = sorted(entry.path for entry in tree if isinstance(entry, RepoFile))
            chosen = _chosen(paths, wanted, url) if wanted else _series(paths, url)
    given = f"hf://datasets/{repo}" + (f"@{revision}" if revision else "")
    for path in chosen:
        format_suffix(f"{given}/{path}")
    return [
        SourceFile(_downloaded(api, repo, commit, path), f"{given}/{path}", f"hf://datasets/{repo}@{commit}/{path}")
        for path in chosen
    ]


def _downloaded(api: HfApi, repo: str, commit: str, path: str) -> Path:
    with hub_errors("read", repo):
        return Path(api.hf_hub_download(repo, path, repo_type="dataset", revision=commit))


def _chosen(paths: Sequence[str], wanted: str, url: str) -> list[str]:
    found = [path for path in paths if matches(path, wanted)]
    if not found:
        if inside := [path for path in paths if path.startswith(f"{wanted}/")]:
            raise SourceError(f"{url} is a folder ({_listed(inside)}): name its files, or a glob, as in {url}/*.csv")
        near = difflib.get_close_matches(wanted, paths, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {_listed(paths)}"
        raise SourceError(f"{url}: the dataset has no such file; {hint}")
    return found


def _series(paths: Sequence[str], url: str) -> list[str]:
    data = [path for path in paths if is_data(path)]
    if not data:
        raise SourceError(f"{url} has no file of prompts that can be read; it has {_listed(paths)}")
    if len({_SERIES.sub("#", path) for path in data}) > 1:
        raise SourceError(f"{url} has several files of prompts ({_listed(data)}): name one, as in {url}/{data[0]}")
    return data


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(map(repr, paths[:_SHOWN])) + more if paths else "no files"
