"""The Hugging Face Hub: its client, and what it refuses, in one sentence.

No token and no signed URL is in a message, and what the client raised is not kept behind it: its text has both.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from imagetask.errors import HubError, ImageTaskError, StorageError, UsageError
from imagetask.redact import BareUrls, bare_url, one_line

TOKEN_WANTED = "set HF_TOKEN, run `hf auth login`, or name a block with --hub-credentials"
_LATER = frozenset({408, 409, 412, 425, 429})
"""Answers, beside 5xx, after which the same request may work."""
_WAITS = (("retry-after", r"^(\d{1,6})$"), ("ratelimit", r"\br=0;t=(\d{1,6})\b"))
"""Where an answer says for how many seconds to wait; the Hub's own says it in the second."""
_LOGGERS = ("huggingface_hub.utils._http", "huggingface_hub.file_download", "huggingface_hub.lfs")
"""The client logs the signed URLs of uploads and downloads that it tries again (2.4)."""


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(BareUrls())


def hub_url() -> str:
    """Where the Hub is: HF_ENDPOINT as it is now, else the client's own. Raises `UsageError` for what is no URL."""
    url = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not re.match(r"https?://[^/]", url):
        raise UsageError(f"HF_ENDPOINT is {bare_url(url)!r}: expected a URL that begins with https:// or http://")
    return url


def hub_api(token: str | None = None) -> HfApi:
    """The client. token: None for HF_TOKEN, or the one of `hf auth login`, if there is any."""
    return HfApi(endpoint=hub_url(), token=token)


@contextmanager
def hub_errors(doing: str, repo: str) -> Iterator[None]:
    """Turns what the client raises into an error of ours.

    doing: as in "read", "write to". repo: the dataset, OWNER/NAME. Raises `UsageError` for what a person has to mend,
    `HubError` for what may pass, `StorageError` for a disk that refuses.
    """
    try:
        yield
    except ImageTaskError:
        raise
    except (httpx2.HTTPError, EntryNotFoundError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, _OF_THE_HUB) and error.errno is not None:
            raise StorageError(f"could not {doing} the dataset {repo}: the disk refused: {error.strerror}") from error
        raise _told(error, doing, repo) from None


_OF_THE_HUB = (
    HfHubHTTPError,
    ConnectionError,
    TimeoutError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
"""What is an `OSError` to Python, and no matter of this machine's disk."""


def _told(error: BaseException, doing: str, repo: str) -> ImageTaskError:
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # how the client tells of a failed upload
        error = error.__cause__
    name = f"the dataset {repo} on the Hub"
    if isinstance(error, OfflineModeIsEnabled):
        return UsageError(f"{name} cannot be reached: HF_HUB_OFFLINE is set")
    if isinstance(error, HFValidationError):
        return UsageError(f"{repo!r} is no name of a dataset on the Hub: expected OWNER/NAME")
    if isinstance(error, LocalTokenNotFoundError):
        return UsageError(f"could not {doing} {name}: there is no token; {TOKEN_WANTED}")
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, doing, repo, name)
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return UsageError(f"{name} has no such file: {one_line(str(error))}")
    if str(error).startswith("LFS batch API returned errors"):  # and then of each file why it is not taken
        return UsageError(f"could not {doing} {name}: {one_line(str(error))}")
    host = urlsplit(hub_url()).netloc.rpartition("@")[2]
    return HubError(f"could not {doing} {name}: {host} does not answer ({type(error).__name__})")


def _refusal(error: HfHubHTTPError, doing: str, repo: str, name: str) -> ImageTaskError:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return UsageError(f"{name} is gated: ask for access on its page, and give your token ({TOKEN_WANTED})")
    if isinstance(error, RevisionNotFoundError):
        return UsageError(f"{name} has no such revision: name a branch, a tag or a commit after @")
    if isinstance(error, EntryNotFoundError):
        return UsageError(f"{name} has no such file: name one that is in it")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return UsageError(f"could not {doing} {name}: the Hub does not know the token; {TOKEN_WANTED}")
    if isinstance(error, RepositoryNotFoundError):
        return UsageError(
            f"there is no dataset {repo} on the Hub, or it is private and the token does not open it: check the name; "
            f"for a token {TOKEN_WANTED}"
        )
    secret = error.response.request.headers.get("authorization", "").rpartition(" ")[2]
    said = one_line(error.server_message or "", (secret,))
    if status == 403:
        return UsageError(f"the token may not {doing} {name}: give one with that right{f' ({said})' if said else ''}")
    if status in _LATER or status >= 500:
        told = f"could not {doing} {name}: it answered HTTP {status}"
        return HubError(told, retry_after=_retry_after(error.response))
    return UsageError(f"could not {doing} {name}: HTTP {status}{f', {said}' if said else ''}")


def _retry_after(response: httpx2.Response) -> float | None:
    for header, pattern in _WAITS:
        if match := re.search(pattern, response.headers.get(header, "")):
            return float(match[1])
    return None
