"""What the Hub answers in place of what was asked for, with the headers that its clients tell the cases apart by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(eq=False)
class Refused(Exception):
    """An answer with an error status. code: for `X-Error-Code`. body: JSON, a plain message where it is None."""

    status: int
    message: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None


def repository_not_found(known_user: bool) -> Refused:
    """There is no such repository, or none that this user may see.

    The Hub itself leaves the code out for some anonymous requests, and its clients look at the URL instead; they do so
    for https only. With the code they raise the same exception over http.
    """
    if known_user:
        return Refused(404, "Repository not found", "RepoNotFound")
    return Refused(401, "Invalid username or password.", "RepoNotFound")


def revision_not_found(revision: str) -> Refused:
    return Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str, commit: str) -> Refused:
    return Refused(404, message, "EntryNotFound", {"X-Repo-Commit": commit})


def gated(repo: str, known_user: bool) -> Refused:
    """The repository can be seen, but not its files."""
    if known_user:
        why = "is restricted and you are not in the authorized list. Ask for access on its page."
        return Refused(403, f"Access to dataset {repo} {why}", "GatedRepo")
    why = "is restricted. You must have access to it and be authenticated to access it. Please log in."
    return Refused(401, f"Access to dataset {repo} {why}", "GatedRepo")
