"""`imagetask blocks create`: blocks made in a terminal, whose secret is seen by nobody, and what is refused."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from imagetask_flows.cli import app

from imagetask import ImageDataset
from imagetask.blocks import OpenAIImageCredentials, load_block
from imagetask.errors import UsageError
from tests.canary import found, new_key
from tests.command_line import DONE, STOPPED, WRONG_USAGE, Ended, command, environment, imagetask
from tests.model_server import ModelServer
from tests.test_secrets import NOISE

ON_TERMINAL = 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1'
PROMPT = b"not shown): "


def on_terminal(
    *words: str,
    typed: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Ended:
    """Runs `imagetask WORDS` on a terminal of its own, and types one line where a key is asked for.

    meanwhile: is called when the key is asked for, before it is typed.
    What is typed must be in the command line of no process while it runs.
    """
    mine, its = os.openpty()
    process = subprocess.Popen(
        ["sh", "-c", ON_TERMINAL, "sh", os.ttyname(its), *command(*words)],
        cwd=cwd,
        env=environment(cwd, **(env or {})),
        start_new_session=True,
    )
    text, asked, until = b"", False, time.monotonic() + 90
    while time.monotonic() < until:
        if select.select([mine], [], [], 0.05)[0]:
            text += os.read(mine, 65536)
        elif process.poll() is not None:
            break
        if not asked and PROMPT in text:
            meanwhile()
            os.write(mine, typed.encode() + b"\n")
            asked = True
        if asked and typed:
            assert typed not in command_lines()
    process.kill()
    for end in (mine, its):
        os.close(end)
    return Ended(process.wait(), text.decode())


def command_lines() -> str:
    """The words of every process of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    return "\n".join(lines)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "rows.csv").write_text("prompt\na red bicycle\na blue boat\n")
    return folder


@pytest.mark.prefect_server
def test_a_key_typed_at_the_prompt_is_seen_nowhere_and_found_by_the_next_command(
    work: Path, model_server: ModelServer
) -> None:
    """Each command has its own embedded server; what they share is the database in PREFECT_HOME."""
    key, home = new_key(), work.with_name("work-prefect")
    model_server.require_key = key
    create = ["blocks", "create", "openai", "mine", "--base-url", model_server.openai_url, "--model", "some-model"]
    env = {name: value for name, value in NOISE.items() if name != "PYTHONPATH"}
    made = on_terminal(*create, typed=key, cwd=work, env=env)
    assert made.code == DONE, made.text
    assert "imagetask generate SOURCE --out DIR --model openai --credentials mine" in made.text
    assert "model=openai and credentials=mine" in made.text

    run = imagetask("generate", "rows.csv", "--out", "out", "--model", "openai", "--credentials", "mine", cwd=work)
    assert run.code == DONE, run.text
    assert [call.model for call in model_server.calls] == ["some-model"] * 2
    assert len(ImageDataset(work / "out").failures().rows()) == 0
    assert found("openai-image-credentials", home), "the database was searched"
    assert found(key, home, work, made.text, run.text) == []


@pytest.mark.prefect_server
@pytest.mark.parametrize(("backend", "variable"), [("openai", "OPENAI_API_KEY"), ("inference-endpoints", "HF_TOKEN")])
def test_a_key_in_the_environment_is_taken_without_asking(
    backend: str, variable: str, work: Path, server_url: dict[str, str]
) -> None:
    key = new_key()
    words = ["blocks", "create", backend, f"from-{backend}", "--max-concurrency", "3", "--requests-per-minute", "90"]
    prices = ["--price", "some/model=0.04", "--price", "some/model 1024x1536=0.06"]
    prices += ["--price", "some/model input tokens=5", "--price", "some/model output tokens=40"]
    made = on_terminal(*words, *prices, typed="", cwd=work, env={**server_url, variable: key})
    assert made.code == DONE, made.text
    assert f"The key is the one in {variable}." in made.text
    assert PROMPT.decode() not in made.text
    assert key not in made.text
    block = load_block(backend, f"from-{backend}")
    assert block.api_key is not None
    assert block.api_key.get_secret_value() == key
    assert (block.max_concurrency, block.requests_per_minute) == (3, 90)
    by_tokens = {"some/model input tokens": 5.0, "some/model output tokens": 40.0}
    assert block.prices == {"some/model": 0.04, "some/model 1024x1536": 0.06, **by_tokens}


@pytest.mark.prefect_server
def test_a_block_of_that_name_is_replaced_only_when_asked_and_then_as_a_whole(
    work: Path, server_url: dict[str, str]
) -> None:
    env = {**server_url, "OPENAI_API_KEY": "sk-first-1"}
    create = ["blocks", "create", "openai", "twice"]
    first = imagetask(*create, "--model", "m", "--price", "m=1", "--max-concurrency", "2", cwd=work, env=env)
    assert first.code == DONE, first.text
    env["OPENAI_API_KEY"] = "sk-second-2"
    again = imagetask(*create, "--price", "n=2", cwd=work, env=env)
    assert again.code == WRONG_USAGE, again.text
    assert "there is a block openai-image-credentials/twice already" in again.text
    assert "--overwrite" in again.text
    kept = load_block("openai", "twice")
    assert (kept.model, kept.prices) == ("m", {"m": 1.0})

    replaced = imagetask(*create, "--price", "n=2", "--overwrite", cwd=work, env=env)
    assert replaced.code == DONE, replaced.text
    block = load_block("openai", "twice")
    assert block.api_key is not None
    assert block.api_key.get_secret_value() == "sk-second-2"
    assert (block.model, block.prices, block.max_concurrency) == (None, {"n": 2.0}, None)
    cleared = imagetask(*create, "--overwrite", cwd=work, env=env)
    assert cleared.code == DONE, cleared.text
    assert load_block("openai", "twice").prices == {}


@pytest.mark.prefect_server
def test_a_block_that_appeared_while_the_key_was_typed_is_not_replaced(work: Path, server_url: dict[str, str]) -> None:
    def save() -> None:
        OpenAIImageCredentials(model="of another person").save("meanwhile")

    create = ("blocks", "create", "openai", "meanwhile")
    refused = on_terminal(*create, typed=new_key(), cwd=work, env=server_url, meanwhile=save)
    assert refused.code == WRONG_USAGE, refused.text
    assert "there is a block openai-image-credentials/meanwhile already" in refused.text
    assert "Traceback" not in refused.text
    kept = load_block("openai", "meanwhile")
    assert (kept.model, kept.api_key) == ("of another person", None)


@pytest.mark.prefect_server
def test_ctrl_c_at_the_prompt_saves_nothing_and_says_so(work: Path, server_url: dict[str, str]) -> None:
    ended = on_terminal("blocks", "create", "openai", "interrupted", typed="\x03", cwd=work, env=server_url)
    assert ended.code == STOPPED, ended.text
    assert "Interrupted. Nothing is saved." in ended.text
    assert "goes on" not in ended.text
    assert "Traceback" not in ended.text
    with pytest.raises(UsageError, match="there is no block"):
        load_block("openai", "interrupted")


@pytest.mark.prefect_server
@pytest.mark.parametrize("typed", ["", "pasted with spaces", "schlüssel"])
def test_what_is_no_key_is_refused_at_the_prompt(typed: str, work: Path, server_url: dict[str, str]) -> None:
    refused = on_terminal("blocks", "create", "openai", "none", typed=typed, cwd=work, env=server_url)
    assert refused.code == WRONG_USAGE, refused.text
    assert ("characters that no key has: see to what was typed" if typed else "nothing is saved") in refused.text
    assert not typed or typed not in refused.text
    with pytest.raises(UsageError, match="there is no block"):
        load_block("openai", "none")


@pytest.mark.prefect_server
def test_a_server_of_ones_own_may_have_no_key(work: Path, server_url: dict[str, str]) -> None:
    create = ["blocks", "create", "openai"]
    url = ["--base-url", "http://127.0.0.1:9/v1"]
    on_one = on_terminal(*create, "keyless-typed", *url, typed="", cwd=work, env=server_url)
    on_none = imagetask(*create, "keyless-piped", *url, cwd=work, env=server_url)
    for name, ended in (("keyless-typed", on_one), ("keyless-piped", on_none)):
        assert ended.code == DONE, ended.text
        assert "Without a key, for a server of your own; OPENAI_API_KEY is not set." in ended.text
        assert load_block("openai", name).api_key is None


def test_without_a_terminal_and_a_variable_it_says_where_a_key_comes_from(work: Path) -> None:
    refused = imagetask("blocks", "create", "openai", "mine", cwd=work)
    assert refused.code == WRONG_USAGE
    assert "set OPENAI_API_KEY for this command, or run it on a terminal" in refused.text
    assert "Prefect's embedded server" not in refused.text


@pytest.mark.parametrize(
    "words",
    [
        ["openai", "mine", "--api-key", "sk-Secret1"],
        ["openai", "mine", "--api-key=sk-Secret1"],
        ["--token", "sk-Secret1", "openai", "mine"],
        ["openai", "mine", "sk-Secret1"],
    ],
)
def test_a_key_as_an_argument_is_refused_and_not_repeated(words: list[str], work: Path) -> None:
    refused = imagetask("blocks", "create", *words, cwd=work, env={"OPENAI_API_KEY": "sk-other"})
    assert refused.code == WRONG_USAGE
    assert "a key is never given as an argument" in refused.text
    assert "OPENAI_API_KEY or HF_TOKEN" in refused.text
    assert "Secret1" not in refused.text
    assert "Traceback" not in refused.text


REFUSED = {
    "an unknown backend": (["dalle", "mine"], "unknown backend 'dalle'"),
    "a backend without credentials": (["placeholder", "mine"], "'placeholder' takes no credentials"),
    "a name that Prefect does not take": (["openai", "sk_Secret1"], "lowercase letters, digits and dashes"),
    "an option of another backend": (["openai", "mine", "--provider", "fal-ai"], "--provider: this backend's block"),
    "another one": (["openai", "mine", "--bill-to", "them"], "--bill-to: this backend's block"),
    "an unknown provider": (["inference-endpoints", "mine", "--provider", "nobody"], "--provider: no text-to-image"),
    "no call at once": (["openai", "mine", "--max-concurrency", "0"], "--max-concurrency: must be greater than"),
    "no call a minute": (["openai", "mine", "--requests-per-minute", "0"], "--requests-per-minute: must be"),
    "a price without a model": (["openai", "mine", "--price", "0.04"], "--price: '' is not of the form"),
    "a price that is none": (["openai", "mine", "--price", "m=cheap"], "--price m=cheap: expected MODEL=USD"),
    "a price below nothing": (["openai", "mine", "--price", "m=-1"], "--price: must be greater than or equal to 0"),
    "a price for a quality": (["openai", "mine", "--price", "m high=1"], "--price: 'm high' is not of the form"),
    "a key in the URL": (["openai", "mine", "--base-url", "http://u:Secret1@h/v1"], "--base-url: must not hold a user"),
    "a query": (["openai", "mine", "--base-url", "http://h/v1?k=Secret1"], "--base-url: must not hold a query"),
    "a URL that is none": (["openai", "mine", "--base-url", "localhost"], "--base-url: must start with http"),
}


@pytest.mark.parametrize(("words", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_a_server_is_started_or_a_key_asked_for(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-in-the-environment")
    with pytest.raises(UsageError) as caught:
        app(["blocks", "create", *words])
    assert says in str(caught.value)
    assert "Secret1" not in str(caught.value)
    assert "Prefect" not in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_told(work: Path) -> None:
    env = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "OPENAI_API_KEY": "sk-1"}
    ended = imagetask("blocks", "create", "openai", "mine", cwd=work, env=env)
    assert ended.code == STOPPED
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in ended.text


class Closed(BaseHTTPRequestHandler):
    """Refuses everything, as a Prefect server with authentication does, and repeats what was sent."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"Unauthorized: " + body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def test_a_server_that_wants_a_login_is_told(work: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api", "OPENAI_API_KEY": "sk-Secret1"}
        for overwrite in ([], ["--overwrite"]):
            ended = imagetask("blocks", "create", "openai", "mine", *overwrite, cwd=work, env=env)
            assert ended.code == STOPPED, ended.text
            assert "the Prefect server answered HTTP 401" in ended.text
            assert "PREFECT_API_AUTH_STRING" in ended.text
            assert "Traceback" not in ended.text
            assert "Secret1" not in ended.text
        server.shutdown()
