"""A Prefect server for the command line, where the user has none.

It imports while this process looks at the model, starts while this process imports, and ends with it.

Prefect's own embedded server does the same job later and larger: it starts at the first call of a flow, only after
this process has imported the whole server too (84 MB and some seconds, measured with 3.8.8), and stays behind when this
process is killed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from imagetask.errors import ImageTaskError

_START_SECONDS = 120.0
_ANSWER_SECONDS = 30.0
_SERVER = """
import os, sys, threading
ports, told = [], threading.Event()
def follow():
    for line in sys.stdin:
        ports.append(int(line))
        told.set()
    os._exit(0)
threading.Thread(target=follow, daemon=True).start()
import uvicorn, prefect.server.api.server
told.wait()
uvicorn.run("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=ports[0],
            log_level="error", lifespan="on")
"""
"""Imports, then serves at the port that its standard input tells, and ends when that does: when the process that
started it ends, also by kill -9."""


def start_server(say: Callable[[str], None]) -> Callable[[], None]:
    """Starts a Prefect server as `EmbeddedServer.start` does, with nothing prepared."""
    return EmbeddedServer().start(say)


class EmbeddedServer:
    """A Prefect server that is prepared: a process that imports what it takes, and touches no database before `start`.

    Where a server is named already, nothing is prepared.
    """

    def __init__(self) -> None:
        self._process = None if _may_be_named() else _process()

    def start(self, say: Callable[[str], None]) -> Callable[[], None]:
        """Starts the server on loopback for the rest of this process, unless Prefect's settings name one.

        Gives a function that waits until the server answers, so that imports can go on meanwhile. Raises
        `ImageTaskError`.
        """
        from prefect.context import refresh_global_settings_context
        from prefect.settings import get_current_settings

        url = get_current_settings().api.url
        if url:
            self._discard()
            say(f"Using the Prefect server at {url} …")
            if not _answers(url):
                raise ImageTaskError(f"the Prefect server at {url} does not answer: start it, or unset PREFECT_API_URL")
            return lambda: None
        say("Starting Prefect's embedded server, about 10 s …")
        process, port = self._process or _process(), _free_port()
        with suppress(BrokenPipeError):  # it ended already: who waits for it is told
            _tell(process, f"{port}\n")
        for name in ("NO_PROXY", "no_proxy"):  # no proxy stands between this process and itself
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
        url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        refresh_global_settings_context()
        return lambda: _wait(url, process)

    def _discard(self) -> None:
        if self._process is not None:
            with self._process as process:
                process.kill()


def _may_be_named() -> bool:
    """Whether it looks as if there is a server already: seen without Prefect, where it is not imported yet."""
    if "prefect" in sys.modules:
        from prefect.settings import get_current_settings

        return get_current_settings().api.url is not None
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).expanduser()
    try:
        in_profile = b"PREFECT_API_URL" in profiles.read_bytes()
    except OSError:
        in_profile = False
    return in_profile or bool(os.environ.get("PREFECT_API_URL"))


def _process() -> subprocess.Popen[bytes]:
    environment = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        env={"PREFECT_SERVER_ANALYTICS_ENABLED": "false", **os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the flow, which still has to tell the server how it ended
    )


def _tell(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.flush()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        if _answers(url):
            return
        time.sleep(0.1)
    raise ImageTaskError(
        "Prefect's embedded server did not start; start one with `prefect server start`, which tells why, "
        "and name it with PREFECT_API_URL"
    )


def _answers(url: str) -> bool:
    """Whether there is a server, whatever it says: Prefect Cloud wants a key first. A busy one has some time for it."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True
