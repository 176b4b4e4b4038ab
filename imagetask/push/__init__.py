"""A finished dataset → the Hub: everything is sent first, and becomes visible in one commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from imagetask.card import card_of
from imagetask.errors import HubError, UsageError
from imagetask.hub import TOKEN_WANTED, hub_api, hub_errors, hub_url
from imagetask.layout import Layout
from imagetask.push.local import LocalFile, Pushing, check_folder, local_files
from imagetask.push.remote import CARD, MARKER, look_at, marker_text

__all__ = ["Pushed", "check_folder", "check_push", "push"]

Operation = CommitOperationAdd | CommitOperationDelete

LONGEST_WAIT = 300.0
"""A push waits so long in all for a Hub that refuses for now, or does not answer (seconds)."""
_FIRST_PAUSE = 2.0
_AT_MOST = 60.0


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to. commit: None where nothing was new. files, num_bytes: that were sent."""

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
    told: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Brings the dataset `repo` (OWNER/NAME) on the Hub up to date with a finished dataset folder.

    A dataset that is not there is made, private unless told otherwise. What is there already is neither sent nor
    committed again; shards that are no longer part of the dataset leave it. In memory is a piece of one file at a time.
    Killed, or refused in the middle, the next push goes on. The caller holds the folder.

    token: None for HF_TOKEN. told: takes a line for each file that was sent, and for each wait. Raises `DatasetError`
    where there is no finished dataset, `UsageError` for what a person has to mend, `HubError` where the Hub refuses, or
    does not answer, for five minutes.
    """
    check_folder(layout)
    if layout.quality.is_dir():
        from imagetask.quality import scored

        scored(layout)
    api = hub_api(token)
    pushing = Pushing.begin(layout, repo)
    with _without_bars():
        return _patiently(lambda: _push(layout, api, pushing, private, told), told)


def check_push(repo: str, token: str | None = None) -> None:
    """Raises `UsageError` where the token cannot write to `repo`, before anything is paid for; `HubError`."""
    owner = repo.partition("/")[0]
    api = hub_api(token)
    try:
        with hub_errors("push to", repo):
            user = api.whoami()
    except UsageError:
        raise UsageError(f"there is no valid token for the Hub, to push to {repo}: {TOKEN_WANTED}") from None
    role = (user.get("auth") or {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UsageError(f"the token may only read, and cannot push to {repo}: give one that may write")
    owners = [user["name"], *(org["name"] for org in user.get("orgs") or [] if org.get("roleInOrg") != "read")]
    if owner not in owners:
        raise UsageError(f"the token is of {user['name']}, who has no part in {owner}: push to {user['name']}/…")


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


def _patiently(work: Callable[[], Pushed], told: Callable[[str], None]) -> Pushed:
    """Whole pushes, until one comes to its end: each looks at what is there, and goes on from it."""
    waited, pause = 0.0, _FIRST_PAUSE
    while True:
        try:
            return work()
        except HubError as error:
            wait = max(error.retry_after or 0.0, pause)
            if waited + wait > LONGEST_WAIT:
                raise HubError(f"{error}; what was sent is kept, and the same command goes on") from None
            told(f"{error}: waiting {wait:.0f} s")
            time.sleep(wait)
            waited, pause = waited + wait, min(2 * pause, _AT_MOST)


def _push(layout: Layout, api: HfApi, pushing: Pushing, private: bool, told: Callable[[str], None]) -> Pushed:
    there = look_at(api, pushing.repo, private)
    there.check_is_of(pushing.dataset)
    if private and not there.private:
        told(f"{pushing.repo} is public already, and stays so")
    files = local_files(layout, pushing)
    new = {path: file for path, file in files.items() if not there.has(path, file)}
    pushing.publish(files)  # from here on no run cuts these shards anew
    operations: list[Operation] = [*_sent(api, pushing.repo, new, told), *map(CommitOperationDelete, there.gone(files))]
    card = there.text(api, CARD)
    own = layout.card.read_text("utf-8", "replace") if layout.card.is_file() else None
    texts = {CARD: (card, card_of(layout, repo=pushing.repo, earlier=own if card is None else card))}
    texts[MARKER] = (there.text(api, MARKER), marker_text(pushing, files))
    operations += [CommitOperationAdd(path, text.encode()) for path, (old, text) in texts.items() if text != old]
    commit = _committed(api, pushing.repo, operations, there.head) if operations else None
    pushing.end(files, commit or there.head)
    url = f"{hub_url()}/datasets/{pushing.repo}"
    return Pushed(pushing.repo, url, commit, len(new), sum(file.num_bytes for file in new.values()))


def _sent(
    api: HfApi, repo: str, new: Mapping[str, LocalFile], told: Callable[[str], None]
) -> Iterator[CommitOperationAdd]:
    """Sends the files, one after the other; what is in the Hub's storage already is not sent again."""
    for number, (path, file) in enumerate(new.items(), 1):
        operation = CommitOperationAdd(path, file.path)
        with hub_errors("push to", repo):
            api.preupload_lfs_files(repo, [operation], repo_type="dataset")
        told(f"{path}: sent, {number} of {len(new)}")
        yield operation


def _committed(api: HfApi, repo: str, operations: list[Operation], head: str) -> str:
    """Makes it all visible at once; gives the commit. Somebody else's since `head` is an error that passes."""
    with hub_errors("push to", repo):
        made = api.create_commit(
            repo, operations, commit_message="Images by imagetask", repo_type="dataset", parent_commit=head
        )
    return str(made.oid)
