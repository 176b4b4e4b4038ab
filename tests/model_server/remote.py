"""A model server in a process of its own, for benchmarks and for tests that kill what calls it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2

from tests.model_server.faults import Fault, as_fault
from tests.model_server.ledger import Call, CallReader, Counts

_ROOT = Path(__file__).parents[2]


class RemoteModelServer(CallReader):
    """Reads and sets a model server over HTTP, as `ModelServer` is read and set from Python."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx2.Client(base_url=url, trust_env=False, timeout=30.0)

    def close(self) -> None:
        """Closes the connection that this object asks over; the server goes on."""
        self._client.close()

    @property
    def url(self) -> str:
        return self._url

    @property
    def calls(self) -> list[Call]:
        return [Call(**call) for call in self._get("/_ledger").json()]

    def counts(self) -> Counts:
        return Counts(**self._get("/_counts").json())

    def reset(self) -> None:
        self._client.post("/_reset").raise_for_status()

    def image_bytes(self, sha256: str) -> bytes:
        """The bytes of a picture that was in an answer."""
        return self._get(f"/_image/{sha256}").content

    def behave(self, settings: Mapping[str, Any]) -> None:
        """As `Behaviour.behave`. Raises `httpx2.HTTPStatusError` where the server does not take the settings."""
        self._client.post("/_behaviour", json=dict(settings)).raise_for_status()

    def fail(
        self,
        match: str | None,
        *faults: Fault | str,
        then: Fault | str = "ok",
        forever: bool = False,
        shared: bool = False,
    ) -> None:
        """As `Behaviour.fail`."""
        given = [asdict(as_fault(fault)) for fault in faults]
        rule = {"match": match, "faults": given, "then": asdict(as_fault(then)), "forever": forever, "shared": shared}
        self.behave({"fail": [rule]})

    def _get(self, path: str) -> httpx2.Response:
        return self._client.get(path).raise_for_status()


@contextmanager
def start_model_server(
    *, latency: float = 0.0, image_kib: int | None = None, format: str = "png", answers: str = "auto"
) -> Iterator[RemoteModelServer]:
    """Runs a model server in another process, which ends with the block, or with this process. For the options see
    `ModelServer`."""
    command = [sys.executable, "-m", "tests.model_server", "--while-stdin-is-open"]
    command += ["--latency", str(latency), "--format", format, "--answers", answers]
    command += [] if image_kib is None else ["--image-kib", str(image_kib)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the model server did not start; it ended with {process.wait(10)}")
            server = RemoteModelServer(url)
            try:
                yield server
            finally:
                server.close()
        finally:
            process.kill()
