"""The endpoints that give files, or a range of them, from the Hub or, for LFS, from the storage behind it."""

from __future__ import annotations

import re
from urllib.parse import quote

from tests.hub_server.refusals import Refused, entry_not_found
from tests.hub_server.state import Hub, check_signature
from tests.hub_server.wire import Answer, Part, Request

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(hub: Hub, request: Request) -> Answer:
    """A small file, or the way to a large one."""
    repo = hub.readable(request)
    commit = repo.at(request.names["revision"])
    path = request.names["path"]
    file = commit.files.get(path)
    if file is None:
        raise entry_not_found("Entry not found", commit.sha)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    name = f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])}"
    if not file.lfs:
        headers |= {"ETag": f'"{file.etag}"', "Content-Disposition": name, "Content-Type": "text/plain"}
        return _ranged(request, Part(file.location, 0, file.size), headers)
    headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    return Answer(302, headers=headers | {"Location": f"{hub.storage_url}/files{hub.signed(file.sha256, repo)}"})


def stored_file(hub: Hub, request: Request) -> Answer:
    """An object, from the storage."""
    check_signature(request.query)
    path = hub.objects.path(request.names["oid"])
    headers = {"ETag": f'"{request.names["oid"]}"', "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
    return _ranged(request, Part(path, 0, path.stat().st_size), headers)


def _ranged(request: Request, whole: Part, headers: dict[str, str]) -> Answer:
    match = _RANGE.fullmatch(request.headers.get("Range") or "")
    if match is None or match.groups() == ("", ""):
        return Answer(200, whole, headers)
    if not match[1]:
        start, end = max(whole.size - int(match[2]), 0), whole.size - 1
    else:
        start, end = int(match[1]), min(int(match[2] or whole.size), whole.size - 1)
    if start > end:
        raise Refused(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{whole.size}"})
    part = Part(whole.path, start, end - start + 1)
    return Answer(206, part, headers | {"Content-Range": f"bytes {start}-{end}/{whole.size}"})
