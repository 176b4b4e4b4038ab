"""What all tests lean on: a real model server on loopback, and one real Prefect server for the whole session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.canary import found, new_key
from tests.machine import KEY, Machine
from tests.model_server import ModelServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "IMAGETASK_STORE", "PREFECT_API_URL"):
    os.environ.pop(name, None)

PROMPTS = Path(__file__).parents[2] / "shared" / "data" / "PartiPrompts.tsv"


class Generate(Protocol):
    """Runs the flow with these parameters; gives its counts."""

    def __call__(self, source: str | Path, out: Path, **parameters: Any) -> dict[str, Any]: ...


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A model server of its own for each test."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server with an empty database, for all tests that run a flow in this process."""
    from prefect.testing.utilities import prefect_test_harness

    os.environ["PREFECT_LOCAL_STORAGE_PATH"] = str(tmp_path_factory.mktemp("prefect-results"))
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def generate(prefect_server: None) -> Generate:
    """The flow `generate_images`, run in this process against the session's Prefect server."""

    def run(source: str | Path, out: Path, **parameters: Any) -> dict[str, Any]:
        from imagetask_flows.generate_images import generate_images

        counts: dict[str, Any] = generate_images(str(source), str(out), **parameters)
        return counts

    return run


@pytest.fixture(scope="session")
def models() -> Iterator[ModelServer]:
    """The model server of `machine`'s block."""
    with ModelServer(size=(512, 512)) as server:
        server.require_key = KEY
        yield server


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory, models: ModelServer) -> Iterator[Machine]:
    """A machine with a Prefect server, a worker, the deployments and the block `openai`, for the whole session.

    Its worker takes scheduled runs 1 s ahead.
    """
    root = tmp_path_factory.mktemp("machine")
    with Machine(root, settings={"PREFECT_WORKER_PREFETCH_SECONDS": "1"}).running(models.url) as machine:
        yield machine


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the machine's own, else the one that `playwright install chromium` got."""
    in_browser = pytest.importorskip("playwright.sync_api")
    own = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with in_browser.sync_playwright() as playwright:
        if own is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium here: make browser")
        browser = playwright.chromium.launch(executable_path=own, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def parti_prompts() -> Path:
    """1,632 real prompts; they are not part of the project."""
    if not PROMPTS.is_file():
        pytest.skip(f"{PROMPTS.name} is not here")
    return PROMPTS


def prefect_folders() -> list[Path]:
    """Where the session's Prefect server keeps things: its database, stored results."""
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url
    assert url is not None
    database = Path(url.get_secret_value().partition(":///")[2])
    assert database.stat().st_size > 100_000
    return [database.parent, Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"])]


@pytest.fixture
def canary(prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A key in the environment, of both backends. After the test it is in none of its files, nor in the server's."""
    key = new_key()
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("HF_TOKEN", key)
    yield key
    assert found(key, tmp_path, *prefect_folders()) == []


@pytest.fixture
def server_url(prefect_server: None) -> dict[str, str]:
    """The environment in which a command uses the session's Prefect server."""
    from prefect.settings import get_current_settings

    return {"PREFECT_API_URL": str(get_current_settings().api.url)}
