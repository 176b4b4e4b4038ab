"""Which endpoint answers which request."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from tests.hub_server import files, lfs, reading, writing
from tests.hub_server.refusals import Refused
from tests.hub_server.state import Hub
from tests.hub_server.wire import Answer, Request

Endpoint = Callable[[Hub, Request], Answer]

_REPO = "(?P<repo>[^/]+/[^/]+)"
_API = f"/api/datasets/{_REPO}"
_REVISION = "(?P<revision>[^/]+)"
_OBJECT = "(?P<oid>[0-9a-f]{64})"

HUB: tuple[tuple[str, str, Endpoint], ...] = (
    ("GET", "/api/whoami-v2", reading.whoami),
    ("POST", "/api/validate-yaml", reading.validate_yaml),
    ("POST", "/api/repos/create", writing.create_repository),
    ("DELETE", "/api/repos/delete", writing.delete_repository),
    ("POST", f"/api/complete_multipart/{_OBJECT}", lfs.complete),
    ("GET", f"{_API}(?:/revision/{_REVISION})?", reading.repository_info),
    ("GET", f"{_API}/auth-check(?P<write>/write)?", reading.auth_check),
    ("GET", f"{_API}/tree/{_REVISION}(?P<path>/.*)?", reading.tree),
    ("POST", f"{_API}/paths-info/{_REVISION}", reading.paths_info),
    ("GET", f"{_API}/commits/{_REVISION}", reading.commits),
    ("GET", f"{_API}/refs", reading.refs),
    ("PUT", f"{_API}/settings", writing.change_settings),
    ("POST", f"{_API}/(?P<kind>branch|tag)/(?P<name>[^/]+)", writing.create_reference),
    ("DELETE", f"{_API}/(?P<kind>branch|tag)/(?P<name>[^/]+)", writing.delete_reference),
    ("POST", f"{_API}/preupload/{_REVISION}", writing.preupload),
    ("POST", f"{_API}/commit/{_REVISION}", writing.commit),
    ("POST", rf"{_API}/discussions/(?P<number>\d+)/merge", writing.merge),
    ("POST", rf"/datasets/{_REPO}\.git/info/lfs/objects/batch", lfs.batch),
    ("POST", rf"/datasets/{_REPO}\.git/info/lfs/objects/verify", lfs.verify),
    ("GET", f"/datasets/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", files.resolve),
)
STORAGE: tuple[tuple[str, str, Endpoint], ...] = (
    ("PUT", f"/uploads/{_OBJECT}", lfs.put),
    ("GET", f"/files/{_OBJECT}", files.stored_file),
)


def answer(hub: Hub, request: Request) -> Answer:
    """The answer of the endpoint that a request is for. HEAD is answered as GET."""
    method = "GET" if request.method == "HEAD" else request.method
    for served, pattern, endpoint in STORAGE if request.origin == "storage" else HUB:
        if served == method and (match := re.fullmatch(pattern, request.path)):
            request.names = {name: unquote(value or "") for name, value in match.groupdict().items()}
            return endpoint(hub, request)
    if request.path.startswith("/api/models/"):
        raise Refused(404, "Repository not found", "RepoNotFound")
    raise Refused(404, f"Nothing answers {request.method} {request.path}")
