"""The Hub's server: two origins on loopback, in threads of the tests or in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.hub_server import routes
from tests.hub_server.accounts import Role, User
from tests.hub_server.faults import Fault, Faults
from tests.hub_server.refusals import Refused
from tests.hub_server.remote import client_environment
from tests.hub_server.repository import MAIN, Changes, Commit, File, Repository
from tests.hub_server.state import Hub, Upload
from tests.hub_server.wire import Answer, Lost, Origin, Request, json_answer

_OWNER = "system"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request. status: of the answer, 0 where the connection was closed in its place. size: bytes of its body."""

    origin: str
    method: str
    path: str
    status: int
    size: int


class HubServer(Faults):
    """Plays the Hub for dataset repositories; faults are set as `Faults` says.

    As on the real one, large files go to and come from a storage of another origin, over signed URLs, where a token
    must not be sent. All content is in `folder`. `with HubServer(folder) as server:` runs it in threads; leaving
    raises the first error that the server itself made.

    page_size: entries in a page of a listing. part_size: bytes; larger objects are uploaded in parts of it.
    """

    def __init__(self, folder: Path, *, port: int = 0, page_size: int = 1000, part_size: int = 64 << 20) -> None:
        super().__init__()
        self.hub = Hub(folder, page_size, part_size)
        self._seen: list[Seen] = []
        self._errors: list[Exception] = []
        self._stopping = threading.Event()
        self._origins = (Origin("hub", port, self._respond), Origin("storage", 0, self._respond))
        self.hub.url, self.hub.storage_url = (origin.url for origin in self._origins)

    def __enter__(self) -> HubServer:
        for origin in self._origins:
            origin.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for origin in self._origins:
            origin.stop()
        if self._errors:
            raise self._errors[0]

    @property
    def url(self) -> str:
        return self.hub.url

    @property
    def requests(self) -> list[Seen]:
        """All requests, in the order of their answers."""
        return list(self._seen)

    @property
    def uploads(self) -> list[Upload]:
        """The objects that came into the storage whole."""
        return list(self.hub.uploads)

    def env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """As `client_environment`, for this server."""
        return client_environment(self.url, home, token)

    def add_user(self, name: str, token: str, role: Role = "write", orgs: tuple[str, ...] = ()) -> None:
        """A user with this token; a user may have several."""
        self.hub.users[token] = User(name, role, orgs)

    def refuse_objects(self, message: str | None) -> None:
        """Takes no further large file, and says why, as for a user whose storage is full; None: takes them again."""
        self.hub.takes_no_object = message

    def put_files(
        self, repo: str, files: Mapping[str, bytes], *, private: bool = False, message: str = "Put files"
    ) -> Commit:
        """A commit of these files on main, in a repository that is made where it is not there."""
        with self.hub.lock:
            made = self.hub.repositories.get(repo) or self.hub.create(repo, private)
            added = {path: self.hub.file(made, path, content) for path, content in files.items()}
            return made.commit(MAIN, Changes(added), message, author=_OWNER)

    def gate(self, repo: str, *granted: str) -> None:
        """Lets only its owner and these users read the files of a repository."""
        self._repository(repo).gated = True
        self._repository(repo).granted = set(granted)

    def exists(self, repo: str) -> bool:
        return repo in self.hub.repositories

    def is_private(self, repo: str) -> bool:
        return self._repository(repo).private

    def commits(self, repo: str, revision: str = "main") -> list[Commit]:
        """The commits of a revision, the oldest first, which the Hub made itself."""
        with self.hub.lock:
            return list(self._repository(repo).history(revision))[::-1]

    def files(self, repo: str, revision: str = "main") -> dict[str, File]:
        """All files of a revision, by path; `.gitattributes` is the Hub's own."""
        with self.hub.lock:
            return dict(self._repository(repo).at(revision).files)

    def refs(self, repo: str) -> dict[str, str]:
        """The sha of each branch, tag and pull request, by full reference (`refs/heads/main`, `refs/pr/1`)."""
        return dict(self._repository(repo).refs)

    def _repository(self, repo: str) -> Repository:
        return self.hub.repositories[repo]

    def _respond(self, request: Request) -> Answer:
        fault = self.fault_of(request.method, request.path)
        if fault.seconds:
            self._stopping.wait(fault.seconds)
        if fault.drop == "request":
            request.body.drop(request.body.size // 2)
            self._note(request, 0)
            raise Lost
        answer = _refusal(Refused(fault.status, fault.message), fault) if fault.status else self._answer(request)
        request.body.drop()
        self._note(request, 0 if fault.drop == "answer" else answer.status)
        if fault.drop == "answer":
            raise Lost
        return replace(answer, cut=fault.drop == "body")

    def _answer(self, request: Request) -> Answer:
        try:
            if request.origin == "storage" and "Authorization" in request.headers:
                raise Refused(400, "Only one auth mechanism allowed")
            return routes.answer(self.hub, request)
        except Refused as refused:
            return _refusal(refused, Fault())
        except ConnectionError:
            self._note(request, 0)
            raise
        except Exception as error:
            self._errors.append(error)
            return _refusal(Refused(500, repr(error)), Fault())

    def _note(self, request: Request, status: int) -> None:
        self._seen.append(Seen(request.origin, request.method, request.path, status, request.body.size))


def _refusal(refused: Refused, fault: Fault) -> Answer:
    headers = {"X-Error-Message": refused.message} if refused.message.isprintable() else {}
    headers |= {"X-Error-Code": refused.code} if refused.code else {}
    if fault.retry_after is not None:
        headers["Retry-After"] = f"{fault.retry_after:g}"
    body = {"error": refused.message} if refused.body is None else refused.body
    return json_answer(body, refused.status, {**headers, **refused.headers})
