"""Who may do what on the Hub: users by their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.hub_server.refusals import Refused, gated, repository_not_found
from tests.hub_server.repository import Repository

Role = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class User:
    """A user as one token shows it. role: of the token. orgs: namespaces that are the user's too."""

    name: str
    role: Role = "write"
    orgs: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


def may_see(repo: Repository | None, user: User | None) -> Repository:
    """The repository, where it is there and the user may know of it."""
    if repo is None or (repo.private and not (user and user.owns(repo.namespace))):
        raise repository_not_found(user is not None)
    return repo


def check_reading(repo: Repository, user: User | None) -> None:
    """Refuses the files of a gated repository to those who were not let in."""
    if repo.gated and not (user and (user.owns(repo.namespace) or user.name in repo.granted)):
        raise gated(repo.id, user is not None)


def check_writing(namespace: str, user: User | None) -> User:
    """The user, where its token may write into the namespace."""
    if user is None:
        raise repository_not_found(False)
    if user.role != "write":
        raise Refused(403, "you must use a write token to upload to a repository.")
    if not user.owns(namespace):
        raise Refused(403, f'You don\'t have the rights to write under the namespace "{namespace}"')
    return user
