"""What a Hub holds: its users, its repositories and their objects, and the list of what was uploaded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.hub_server.accounts import User, check_reading, check_writing, may_see
from tests.hub_server.objects import ObjectStore
from tests.hub_server.refusals import Refused
from tests.hub_server.repository import File, Repository, git_blob_id, pointer_of
from tests.hub_server.wire import Request

SIGNATURE = "c2lnbmVkLWJ5LXRoZS1odWI"
"""The signature in every URL of the storage: as good as a token, so it must turn up nowhere."""

LFS_SUFFIXES = (
    "arrow",
    "avif",
    "bin",
    "gz",
    "jpeg",
    "jpg",
    "npy",
    "npz",
    "parquet",
    "png",
    "tar",
    "webp",
    "zip",
    "zst",
)
LFS_SIZE = 10 * 1024 * 1024
GIT_ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Upload:
    """An object that came in whole. bytes: its size. parts: in how many it came, 0 where in one PUT of its own."""

    oid: str
    bytes: int
    parts: int


class Hub:
    """The state that all endpoints share; whoever changes it holds `lock`.

    page_size: entries in a page of a listing, 50 where details are asked for. part_size: bytes, of the parts in which
    larger objects are uploaded.
    """

    def __init__(self, folder: Path, page_size: int, part_size: int) -> None:
        self.objects = ObjectStore(folder)
        self.page_size = page_size
        self.part_size = part_size
        self.users: dict[str, User] = {}
        self.repositories: dict[str, Repository] = {}
        self.uploads: list[Upload] = []
        self.takes_no_object: str | None = None
        self.lock = threading.RLock()
        self.url = ""
        self.storage_url = ""

    def user(self, request: Request) -> User | None:
        """Who asks; None where there is no token. Refuses an unknown token."""
        given = request.headers.get("Authorization")
        if given is None:
            return None
        user = self.users.get(given.removeprefix("Bearer "))
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def seen(self, request: Request) -> Repository:
        """The repository of a request, whose user may know of it."""
        return may_see(self.repositories.get(request.names["repo"]), self.user(request))

    def readable(self, request: Request) -> Repository:
        """The repository of a request, whose user may read its files."""
        repo = self.seen(request)
        check_reading(repo, self.user(request))
        return repo

    def writable(self, request: Request, proposing: bool = False) -> tuple[Repository, User]:
        """The repository of a request and its user, who may write to it, or, where `proposing`, to a pull request."""
        user = self.user(request)
        repo = may_see(self.repositories.get(request.names["repo"]), user)
        return repo, check_writing(user.name if proposing and user else repo.namespace, user)

    def create(self, id: str, private: bool) -> Repository:
        """A new repository, with the first commit that the Hub makes."""
        attributes = self.small_file(GIT_ATTRIBUTES.encode())
        repo = self.repositories[id] = Repository(id, private, {".gitattributes": attributes})
        return repo

    def small_file(self, content: bytes) -> File:
        """A file that is no LFS object."""
        oid = self.objects.add(content)
        return File(len(content), oid, git_blob_id(content), False, self.objects.path(oid))

    def lfs_file(self, oid: str) -> File:
        """A file that is an LFS object, which must be there."""
        size = self.objects.path(oid).stat().st_size
        return File(size, oid, git_blob_id(pointer_of(oid, size)), True, self.objects.path(oid))

    def file(self, repo: Repository, path: str, content: bytes) -> File:
        """The file that content becomes when it is uploaded under this path."""
        if not is_lfs(path, len(content), content[:512]):
            return self.small_file(content)
        oid = self.objects.add(content)
        repo.objects.add(oid)
        return self.lfs_file(oid)

    def page(self, repo: Repository) -> str:
        """The address of a repository's page."""
        return f"{self.url}/datasets/{repo.id}"

    def signed(self, oid: str, repo: Repository, **names: object) -> str:
        """What an object's URL in the storage ends with: it serves as a key."""
        query = {"repo": repo.id, **names, "X-Amz-Signature": SIGNATURE}
        return f"/{oid}?" + "&".join(f"{name}={value}" for name, value in query.items())


def check_signature(query: Mapping[str, list[str]]) -> None:
    """Refuses a URL of the storage that the Hub did not sign."""
    if query.get("X-Amz-Signature") != [SIGNATURE]:
        raise Refused(403, "SignatureDoesNotMatch")


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub takes such a file by LFS. sample: its first bytes."""
    return path.rpartition(".")[2].lower() in LFS_SUFFIXES or size > LFS_SIZE or b"\0" in sample
