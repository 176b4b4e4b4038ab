"""The Prefect server that the settings name, and what it refuses, in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import get_current_settings

from imagetask.errors import ImageTaskError, UsageError
from imagetask.models import split_model
from imagetask.settings import RunSettings


@contextmanager
def prefect_server() -> Iterator[SyncPrefectClient]:
    """A client of the server that PREFECT_API_URL or the active profile names; the embedded one keeps no deployments.

    Within, what the server refuses is a `UsageError`, and that it does not answer an `ImageTaskError`.
    """
    url = get_current_settings().api.url
    if not url:
        raise UsageError(
            "no Prefect server is named: start one with `prefect server start`, and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with server_errors(url), get_client(sync_client=True) as client:
        if isinstance(error := client.api_healthcheck(), httpx.TransportError):
            raise error
        yield client


@contextmanager
def server_errors(url: str) -> Iterator[None]:
    """Turns the errors of Prefect's clients into ours. url: what the message calls the server."""
    try:
        yield
    except ObjectNotFound as error:
        raise UsageError(f"the Prefect server at {url} does not have it: {error}") from error
    except PrefectHTTPStatusError as error:
        raise UsageError(f"the Prefect server refused it: {_said(error.response)}") from error
    except httpx.TransportError as error:
        raise ImageTaskError(
            f"the Prefect server at {url} does not answer: start it, or set PREFECT_API_URL to another"
        ) from error


def check_credentials(settings: RunSettings) -> None:
    """Raises `UsageError` where the server has no block of the name for one of the models; no secret is read."""
    if settings.credentials is None:
        return
    from imagetask.blocks import BLOCKS, check_block

    for backend in dict.fromkeys(split_model(model)[0] for model in settings.model):
        if backend in BLOCKS or len(settings.model) == 1:
            check_block(backend, settings.credentials)


def _said(response: httpx.Response) -> str:
    """What the server gives as the reason, in one line."""
    try:
        detail: Any = response.json()
    except ValueError:
        return f"{response.status_code} {response.reason_phrase}"
    for key in ("detail", "exception_detail"):
        detail = detail.get(key, detail) if isinstance(detail, dict) else detail
    text = detail if isinstance(detail, str) else json.dumps(detail)
    return " ".join(text.removeprefix("Error creating flow run: ").split())
