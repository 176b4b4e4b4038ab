"""The endpoints that change repositories: create and delete, branches and tags, and commits."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from tests.hub_server.accounts import check_writing
from tests.hub_server.refusals import Refused, repository_not_found
from tests.hub_server.repository import MAIN, Changes, Commit, Repository
from tests.hub_server.state import Hub, is_lfs
from tests.hub_server.wire import Answer, Request, json_answer

_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def create_repository(hub: Hub, request: Request) -> Answer:
    asked = request.body.json()
    user = hub.user(request)
    id = f"{asked.get('organization') or (user.name if user else '')}/{asked.get('name')}"
    check_writing(id.partition("/")[0], user)
    if asked.get("type") != "dataset" or not _NAME.fullmatch(id):
        raise Refused(400, f"{id} cannot be made here: only dataset repositories can")
    url = f"{hub.url}/datasets/{id}"
    with hub.lock:
        if id in hub.repositories:
            message = "You already created this dataset repo"
            raise Refused(409, message, body={"error": message, "url": url})
        hub.create(id, asked.get("visibility") == "private" or asked.get("private") is True)
    return json_answer({"url": url, "name": id, "id": id})


def delete_repository(hub: Hub, request: Request) -> Answer:
    asked = request.body.json()
    user = hub.user(request)
    id = f"{asked.get('organization') or (user.name if user else '')}/{asked.get('name')}"
    check_writing(id.partition("/")[0], user)
    with hub.lock:
        if hub.repositories.pop(id, None) is None:
            raise repository_not_found(True)
    return json_answer({})


def change_settings(hub: Hub, request: Request) -> Answer:
    repo, _ = hub.writable(request)
    asked = request.body.json()
    if "visibility" in asked or "private" in asked:
        repo.private = asked.get("visibility") == "private" or asked.get("private") is True
    repo.gated = bool(asked.get("gated", repo.gated))
    return json_answer({"private": repo.private})


def create_reference(hub: Hub, request: Request) -> Answer:
    """A branch, or a tag of a revision."""
    repo, _ = hub.writable(request)
    asked, name = request.body.json(), request.names["name"]
    if request.names["kind"] == "tag":
        ref, sha = f"refs/tags/{asked.get('tag')}", repo.at(name).sha
    else:
        ref, sha = f"refs/heads/{name}", repo.at(asked.get("startingPoint") or "main").sha
        if name.startswith("refs/"):
            raise Refused(400, f"Invalid reference for a branch: {name}")
    with hub.lock:
        if ref in repo.refs:
            raise Refused(409, f"Reference {ref} exists already")
        repo.refs[ref] = sha
    return json_answer({})


def delete_reference(hub: Hub, request: Request) -> Answer:
    repo, _ = hub.writable(request)
    ref = ("refs/tags/" if request.names["kind"] == "tag" else "refs/heads/") + request.names["name"]
    with hub.lock:
        if ref == MAIN:
            raise Refused(403, "Cannot delete the branch main")
        if repo.refs.pop(ref, None) is None:
            raise Refused(404, f"Reference {ref} does not exist", "RevisionNotFound")
    return json_answer({})


def preupload(hub: Hub, request: Request) -> Answer:
    """How each file is to be uploaded, and what is there under its path."""
    repo, _ = hub.writable(request, proposing=request.wants("create_pr"))
    commit = repo.at(request.names["revision"])
    files = []
    for asked in request.body.json()["files"]:
        path = asked["path"]
        lfs = is_lfs(path, asked["size"], base64.b64decode(asked.get("sample", "")))
        there = {"oid": commit.files[path].etag} if path in commit.files else {}
        files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **there})
    return json_answer({"files": files, "commitOid": commit.sha})


def commit(hub: Hub, request: Request) -> Answer:
    """A commit on a branch, or on a new pull request from it."""
    proposing = request.wants("create_pr")
    repo, user = hub.writable(request, proposing)
    header, operations = _operations(request)
    with hub.lock:
        ref = repo.head(request.names["revision"])
        expected = header.get("parentCommit")
        if expected and not proposing and not repo.refs[ref].startswith(expected):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        changes = _changes(hub, repo, operations)
        if proposing:
            ref = repo.new_pull_request(repo.at(expected).sha if expected else repo.refs[ref])
        made = repo.commit(ref, changes, header.get("summary", ""), header.get("description", ""), user.name)
    return json_answer(_told(hub, repo, made, ref))


def merge(hub: Hub, request: Request) -> Answer:
    """What a pull request changed, as one commit on main."""
    repo, user = hub.writable(request)
    with hub.lock:
        ref = f"refs/pr/{request.names['number']}"
        proposed, *history = repo.history(repo.head(ref))
        known = {before.sha for before in repo.history("main")}
        base = next(before for before in history if before.sha in known)
        files = {path: file for path, file in proposed.files.items() if base.files.get(path) != file}
        gone = [path for path in base.files if path not in proposed.files]
        repo.commit(MAIN, Changes(files, gone), proposed.message, proposed.description, user.name)
    return json_answer({})


def _told(hub: Hub, repo: Repository, made: Commit, ref: str) -> dict[str, Any]:
    told: dict[str, Any] = {"success": True, "commitOid": made.sha, "hookOutput": ""}
    told["commitUrl"] = f"{hub.page(repo)}/commit/{made.sha}"
    if ref.startswith("refs/pr/"):
        told["pullRequestUrl"] = f"{hub.page(repo)}/discussions/{ref.rpartition('/')[2]}"
    return told


def _operations(request: Request) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """The header of a commit, and what it is to do."""
    try:
        lines = [json.loads(line) for line in request.body.read().splitlines() if line]
        items = [(line["key"], line["value"]) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(400, f"The commit cannot be read: {error!r}") from error
    if not items or items[0][0] != "header":
        raise Refused(400, "The commit has no header")
    return items[0][1], items[1:]


def _changes(hub: Hub, repo: Repository, operations: list[tuple[str, dict[str, Any]]]) -> Changes:
    changes = Changes()
    for key, value in operations:
        path = value["path"]
        if key == "deletedFile":
            changes.deleted_files.append(path)
        elif key == "deletedFolder":
            changes.deleted_folders.append(path)
        elif key == "file":
            changes.added[path] = hub.small_file(base64.b64decode(value["content"]))
        elif key == "lfsFile" and value["oid"] in repo.objects:
            changes.added[path] = hub.lfs_file(value["oid"])
        elif key == "lfsFile":
            raise Refused(400, f"An LFS pointer pointed to a file that does not exist: {path}")
        else:
            raise Refused(400, f"{key} is no operation that is served")
    return changes
