"""The endpoints that take large files: the LFS batch, the storage's PUT in one or in parts, and the check after it."""

from __future__ import annotations

from typing import Any

from tests.hub_server.refusals import Refused
from tests.hub_server.repository import Repository
from tests.hub_server.state import Hub, Upload, check_signature
from tests.hub_server.wire import Answer, Request, json_answer

_JSON = {"Content-Type": "application/vnd.git-lfs+json"}


def batch(hub: Hub, request: Request) -> Answer:
    """Where each object is to be uploaded; nowhere, where the repository has it."""
    repo, _ = hub.writable(request, proposing=True)
    asked = request.body.json()
    if asked.get("operation") != "upload":
        raise Refused(400, "only uploads are served")
    in_parts = "multipart" in asked.get("transfers", ["basic"])
    objects = [
        _instructions(hub, repo, str(object["oid"]), int(object["size"]), in_parts) for object in asked["objects"]
    ]
    return json_answer({"transfer": "multipart" if in_parts else "basic", "objects": objects}, headers=_JSON)


def _instructions(hub: Hub, repo: Repository, oid: str, size: int, in_parts: bool) -> dict[str, Any]:
    instructions: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    if oid in repo.objects:
        return instructions
    if hub.takes_no_object:
        return {"oid": oid, "size": size, "error": {"code": 413, "message": hub.takes_no_object}}
    upload: dict[str, Any] = {"href": f"{hub.storage_url}/uploads{hub.signed(oid, repo)}"}
    if in_parts and size > hub.part_size:
        parts = -(-size // hub.part_size)
        urls = {
            f"{number:05}": f"{hub.storage_url}/uploads{hub.signed(oid, repo, partNumber=number)}"
            for number in range(1, parts + 1)
        }
        upload = {
            "href": f"{hub.url}/api/complete_multipart{hub.signed(oid, repo)}",
            "header": {"chunk_size": str(hub.part_size), **urls},
        }
    verify = {"href": f"{hub.page(repo)}.git/info/lfs/objects/verify", "header": {}}
    return {**instructions, "actions": {"upload": upload, "verify": verify}}


def put(hub: Hub, request: Request) -> Answer:
    """An object, or a part of one, into the storage."""
    check_signature(request.query)
    oid = request.names["oid"]
    if number := int(request.asked("partNumber", "0")):
        return Answer(200, headers={"ETag": f'"{hub.objects.receive_part(oid, number, request.body.pieces())}"'})
    size = hub.objects.receive(oid, request.body.pieces())
    _note(hub, request, Upload(oid, size, 0))
    return Answer(200, headers={"ETag": f'"{oid}"'})


def complete(hub: Hub, request: Request) -> Answer:
    """Makes an object of the parts that were uploaded."""
    check_signature(request.query)
    oid, parts = request.names["oid"], request.body.json().get("parts", [])
    repo = hub.repositories.get(request.asked("repo"))
    if repo is None or oid not in repo.objects:  # else the answer to an earlier request was lost
        _note(hub, request, Upload(oid, hub.objects.complete(oid, len(parts)), len(parts)))
    return json_answer({})


def verify(hub: Hub, request: Request) -> Answer:
    repo, _ = hub.writable(request, proposing=True)
    asked = request.body.json()
    oid = str(asked.get("oid"))
    if oid not in repo.objects or hub.objects.path(oid).stat().st_size != asked.get("size"):
        raise Refused(404, "The object is not there, or has another size")
    return json_answer({}, headers=_JSON)


def _note(hub: Hub, request: Request, upload: Upload) -> None:
    with hub.lock:
        hub.uploads.append(upload)
        if repo := hub.repositories.get(request.asked("repo")):
            repo.objects.add(upload.oid)
