"""A finished dataset → the Hub: everything is sent first, and becomes visible in one commit."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from imagetask.card import card_of
from imagetask.card.counts import DatasetCounts, count_dataset
from imagetask.errors import HubError, UsageError
from imagetask.hub import hub_api, hub_errors, hub_url
from imagetask.layout import Layout
from imagetask.push.local import LocalFile, Pushing, check_folder, local_files
from imagetask.push.remote import CARD, MARKER, Remote, look_at, made, marker_text
from imagetask.redact import one_line
from imagetask.settings import HUB_NAME

__all__ = ["Pushed", "check_folder", "check_name", "check_push", "push"]

Operation = CommitOperationAdd | CommitOperationDelete

LONGEST_WAIT = 300.0
"""So long a push waits for a Hub that refuses for now, or does not answer, while no file comes up (seconds)."""
_FIRST_PAUSE = 2.0
_AT_MOST = 60.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to. commit: None where nothing was new. files, num_bytes: new by it, but for the card."""

    repo: str
    url: str
    commit: str | None
    files: int
    num_bytes: int


def push(
    layout: Layout,
    repo: str,
    *,
    token: str | None = None,
    private: bool = True,
    replace: bool = False,
    told: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Brings the dataset `repo` (OWNER/NAME) on the Hub up to date with a finished dataset folder.

    A dataset that is not there is made, private unless told otherwise. What is there already is neither sent nor
    committed again; shards that are no longer part of the dataset leave it. In memory is a piece of one file at a time.
    Killed, or refused in the middle, the next push goes on. The caller holds the folder.

    token: None for HF_TOKEN. replace: also where `repo` holds another dataset that imagetask pushed, whose folder was
    lost, say. told: takes a line for each file that is up, and for each wait. Raises `DatasetError` where there is no
    finished dataset, `UsageError` for what a person has to mend, `HubError` where the Hub refuses, or does not answer,
    and for five minutes nothing goes on.
    """
    check_name(repo)
    check_folder(layout)
    if layout.quality.is_dir():
        from imagetask.quality import scored

        told("bringing the scores of the pictures up to date")
        scored(layout, say=told)
    counts = count_dataset(layout)
    work = _Push(layout, counts, hub_api(token), Pushing.begin(layout, repo), private, replace, told)
    with _without_bars():
        try:
            return _patiently(work, told)
        except UsageError:
            with suppress(HubError):
                check_push(repo, token)  # which knows better what the token lacks, if it is that
            raise


def check_name(repo: str) -> None:
    """Raises `UsageError` for what is no OWNER/NAME."""
    if not re.fullmatch(HUB_NAME, repo):
        raise UsageError(f"{repo!r} is no name of a dataset on the Hub: expected OWNER/NAME")


def check_push(repo: str, token: str | None = None, layout: Layout | None = None) -> None:
    """Raises `UsageError` where the token cannot write to `repo`, before anything is paid for; `HubError`.

    layout: of the folder that is to be pushed, for which something else in `repo` is refused.
    """
    owner = repo.partition("/")[0]
    api = hub_api(token)
    with hub_errors("push to", repo):
        user = api.whoami()
    role = (user.get("auth") or {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError(f"the token may only read, and cannot push to {repo}: give one that may write")
    owners = [user["name"], *(org["name"] for org in user.get("orgs") or [])]
    if owner.casefold() not in map(str.casefold, owners):
        raise UsageError(f"the token is of {user['name']}, who has no part in {owner}: push to {user['name']}/…")
    if layout is not None and (there := look_at(api, repo)) is not None:
        there.check_is_of(Pushing.begin(layout, repo).dataset)


@contextmanager
def _without_bars() -> Iterator[None]:
    """The client's progress bars, several a file, would stand between our lines, and in the log of a flow."""
    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()


def _patiently(work: _Push, told: Callable[[str], None]) -> Pushed:
    """Whole pushes, until one comes to its end: each looks at what is there, and goes on from it."""
    waited, pause, up = 0.0, _FIRST_PAUSE, 0
    while True:
        try:
            return work.attempt()
        except HubError as error:
            if len(work.up) > up:
                waited, pause, up = 0.0, _FIRST_PAUSE, len(work.up)
            wait = max(error.retry_after or 0.0, pause)
            if waited + wait > LONGEST_WAIT:
                asked = f", and asks to wait {error.retry_after:.0f} s" if error.retry_after else ""
                raise HubError(f"{error}{asked}; what was sent is kept, and the same command goes on") from None
            told(f"{error}: waiting {wait:.0f} s")
            time.sleep(wait)
            waited, pause = waited + wait, min(2 * pause, _AT_MOST)


@dataclass(slots=True)
class _Push:
    """One push, over all its attempts.

    up: files that are up, and not seen before a commit, by path. asked: whether a commit was asked for, which may have
    been made though its answer was lost.
    """

    layout: Layout
    counts: DatasetCounts
    api: HfApi
    note: Pushing
    private: bool
    replace: bool
    told: Callable[[str], None]
    up: dict[str, CommitOperationAdd] = field(default_factory=dict)
    asked: bool = False
    told_what_changes: bool = False

    def attempt(self) -> Pushed:
        """Looks at what is there, sends what is not, and makes it visible at once."""
        there, files = self._look()
        new = {path: file for path, file in files.items() if not there.has(path, file)}
        self._send(new)
        operations: list[Operation] = [*(self.up[path] for path in new), *self._texts(there, files)]
        if gone := there.gone(files):
            self.told(f"no longer part of the dataset, and leaving it: {', '.join(gone)}")
        operations += map(CommitOperationDelete, gone)
        commit = there.head
        if operations:
            with self.note.publishing(files):  # from here on no run cuts these shards anew
                commit = self._commit(operations, there.head)
        self.note.end(files, commit)
        sizes = [files[path].num_bytes for path in self.up if path in files]
        new_commit = commit if operations or self.asked else None
        return Pushed(there.repo, f"{hub_url()}/datasets/{there.repo}", new_commit, len(sizes), sum(sizes))

    def _look(self) -> tuple[Remote, dict[str, LocalFile]]:
        there = look_at(self.api, self.note.repo) or made(self.api, self.note.repo, self.private)
        there.check_is_of(self.note.dataset, replace=self.replace)
        if not self.told_what_changes:
            self._tell_what_changes(there)
        return there, local_files(self.layout, self.note)

    def _tell_what_changes(self, there: Remote) -> None:
        self.told_what_changes = True
        if there.private != self.private:
            self.told(f"{there.repo} is {'private' if there.private else 'public'} already, and stays so")
        if self.counts.pending:
            self.told(f"{self.counts.pending:,} of its images are pending: no run has come to them")
        if there.rows > (rows := self.counts.rows):
            self.told(f"{there.repo} has {there.rows:,} rows, and {rows:,} after this push: its history keeps them")

    def _send(self, new: Mapping[str, LocalFile]) -> None:
        """Sends the files, one after the other; what is in the Hub's storage already is not sent again."""
        for number, (path, file) in enumerate(new.items(), 1):
            if path in self.up:
                continue
            operation = CommitOperationAdd(path, file.path)
            with hub_errors("push to", self.note.repo):
                self.api.preupload_lfs_files(self.note.repo, [operation], repo_type="dataset")
            self.up[path] = operation
            self.told(f"{path}: uploaded, {number} of {len(new)}")

    def _texts(self, there: Remote, files: Mapping[str, LocalFile]) -> Iterator[CommitOperationAdd]:
        """The card and our marker, where they say something new."""
        card = there.text(self.api, CARD)
        own = self.layout.card.read_text("utf-8", "replace") if self.layout.card.is_file() else None
        texts = {CARD: (card, card_of(self.layout, repo=there.repo, earlier=own if card is None else card))}
        texts[MARKER] = (there.text(self.api, MARKER), marker_text(self.note, files, self.counts.rows))
        for path, (old, text) in texts.items():
            if text != old:
                yield CommitOperationAdd(path, text.encode())

    def _commit(self, operations: list[Operation], head: str) -> str:
        """Gives the commit. Somebody else's since `head` is an error that passes."""
        self.asked = True
        with hub_errors("push to", self.note.repo):
            try:
                commit = self.api.create_commit(
                    self.note.repo,
                    operations,
                    commit_message="Images by imagetask",
                    repo_type="dataset",
                    parent_commit=head,
                )
            except ValueError as error:  # so the client tells that the Hub refuses the front matter of the card
                if not str(error).startswith("Invalid metadata in README.md"):
                    raise
                said = one_line(str(error).partition("\n")[2]) or "it does not say why"
                raise UsageError(
                    f"the Hub refuses the front matter of the card of {self.note.repo} ({said}): mend it in "
                    f"{self.layout.card}; a licence is given with --license"
                ) from None
        return str(commit.oid)
