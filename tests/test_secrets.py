"""No secret is left anywhere: in the output folder, Prefect's database and home, the terminal, an exception."""

from __future__ import annotations

import base64
import json
import os
import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from pydantic import SecretStr

from imagetask import RunStopped
from imagetask.blocks import OpenAIImageCredentials
from tests.command_line import DONE, SOME_FAILED, STOPPED, Ended, imagetask
from tests.conftest import Generate
from tests.machine import KEY, Machine
from tests.model_server import SIGNATURE, Fault, ModelServer

LOGGERS = ("imagetask", "imagetask_flows", "openai", "huggingface_hub", "httpx2")

NOISE = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(LOGGERS),
    "PREFECT_DEBUG_MODE": "true",
    "OPENAI_LOG": "debug",
    "PYTHONPATH": "noise",
}
"""Everything is logged that can be, to the terminal and to the database."""

LOUD = f"""
import logging

for name in {LOGGERS}:
    logging.getLogger(name).setLevel(logging.DEBUG)
"""
"""Python runs it at its start: Prefect shows what these loggers let through, but leaves their levels to the user."""


def new_key() -> str:
    """A key like no provider's, so that no pattern knows it; with letters that URLs and base64 write otherwise."""
    return f"canary/{secrets.token_hex(12)}+{secrets.token_hex(4)}"


def forms(secret: str) -> Iterator[bytes]:
    """What a secret may look like in a file: plain, in a URL, in base64 at any offset, alone or after "Bearer "."""
    yield secret.encode()
    yield quote(secret, safe="").encode()
    for before in range(3):
        text = base64.b64encode(b"x" * before + secret.encode())
        yield text[4 if before else 0 : -4]


def texts_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file, as it is; and the columns of text of Parquet files, which are compressed there."""
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        yield path, path.read_bytes()
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
            yield path, frame.drop("image", strict=False).write_ndjson().encode()


def found(secret: str, *folders: Path) -> list[str]:
    """The files in which a secret is, in any form."""
    return [
        str(path) for folder in folders for path, text in texts_below(folder) if any(f in text for f in forms(secret))
    ]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "noise").mkdir(parents=True)
    (folder / "noise" / "sitecustomize.py").write_text(LOUD)
    (folder / "rows.csv").write_text("prompt\na red bicycle\na blue boat\na green train\n")
    return folder


@pytest.fixture
def prefect_folders(server_url: dict[str, str], work: Path) -> list[Path]:
    """Where Prefect keeps things: the server's database, stored results, and the home of the commands."""
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url
    assert url is not None
    database = Path(url.get_secret_value().partition(":///")[2])
    assert database.stat().st_size > 100_000
    home = work.with_name(f"{work.name}-prefect")
    return [database.parent, Path(os.environ["PREFECT_LOCAL_STORAGE_PATH"]), home]


def assert_nowhere(secret: str, ended: Ended, work: Path, prefect_folders: list[Path]) -> None:
    assert found(secret, work, *prefect_folders) == []
    assert not any(form in ended.text.encode() for form in forms(secret)), ended.text


@pytest.mark.parametrize("secret", [new_key(), SIGNATURE])
def test_the_search_finds_what_is_there(secret: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"\x00" + secret.encode())
    (tmp_path / "url").write_text(f"?key={quote(secret, safe='')}&more")
    for before in ("Bearer ", "Basic me:", "a:"):
        (tmp_path / f"base64 {len(before)}").write_bytes(base64.b64encode(f"{before}{secret}:end".encode()))
    pl.DataFrame({"error_message": [f"no {secret}"]}).write_parquet(tmp_path / "part.parquet", compression="zstd")
    assert {Path(name).name for name in found(secret, tmp_path)} == {path.name for path in tmp_path.iterdir()}


def test_an_openai_key_and_signed_urls_are_left_nowhere(
    work: Path, model_server: ModelServer, server_url: dict[str, str], prefect_folders: list[Path]
) -> None:
    """Images behind signed URLs, one of which is gone; then answers that repeat the key: of one row, then of all."""
    key = new_key()
    env = {**server_url, **NOISE, "OPENAI_API_KEY": key}
    model_server.answers = "url"
    model_server.fail("boat", Fault("result_gone", times=1))
    model_server.fail("train", Fault("invalid_prompt", message=f"the key {key} may not ask for trains"))
    run = ["generate", "rows.csv", "--out", "out", "--model", "openai:m", "--base-url", model_server.openai_url]
    ended = imagetask(*run, cwd=work, env=env)
    assert ended.code == SOME_FAILED, ended.text
    assert {call.authorization for call in model_server.calls} == {f"Bearer {key}"}
    told = pl.read_parquet(work / "out" / "data" / "*.parquet")["error_message"].to_list()
    assert "may not ask for trains" in told[2]
    assert "/results/000001.png" in ended.text, "the requests are in the log"
    assert "a row failed after" in ended.text
    assert found("rows 0 to 3: 2 images", *prefect_folders), "the log is in the database"
    for secret in (key, SIGNATURE):
        assert_nowhere(secret, ended, work, prefect_folders)

    model_server.recover()
    model_server.require_key = "another"
    stopped = imagetask(*run, "--seed", "1", cwd=work, env=env)
    assert stopped.code == STOPPED, stopped.text
    assert "Incorrect API key provided" in stopped.text
    assert_nowhere(key, stopped, work, prefect_folders)


def test_a_hugging_face_token_is_left_nowhere(
    work: Path, model_server: ModelServer, server_url: dict[str, str], prefect_folders: list[Path]
) -> None:
    token = new_key()
    env = {**server_url, **NOISE, "HF_TOKEN": token}
    model_server.fail("train", "unauthorized")
    run = ["generate", "rows.csv", "--out", "out", "--max-concurrency", "1", "--model", "inference-endpoints:m"]
    ended = imagetask(*run, "--base-url", model_server.model_url("m"), cwd=work, env=env)
    assert ended.code == STOPPED, ended.text
    assert {call.authorization for call in model_server.calls} == {f"Bearer {token}"}
    assert "Invalid credentials" in ended.text
    assert_nowhere(token, ended, work, prefect_folders)


def test_a_key_in_a_block_is_left_nowhere(
    work: Path, model_server: ModelServer, server_url: dict[str, str], prefect_folders: list[Path]
) -> None:
    key = new_key()
    block = OpenAIImageCredentials(api_key=SecretStr(key), base_url=model_server.openai_url)
    block.save("for-the-secrets-test")
    assert key not in repr(block)
    run = ["generate", "rows.csv", "--out", "out", "--model", "openai:m", "--credentials", "for-the-secrets-test"]
    ended = imagetask(*run, cwd=work, env={**server_url, **NOISE})
    assert ended.code == DONE, ended.text
    assert {call.authorization for call in model_server.calls} == {f"Bearer {key}"}
    assert_nowhere(key, ended, work, prefect_folders)


@pytest.mark.prefect_server
def test_a_workers_key_is_left_nowhere_but_in_the_encrypted_block(
    work: Path, machine: Machine, models: ModelServer
) -> None:
    """Answers repeat the key: of one row, then of all. Then the machine's files are searched, and what it answers."""
    models.fail("boat", Fault("invalid_prompt", message=f"the key {KEY} may not ask for boats"))
    deployment = machine.ask("deployments/name/generate-images/on-demand")["id"]
    parameters = {
        "source": str(work / "rows.csv"),
        "out": str(work / "out"),
        "model": "openai:m",
        "credentials": "openai",
    }

    def ended(**more: Any) -> str:
        wanted = {"parameters": {**parameters, **more}}
        return machine.ended(str(machine.ask(f"deployments/{deployment}/create_flow_run", wanted)["id"]))

    assert ended() == "Completed with failures"
    models.fail("train", Fault("unauthorized", message=f"the key {KEY} is not known"))
    assert ended(seed=1) == "Stopped: auth"
    models.recover()
    told = pl.read_parquet(work / "out" / "data" / "*.parquet")["error_message"].to_list()
    assert "may not ask for boats" in told[1]

    assert found("may not ask for boats", machine.root), "artifacts and logs are in the database"
    assert found(KEY, machine.root, work) == []
    answers = [
        machine.ask(f"{what}/filter", {"sort": "TIMESTAMP_DESC"} if what == "logs" else {})
        for what in ("flow_runs", "task_runs", "artifacts", "logs", "deployments", "work_pools", "block_documents")
    ]
    answers.append(machine.ask("events/filter", {"filter": {}}))
    assert all(answers)
    assert not any(form in json.dumps(answers).encode() for form in forms(KEY))


def test_no_secret_is_in_an_exception(
    work: Path, model_server: ModelServer, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    monkeypatch.setenv("OPENAI_API_KEY", key)
    model_server.require_key = "another"
    with pytest.raises(RunStopped) as caught:
        generate(work / "rows.csv", work / "out", model="openai:m", base_url=model_server.openai_url)
    assert {call.authorization for call in model_server.calls} == {f"Bearer {key}"}
    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "Incorrect API key provided" in text
    assert not any(form in text.encode() for form in forms(key))
