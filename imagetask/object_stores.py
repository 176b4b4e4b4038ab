"""Object stores (`s3://…`, `gs://…`, `az://…`): how one is opened, and what it refused, in one sentence.

obstore's own errors repeat the request and the whole answer, in which S3 may repeat a session token: that is not shown.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from imagetask.errors import UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

OBJECT_STORES = ("s3", "gs", "az", "s3a", "abfs", "abfss", "memory")
"""What the URL of an object store begins with."""

_PATIENT: RetryConfig = {
    "max_retries": 1000,
    "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}
"""A store that is away for less than two minutes costs a run time and nothing else. What is wrong (a name, a key) is
answered at once and not tried again."""
_HASTY: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_")
_NO_BUCKET = re.compile(r"<Code>(?:NoSuchBucket|ContainerNotFound)</Code>")
_STATUS = re.compile(r"status code: (\d{3}[ \w]*)")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_HOST = re.compile(r"Error performing \w+ \w+://(?:[^/@\s]*@)?([^/?\s]+)")
_TRIES = re.compile(r", after (\d+) retries")
_REQUEST = re.compile(r"Error performing .*? - ")
_METADATA = re.compile(r"://[^/\s]+/(?:latest/|computeMetadata/|metadata/identity)")
"""Where a machine of a cloud has its credentials; asked where the environment has none."""
_CONNECTIONS = {
    "dns error": "is not known",
    "Connection refused": "refuses connections",
    "kind: Timeout": "does not answer",
    "certificate": "has a certificate that is not trusted",
}
_LONGEST = 200


class StoreObjects:
    """The objects of an object store, by their path in it, with the credentials of the environment.

    It is not asked for anything when it is made. hasty: gives up on a store that does not answer after about ten
    seconds; else after two minutes. A single request has 30 s. Making it raises `UsageError`; each method obstore's
    errors, `FileNotFoundError` where there is no such object.
    """

    def __init__(self, url: str, *, hasty: bool = False) -> None:
        self._store = open_store(url, hasty=hasty)

    def get(self, path: str) -> bytes:
        return bytes(obstore.get(self._store, path).bytes())

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return int(obstore.head(self._store, path)["size"])

    def put(self, path: str, data: bytes) -> None:
        obstore.put(self._store, path, data, use_multipart=False)  # a kill would leave parts that are paid for

    def delete(self, path: str) -> None:
        obstore.delete(self._store, path)


def open_store(url: str, *, hasty: bool = False) -> Any:
    """obstore's own, as `StoreObjects` uses it. Raises `UsageError`."""
    _check_environment()
    options = _client_options() if url.startswith("s3") else None
    try:
        return from_url(url, client_options=options, retry_config=_HASTY if hasty else _PATIENT)
    except (BaseError, ValueError) as error:
        raise UsageError(f"the store {url!r} cannot be opened: {refusal(error)}") from error


def _check_environment() -> None:
    """Raises `UsageError` for values that no header can hold: obstore panics on them."""
    for name, value in os.environ.items():
        if name.startswith(_PREFIXES) and (not value.isprintable() or (name in _KEYS and " " in value)):
            raise UsageError(f"{name} has a space or a line break in it: set it without")


def _client_options() -> ClientConfig | None:
    """An endpoint that is given as `http://…` is meant so, as it is for AWS's own clients. Options that are given here
    put those of the environment out of force: so there are none where they are not needed."""
    name = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if name is None:
        return None
    if not _is_server(os.environ[name]):
        raise UsageError(f"{name} is no URL of a server: expected http://… or https://…")
    plain = os.environ[name].startswith("http://") and "AWS_ALLOW_HTTP" not in os.environ
    return {"allow_http": True} if plain else None


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        return False


def is_without_bucket(error: BaseException) -> bool:
    """Whether what looks like "no such object" is "no such bucket"."""
    return _NO_BUCKET.search(str(error)) is not None


def may_pass(error: BaseException) -> bool:
    """Whether the same request may work later: the store did not answer, or with 408, 429 or 5xx."""
    text = str(error)
    if status := _STATUS.search(text):
        return status[1].startswith(("408", "429", "5"))
    return "HTTP error" in text and not _METADATA.search(text)


def refusal(error: BaseException) -> str:
    """What went wrong, on one line: the status with the store's code, how the connection failed, or obstore's words."""
    text = str(error)
    if _METADATA.search(text):
        return "there are no credentials in the environment, and this machine gives none"
    if is_without_bucket(error):
        return "the bucket does not exist"
    tries = _TRIES.search(text)
    tried = f" (after {tries[1]} retries)" if tries else ""
    if status := _STATUS.search(text):
        code = _CODE.search(text)
        return f"the answer was {status[1].strip()}{f', {code[1]}' if code else ''}{tried}"
    if (host := _HOST.search(text)) and "HTTP error" in text:
        happened = next((said for sign, said in _CONNECTIONS.items() if sign in text), "cannot be reached")
        return f"{host[1]} {happened}{tried}"
    return _own_words(text) or type(error).__name__


def _own_words(text: str) -> str:
    """The first line without the request, its URL and the answer."""
    lines = text.strip().splitlines() or [""]
    return _REQUEST.sub("", lines[0]).partition("<")[0].strip()[:_LONGEST]
