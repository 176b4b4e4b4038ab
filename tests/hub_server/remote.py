"""A Hub in a process of its own, for benchmarks that measure what a client takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def client_environment(url: str, home: Path, token: str | None = None) -> dict[str, str]:
    """The environment variables of a client of a Hub, whose cache is `home`; they are read when it is imported."""
    variables = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    return variables if token is None else {**variables, "HF_TOKEN": token}


@contextmanager
def start_hub_server(folder: Path, *users: str) -> Iterator[str]:
    """Runs a Hub in another process, which ends with the block, or with this process; gives its URL.

    users: `NAME:TOKEN`, who may write.
    """
    command = [sys.executable, "-m", "tests.hub_server", str(folder), "--while-stdin-is-open"]
    command += [f"--user={user}" for user in users]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the Hub did not start; it ended with {process.wait(10)}")
            yield url
        finally:
            process.kill()
