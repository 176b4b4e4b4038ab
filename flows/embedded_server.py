"""A Prefect server for the command line, where the user has none.

It starts while this process imports, and ends with it.

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

from imagetask.errors import ImageTaskError

_START_SECONDS = 120.0
_SERVER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
import uvicorn
uvicorn.run("prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=int(sys.argv[1]),
            log_level="error", lifespan="on")
"""
"""Ends when its standard input does: when the process that started it ends, also by kill -9."""


def start_server(say: Callable[[str], None]) -> Callable[[], None]:
    """Starts a Prefect server on loopback for the rest of this process, unless the settings name one.

    Gives a function that waits until the server answers, so that imports can go on meanwhile. Raises `ImageTaskError`.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if url:
        say(f"Using the Prefect server at {url} …")
        if not _answers(url):
            raise ImageTaskError(f"the Prefect server at {url} does not answer: start it, or unset PREFECT_API_URL")
        return lambda: None
    say("Starting Prefect's embedded server, about 10 s …")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = _process(port)
    for name in ("NO_PROXY", "no_proxy"):  # no proxy stands between this process and itself
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
    url = os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    refresh_global_settings_context()
    return lambda: _wait(url, process)


def _process(port: int) -> subprocess.Popen[bytes]:
    environment = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(port)],
        env={"PREFECT_SERVER_ANALYTICS_ENABLED": "false", **os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the flow, which still has to tell the server how it ended
    )


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
    """Whether there is a server, whatever it says: Prefect Cloud wants a key first."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return True
