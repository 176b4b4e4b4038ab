"""A machine on which nothing was done yet, with a Prefect server of its own; and the code of deployments/README.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import polars as pl
import pytest

DEPLOYMENTS = Path(__file__).parents[1] / "deployments"
PATIENCE = 240
"""Seconds. Prefect's server stands still for a minute or two where two transactions of its own wait for SQLite's lock
(PrefectHQ/prefect#23051; seen with 3.8.8); then all goes on, and nothing is lost."""
KEY = "canary/of-the-block+4711"
"""Of the block; like no provider's, so that no pattern knows it, with letters that URLs and base64 write otherwise."""
PRICED, USD = "painter", 0.04
"""A model that has a price in the block."""
PROMPTS = [f"a {colour} teapot on a shelf" for colour in ("red", "green", "blue", "white", "black")]

_SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_BLOCK_OF_CODE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

T = TypeVar("T")


def readme(section: str, language: str = "sh") -> list[str]:
    """The blocks of code of a section of deployments/README.md in this language, in their order."""
    [text] = [text for title, text in _SECTION.findall((DEPLOYMENTS / "README.md").read_text()) if title == section]
    return [code for name, code in _BLOCK_OF_CODE.findall(text) if name == language]


SETTINGS, SERVER, SET_UP, WORKER, TRIGGER = readme("Start everything from nothing")


class Machine:
    """An empty home, a checkout, a port for the server.

    checkout: what the README calls the repository's root; elsewhere: some other folder.
    settings: Prefect's, beside those that the README sets.
    """

    def __init__(self, root: Path, settings: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.home, self.checkout, self.elsewhere = root / "home", root / "checkout", root / "elsewhere"
        shutil.copytree(DEPLOYMENTS, self.checkout / "deployments", ignore=shutil.ignore_patterns("__pycache__"))
        (self.checkout / "examples").mkdir()
        pl.DataFrame({"prompt": PROMPTS}).write_csv(self.checkout / "examples" / "prompts.csv")
        (self.elsewhere / "flows").mkdir(parents=True)
        (self.elsewhere / "flows" / "__init__.py").write_text("raise RuntimeError('a flows folder of the user')\n")
        self.home.mkdir()
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": ".",
            "COLUMNS": "200",
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            **(settings or {}),
        }

    def told(self, code: str) -> str:
        """Commands of the README as a person with another port would type them."""
        return code.replace("4200", str(self.port))

    def do(self, *code: str, code_expected: int = 0, **variables: str) -> str:
        """Runs commands in the checkout, one after the other up to the first that fails; gives what they print."""
        done = subprocess.run(
            ["bash", "-euc", self.told("\n".join((SETTINGS, *code)))],
            cwd=self.checkout,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code_expected, f"{done.stdout}\n{self.log('server')}\n{self.log('worker')}"
        return done.stdout

    def do_python(self, program: str) -> str:
        """Runs a Python program in the checkout; gives what it prints."""
        return self.do('python -c "$PROGRAM"', PROGRAM=program)

    @contextmanager
    def started(
        self, name: str, code: str, may_end: bool = False, **variables: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Keeps commands running elsewhere, as in a terminal of their own; then ends them with all they started.

        may_end: they are allowed to end before.
        """
        with (self.root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-euc", self.told(f"{SETTINGS}\n{code}")],
                cwd=self.elsewhere,
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
                assert may_end or process.poll() is None, f"{name} ended\n{self.log(name)}"
            finally:
                _end_group(process)

    @contextmanager
    def deployed(self, model_url: str) -> Iterator[Machine]:
        """The machine with server, deployments, and the block `openai` for the model server at this URL; no worker."""
        with self.started("server", SERVER):
            self.wait_for_server()
            self.do(f"{SET_UP.rstrip()} --base-url {model_url}/v1 --price {PRICED}={USD}", OPENAI_API_KEY=KEY)
            yield self

    @contextmanager
    def running(self, model_url: str) -> Iterator[Machine]:
        """The same with a worker."""
        with self.deployed(model_url), self.started("worker", WORKER):
            yield self

    def log(self, name: str) -> str:
        file = self.root / f"{name}.log"
        return f"--- {name}:\n{file.read_text()[-4000:]}" if file.exists() else ""

    def wait_for_server(self) -> None:
        self.wait_until(self._answers, "the server did not start", seconds=60)

    def _answers(self) -> bool:
        with suppress(OSError), urlopen(f"{self.url}/health", timeout=5):
            return True
        return False

    def ask(self, path: str, body: Any = None) -> Any:
        """What the server answers: its JSON. body: to POST, as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", data, {"content-type": "application/json"})
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with urlopen(request, timeout=PATIENCE) as response:
                    return json.load(response)
            except HTTPError as error:
                if error.code != 503 or time.monotonic() > until:  # its database was busy
                    raise
                time.sleep(0.2)

    def runs(self, deployment: str | None = None) -> list[dict[str, Any]]:
        """The flow runs that the server knows, the first first."""
        only = {} if deployment is None else {"deployments": {"name": {"any_": [deployment]}}}
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", {**only, "sort": "EXPECTED_START_TIME_ASC"})
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name that the server has kept."""
        found: list[dict[str, Any]] = self.ask("events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        return found

    def wait_until(self, what: Callable[[], T], failure: str, seconds: float = PATIENCE) -> T:
        """What a function gives, as soon as that is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := what():
                return found
            time.sleep(0.2)
        pytest.fail(f"{failure}\n{self.log('server')}\n{self.log('worker')}\n{self.log('serve')}")

    def ended(self, run: str) -> str:
        """The name of the state in which a run ended."""

        def state() -> str:
            told = self.ask(f"flow_runs/{run}")["state"]
            return str(told["name"]) if told["type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED") else ""

        return self.wait_until(state, f"the run {run} did not end")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Asks the process and all of its group to end; after 15 s ends them."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
