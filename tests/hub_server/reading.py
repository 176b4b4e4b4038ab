"""The endpoints that read: who one is, what a repository is, and what is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

import yaml  # type: ignore[import-untyped]

from tests.hub_server.accounts import check_writing
from tests.hub_server.refusals import Refused, entry_not_found
from tests.hub_server.repository import Commit, File, Repository, pointer_of
from tests.hub_server.state import Hub
from tests.hub_server.wire import Answer, Request, json_answer

_DETAILED_PAGE = 50


def whoami(hub: Hub, request: Request) -> Answer:
    user = hub.user(request)
    if user is None:
        raise Refused(401, "Invalid username or password.")
    token = {"displayName": "tests", "role": user.role}
    content = {
        "type": "user",
        "id": user.name,
        "name": user.name,
        "fullname": user.name,
        "isPro": False,
        "orgs": [{"type": "org", "name": name, "fullname": name, "roleInOrg": "write"} for name in user.orgs],
        "auth": {"type": "access_token", "accessToken": token},
    }
    return json_answer(content)


def auth_check(hub: Hub, request: Request) -> Answer:
    repo = hub.readable(request)
    if request.names["write"]:
        check_writing(repo.namespace, hub.user(request))
    return json_answer({"ok": True})


def repository_info(hub: Hub, request: Request) -> Answer:
    repo = hub.seen(request)
    commit = repo.at(request.names["revision"] or "main")
    *_, first = repo.history(commit.sha)
    content = {
        "_id": commit.sha[:24],
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "lastModified": _date(commit),
        "createdAt": _date(first),
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": _card(commit),
        "siblings": [_sibling(path, file, request.wants("blobs")) for path, file in sorted(commit.files.items())],
    }
    if expand := request.query.get("expand") or request.query.get("expand[]"):
        content = {name: value for name, value in content.items() if name in {"_id", "id", *expand}}
    return json_answer(content)


def tree(hub: Hub, request: Request) -> Answer:
    repo = hub.seen(request)
    commit = repo.at(request.names["revision"])
    folder, detailed = request.names["path"].strip("/"), request.wants("expand")
    entries = _entries(commit, folder, request.wants("recursive"))
    if folder and not entries:
        raise entry_not_found(f"{folder} does not exist on {request.names['revision']!r}", commit.sha)
    start = int(request.asked("cursor", "0"))
    end = start + int(request.asked("limit") or (_DETAILED_PAGE if detailed else hub.page_size))
    page = _described(repo, commit, entries[start:end], detailed)
    more = {"recursive": request.asked("recursive"), "expand": request.asked("expand"), "cursor": end}
    link = f'<{hub.url}{request.path}?{urlencode(more)}>; rel="next"'
    return json_answer(page, headers={"Link": link} if end < len(entries) else {})


def paths_info(hub: Hub, request: Request) -> Answer:
    repo = hub.seen(request)
    commit = repo.at(request.names["revision"])
    form = parse_qs(request.body.read().decode())
    asked = [path.strip("/") for path in form.get("paths", [])]
    if len(asked) > 1000:
        raise Refused(413, "too many parameters")
    folders = {parent for path in commit.files for parent in _parents(path)}
    entries = [path for path in asked if path in commit.files or path in folders]
    return json_answer(_described(repo, commit, entries, form.get("expand", [""])[-1].lower() == "true"))


def commits(hub: Hub, request: Request) -> Answer:
    found = [
        {
            "id": commit.sha,
            "title": commit.message,
            "message": commit.description,
            "authors": [{"user": commit.author}],
            "date": _date(commit),
        }
        for commit in hub.seen(request).history(request.names["revision"])
    ]
    return json_answer(found)


def refs(hub: Hub, request: Request) -> Answer:
    repo = hub.seen(request)
    kinds = {"branches": "refs/heads/", "converts": "refs/convert/", "tags": "refs/tags/"}
    if request.wants("include_prs"):
        kinds["pullRequests"] = "refs/pr/"
    content = {
        kind: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
            for ref, sha in repo.refs.items()
            if ref.startswith(prefix)
        ]
        for kind, prefix in kinds.items()
    }
    return json_answer(content)


def validate_yaml(hub: Hub, request: Request) -> Answer:
    content = str(request.body.json().get("content", ""))
    try:
        card = read_card(content)
    except yaml.YAMLError as error:
        raise Refused(400, "", body={"errors": [{"message": str(error)}], "warnings": []}) from error
    if card is not None and not isinstance(card, dict):
        raise Refused(400, "", body={"errors": [{"message": "The metadata is no mapping"}], "warnings": []})
    empty = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
    return json_answer({"errors": [], "warnings": empty})


def read_card(content: str) -> Any:
    """The front matter of a README; None where there is none. Raises `yaml.YAMLError`."""
    opening, _, rest = content.partition("---\n")
    front, end, _ = rest.partition("\n---")
    return yaml.safe_load(front) if not opening.strip() and end else None


def _card(commit: Commit) -> Any:
    return read_card(commit.files["README.md"].read().decode()) if "README.md" in commit.files else None


def _date(commit: Commit) -> str:
    return commit.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _sibling(path: str, file: File, detailed: bool) -> dict[str, object]:
    content: dict[str, object] = {"rfilename": path}
    if detailed:
        content |= {"size": file.size, "blobId": file.blob_id}
        content |= {"lfs": {**_lfs(file), "sha256": file.sha256}} if file.lfs else {}
    return content


def _lfs(file: File) -> dict[str, object]:
    return {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer_of(file.sha256, file.size))}


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def _entries(commit: Commit, folder: str, recursive: bool) -> list[str]:
    """The paths of the files and folders in a folder, or at any depth of it."""
    prefix = f"{folder}/" if folder else ""
    inside = [path for path in commit.files if path.startswith(prefix)]
    found = {entry for path in inside for entry in (path, *_parents(path)) if entry.startswith(prefix)}
    return sorted(entry for entry in found if recursive or "/" not in entry[len(prefix) :])


def _described(repo: Repository, commit: Commit, paths: Iterable[str], detailed: bool) -> list[dict[str, object]]:
    return [_entry(commit, path) | (_details(repo, commit, path) if detailed else {}) for path in paths]


def _entry(commit: Commit, path: str) -> dict[str, object]:
    file = commit.files.get(path)
    if file is None:
        oid = hashlib.sha1(f"{commit.sha} {path}".encode()).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    lfs: Mapping[str, object] = {"lfs": _lfs(file)} if file.lfs else {}
    return {"type": "file", "oid": file.blob_id, "size": file.size, "path": path, **lfs}


def _details(repo: Repository, commit: Commit, path: str) -> dict[str, object]:
    """What `expand` adds: the last commit that touched a path."""
    for last in repo.history(commit.sha):
        if any(added == path or added.startswith(f"{path}/") for added in last.added):
            return {"lastCommit": {"id": last.sha, "title": last.message, "date": _date(last)}}
    raise LookupError(path)
