"""Artifacts of a run that are updated in place, by whoever has no time to wait for the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

REFUSALS = (httpx.HTTPError, httpx.InvalidURL, PrefectException, OSError, ValueError)
"""What a server that is gone, slow or overloaded raises, also where something else answers in its place."""

_LONGEST_SLUG = 60


@contextmanager
def impatient_client(seconds: float) -> Iterator[SyncPrefectClient]:
    """A client of this run's server that asks once, and waits so many seconds for an answer. Raises of `REFUSALS`."""
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(httpx_settings={"timeout": seconds}, sync_client=True) as client,
    ):
        yield client


def artifact_key(kind: str, name: str) -> str:
    """KIND-NAME in the letters that Prefect allows: lowercase letters, digits and dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_SLUG].strip("-")
    return f"{kind}-{slug or 'dataset'}"


class RunArtifact:
    """One markdown artifact of a flow run: made at first, then the same one is updated, never a second one.

    An update goes past `update_artifact` of Prefect's client, which would also send the whole text as an event, to be
    kept for a week.
    """

    def __init__(self, run: str, key: str, description: str) -> None:
        self._run = UUID(run)
        self._key = key
        self._description = description
        self._id: UUID | None = None

    def put(self, client: SyncPrefectClient, markdown: str) -> None:
        """Shows `markdown` from now on. Raises of `REFUSALS`."""
        self._id = self._id or self._known(client)
        if self._id is None:
            wanted = ArtifactCreate(
                key=self._key,
                type="markdown",
                description=self._description,
                data=markdown,
                flow_run_id=self._run,
            )
            self._id = client.create_artifact(wanted).id
            return
        client.request("PATCH", "/artifacts/{id}", path_params={"id": self._id}, json={"data": markdown})

    def _known(self, client: SyncPrefectClient) -> UUID | None:
        """The one that an earlier attempt made, whose answer was lost."""
        wanted = ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[self._run]), key=ArtifactFilterKey(any_=[self._key])
        )
        found = client.read_artifacts(artifact_filter=wanted, limit=1)
        return found[0].id if found else None
