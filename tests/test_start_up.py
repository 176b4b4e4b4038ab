"""What a command imports before it needs it, and the Prefect server that is prepared meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from imagetask_flows.embedded_server import EmbeddedServer

from tests.command_line import DONE, WRONG_USAGE, environment

HEAVY = {"prefect", "polars", "pyarrow", "numpy", "PIL", "obstore", "httpx2", "huggingface_hub", "openai", "datasets"}

COMMAND = """
import json, sys
from imagetask_flows.cli import main
try:
    main()
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_after(*words: str, folder: Path, code: int) -> set[str]:
    """The top-level packages that a command of these words has imported when it ends."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    loaded: list[str] = json.loads(ended.stdout.splitlines()[-1])
    assert "imagetask_flows.cli" in loaded
    return {name.split(".")[0] for name in loaded}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    (work / "good.csv").write_text("prompt\na red bicycle\n")
    (work / "columns.csv").write_text("text\na red bicycle\n")
    return work


@pytest.mark.parametrize("words", ["--help", "generate --help", "retry --help", "--version"])
def test_help_imports_neither_prefect_nor_what_reads_tables_and_images(words: str, folder: Path) -> None:
    assert modules_after(*words.split(), folder=folder, code=DONE) & HEAVY == set()


@pytest.mark.parametrize(
    "words",
    ["generate good.csv --out out --colour red", "generate good.csv --out out --chunk-rows x", "generate --out out"],
)
def test_wrong_words_are_told_without_the_libraries(words: str, folder: Path) -> None:
    assert modules_after(*words.split(), folder=folder, code=WRONG_USAGE) & HEAVY == set()


@pytest.mark.parametrize(
    "words",
    ["generate nowhere.csv --out out", "generate columns.csv --out out", "retry nowhere", "status nowhere"],
)
def test_a_wrong_table_or_folder_is_told_without_prefect(words: str, folder: Path) -> None:
    assert "prefect" not in modules_after(*words.split(), folder=folder, code=WRONG_USAGE)
    assert not folder.with_name("work-prefect").exists(), "nor was a server prepared"


def test_the_public_package_imports_what_is_asked_of_it(tmp_path: Path) -> None:
    script = "import json, sys, imagetask; first = set(sys.modules); imagetask.load_model; imagetask.ImageDataset\n"
    script += "print(json.dumps([sorted(first), sorted(sys.modules)]))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    before, after = ({name.split(".")[0] for name in names} for names in json.loads(told.stdout))
    assert before & (HEAVY | {"pydantic"}) == set()
    assert "polars" in after
    assert "prefect" not in after


PREPARED = """
import sys
from imagetask_flows.embedded_server import EmbeddedServer
server = EmbeddedServer()
print(server._process.pid, flush=True)
sys.stdin.read()
"""


def until(seen: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until it is so."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.05)


def runs(process: int) -> bool:
    """Whether a process is there, and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="looks into /proc")
def test_a_server_that_is_prepared_touches_no_database_and_ends_with_its_command(tmp_path: Path) -> None:
    home = tmp_path / "work-prefect"
    command = subprocess.Popen(
        [sys.executable, "-c", PREPARED],
        env=environment(tmp_path / "work"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert command.stdout is not None
    try:
        prepared = int(command.stdout.readline())
        until(lambda: "_sqlite3" in Path(f"/proc/{prepared}/maps").read_text())  # it has imported so much
    finally:
        command.kill()
        command.communicate(timeout=30)
    until(lambda: not runs(prepared))
    assert list(home.glob("**/*.db*")) == []


def test_no_server_is_prepared_where_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert EmbeddedServer()._process is None
    monkeypatch.delenv("PREFECT_API_URL")
    (tmp_path / "profiles.toml").write_text(
        'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9"\n'
    )
    assert EmbeddedServer()._process is None
