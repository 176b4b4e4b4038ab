"""From nothing to a dataset through a server, a block and a worker, by the commands of deployments/README.md."""

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import polars as pl
import pytest

from imagetask import ImageDataset
from tests.model_server import ModelServer

DEPLOYMENTS = Path(__file__).parents[1] / "deployments"
KEY = "sk-of-the-block-4711"
PROMPTS = [f"a {colour} teapot on a shelf" for colour in ("red", "green", "blue", "white", "black")]

_BLOCK_OF_CODE = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Machine:
    """A machine on which nothing was done yet: an empty home, a checkout, a port for the server.

    checkout: what the README calls the repository's root; elsewhere: some other folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home, self.checkout, self.elsewhere = root / "home", root / "checkout", root / "elsewhere"
        shutil.copytree(DEPLOYMENTS, self.checkout / "deployments")
        (self.checkout / "examples").mkdir()
        pl.DataFrame({"prompt": PROMPTS}).write_csv(self.checkout / "examples" / "prompts.csv")
        (self.elsewhere / "flows").mkdir(parents=True)
        (self.elsewhere / "flows" / "__init__.py").write_text("raise RuntimeError('a flows folder of the user')\n")
        self.home.mkdir()
        self.port = _free_port()
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": ".",
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
        }

    def told(self, code: str) -> str:
        """Commands of the README as a person with another port would type them."""
        return code.replace("4200", str(self.port))

    def do(self, *code: str, **variables: str) -> str:
        """Runs commands in the checkout, one after the other up to the first that fails; gives what they print."""
        done = subprocess.run(
            ["bash", "-euc", self.told("\n".join(code))],
            cwd=self.checkout,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{done.stdout}\n{self.log('server')}\n{self.log('worker')}"
        return done.stdout

    @contextmanager
    def started(self, name: str, cwd: Path, *code: str) -> Iterator[None]:
        """Keeps commands running, as in a terminal of their own; then ends them with all that they started."""
        with (self.root / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-euc", self.told("\n".join(code))],
                cwd=cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield
                assert process.poll() is None, f"{name} ended\n{self.log(name)}"
            finally:
                _end_group(process)

    def log(self, name: str) -> str:
        file = self.root / f"{name}.log"
        return f"--- {name}:\n{file.read_text()[-4000:]}" if file.exists() else ""

    def wait_for_server(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=5):
                return
            time.sleep(0.2)
        pytest.fail(f"the server did not start\n{self.log('server')}")


@pytest.mark.prefect_server
def test_the_readme_leads_from_nothing_to_a_dataset_through_a_worker(tmp_path: Path, model_server: ModelServer) -> None:
    machine = Machine(tmp_path)
    model_server.require_key = KEY
    settings, server, set_up, worker, run_by_command = _commands("sh")
    [run_from_python] = _commands("python")
    out = machine.checkout / "out" / "on-demand"

    with machine.started("server", machine.elsewhere, settings, server):
        machine.wait_for_server()
        said = machine.do(settings, set_up, OPENAI_API_KEY=KEY, OPENAI_BASE_URL=f"{model_server.url}/v1")
        assert "OpenAI Image Credentials" in said
        assert "backendblock" not in said.replace(" ", "").lower(), "what blocks share is no block"
        told = json.loads(machine.do(settings, "prefect deployment inspect generate-images/on-demand --output json"))
        assert (told["pull_steps"], told["path"]) == ([], None), "it goes to a folder of the machine that deployed it"
        with machine.started("worker", machine.elsewhere, settings, worker):
            said = machine.do(settings, 'python -c "$PROGRAM"', PROGRAM=run_from_python)
            assert "Completed" in said, f"{said}\n{machine.log('worker')}"
            dataset = ImageDataset(out)
            assert dataset.scan().select("prompt").collect()["prompt"].to_list() == PROMPTS
            pictures = [dataset.image(row) for row in range(len(PROMPTS))]
            sent = {call.prompt: call.sha256 for call in model_server.calls}
            assert [picture and picture.sha256 for picture in pictures] == [sent[prompt] for prompt in PROMPTS]
            assert {call.authorization for call in model_server.calls} == {f"Bearer {KEY}"}

            said = machine.do(settings, run_by_command)
            assert "Completed" in said
            assert len(model_server.calls) == len(PROMPTS), "the second run asked again"

    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def _commands(language: str) -> list[str]:
    """The blocks of code of the README in this language, in their order."""
    found = _BLOCK_OF_CODE.findall((DEPLOYMENTS / "README.md").read_text())
    return [code for name, code in found if name == language]


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
