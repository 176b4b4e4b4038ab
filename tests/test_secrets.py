"""No secret is left anywhere: in the output folder, Prefect's database and home, the terminal, an exception."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from imagetask_flows.retry_failed import retry_failed
from pydantic import SecretStr

from imagetask import RunStopped
from imagetask.blocks import OpenAIImageCredentials
from tests.canary import Place, found, new_key
from tests.command_line import DONE, SOME_FAILED, STOPPED, Ended, imagetask
from tests.conftest import Generate, prefect_folders
from tests.failure_cases import AUTH, CASES, HANGING, REFUSED, SPOILED, WIRES, Wire
from tests.machine import KEY, Machine
from tests.model_server import SIGNATURE, Fault, ModelServer
from tests.services import Services, make_model, prompt_of
from tests.test_failure_table import cases_of, failures, generations, managed

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


@pytest.fixture
def services() -> Iterator[Services]:
    with Services() as running:
        yield running


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "noise").mkdir(parents=True)
    (folder / "noise" / "sitecustomize.py").write_text(LOUD)
    (folder / "rows.csv").write_text("prompt\na red bicycle\na blue boat\na green train\n")
    return folder


@pytest.fixture
def prefect_places(server_url: dict[str, str], work: Path) -> list[Path]:
    """Where Prefect keeps things: the server's database, stored results, and the home of the commands."""
    return [*prefect_folders(), work.with_name(f"{work.name}-prefect")]


def assert_nowhere(secret: str, ended: Ended, work: Path, prefect_places: list[Path]) -> None:
    assert found(secret, work, *prefect_places, ended.text) == []


def planted(secret: str, folder: Path) -> dict[str, Place]:
    """The secret in every form that the search must find, by a name."""
    in_base64 = [base64.b64encode(f"{before}{secret}:end".encode()) for before in ("Bearer ", "Basic me:", "a:")]
    cause = ValueError("outer")
    cause.__cause__ = KeyError(secret)
    texts: dict[str, str | bytes] = {
        "plain": b"\x00" + secret.encode(),
        "reversed": secret[::-1],
        "url": f"?key={quote(secret, safe='')}&more",
        "url in a url": quote(f"?key={quote(secret, safe='')}", safe=""),
        "every letter in a url": "".join(f"%{byte:02x}" for byte in secret.encode()),
        "hex": secret.encode().hex(),
        "HEX": secret.encode().hex().upper(),
        "json": json.dumps(secret),
        "json with slashes": json.dumps(secret).replace("/", "\\/"),
        "json by numbers": "".join(f"\\u{ord(letter):04x}" for letter in secret),
        "utf-16": secret.encode("utf-16-le"),
        "over two lines": f"{secret[:9]}\n   {secret[9:]}",
        **{f"base64 {number}": text for number, text in enumerate(in_base64)},
        **{
            f"base64 of urls {number}": text.replace(b"+", b"-").replace(b"/", b"_")
            for number, text in enumerate(in_base64)
        },
        "gzip": gzip.compress(secret.encode()),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    pl.DataFrame({"error_message": [f"no {secret}"]}).write_parquet(folder / "part.parquet", compression="zstd")
    with closing(sqlite3.connect(folder / "database")) as database, database:
        database.execute("CREATE TABLE log (message TEXT)")
        database.execute("INSERT INTO log VALUES (?)", ("x" * 4000 + secret + "x" * 5000,))
    places: dict[str, Place] = {path.name: path for path in folder.iterdir()}
    record = logging.LogRecord("any", logging.INFO, "a.py", 1, "with %s", (secret,), None)
    return {**places, "exception": ValueError(secret), "cause": cause, "log": record}


@pytest.mark.parametrize("secret", [new_key(), SIGNATURE], ids=["key", "signature"])
def test_the_search_finds_every_form_and_nothing_else(secret: str, tmp_path: Path) -> None:
    places = planted(secret, tmp_path)
    assert [name for name, place in places.items() if not found(secret, place)] == []
    assert found(new_key(), *places.values()) == []


ALL_AT_ONCE = [case for case in CASES if case not in HANGING]


@pytest.mark.parametrize("wire", WIRES)
def test_failures_that_repeat_the_key_leave_it_nowhere(
    wire: Wire, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each case of the table over each wire, with every logger at DEBUG: first the call alone, then whole runs."""
    for name in ("", *logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, name or None)
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.005)
    key = new_key()
    services.secret = key
    model = make_model(wire, services, key, monkeypatch)
    errors = failures(model, [case for case in ALL_AT_ONCE if wire in case.wires])
    assert any("***" in error.message for error in errors if error)

    cases = cases_of(wire, "fail row", ALL_AT_ONCE)
    made = generations(managed(model, tmp_path / "store"), [*map(prompt_of, cases), "a good one"])
    assert [one.status for one in made] == ["failed"] * len(cases) + ["done"]
    stops = []
    for kind in ("auth", "billing", "config"):
        services.everywhere = next(case for case in cases_of(wire, "stop", ALL_AT_ONCE) if case.kind == kind)
        with pytest.raises(RunStopped) as caught:
            generations(managed(model, tmp_path / "store"), [f"many {number}" for number in range(3)])
        stops.append(caught.value)
    assert len(services.seen) > len(errors)
    exceptions = [*(error for error in errors if error), *stops]
    for secret in (key, SIGNATURE):
        assert {*found(secret, tmp_path, *exceptions, *caplog.records, *map(repr, made))} == set()


def test_a_key_is_left_nowhere_by_a_budget_a_stop_and_a_retry_with_a_block(
    work: Path,
    services: Services,
    generate: Generate,
    prefect_places: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.005)
    key = new_key()
    services.secret = key
    url = f"{services.url}/openai"
    OpenAIImageCredentials(api_key=SecretStr(key), base_url=url).save("of-the-retry", overwrite=True)
    cases = cases_of("openai", "fail row", (*REFUSED, *SPOILED))
    rows = [f"a good one {number}" for number in range(6)] + [*map(prompt_of, cases)]
    (work / "rows.csv").write_text("prompt\n" + "".join(f"{row}\n" for row in rows))
    run = {"model": "openai:m", "credentials": "of-the-retry"}

    with caplog.at_level(logging.DEBUG):
        ended = [generate(work / "rows.csv", work / "out", max_images=3, **run)]
        ended.append(generate(work / "rows.csv", work / "out", **run))
        ended.append(retry_failed(str(work / "out"), model="openai:m", seed=1, credentials="of-the-retry"))
        services.everywhere = AUTH[0]
        with pytest.raises(RunStopped) as caught:
            generate(work / "rows.csv", work / "out", seed=2, **run)
    assert (ended[0]["pending"], ended[1]["pending"], ended[2]["pending"]) == (len(rows) - 3, 0, 0)
    told = pl.read_parquet(work / "out" / "data" / "*.parquet")["error_message"].to_list()
    assert any(text and "***" in text for text in told), "the answers repeated the key"
    assert found("a good one 0", work, *prefect_places)
    for secret in (key, SIGNATURE):
        assert found(secret, work, *prefect_places, caught.value, *caplog.records, *map(repr, ended)) == []


def test_an_openai_key_and_signed_urls_are_left_nowhere(
    work: Path, model_server: ModelServer, server_url: dict[str, str], prefect_places: list[Path]
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
    assert found("rows 0 to 3: 2 images", *prefect_places), "the log is in the database"
    for secret in (key, SIGNATURE):
        assert_nowhere(secret, ended, work, prefect_places)

    model_server.recover()
    model_server.require_key = "another"
    stopped = imagetask(*run, "--seed", "1", cwd=work, env=env)
    assert stopped.code == STOPPED, stopped.text
    assert "Incorrect API key provided" in stopped.text
    assert_nowhere(key, stopped, work, prefect_places)


def test_a_hugging_face_token_is_left_nowhere(
    work: Path, model_server: ModelServer, server_url: dict[str, str], prefect_places: list[Path]
) -> None:
    token = new_key()
    env = {**server_url, **NOISE, "HF_TOKEN": token}
    model_server.fail("train", "unauthorized")
    run = ["generate", "rows.csv", "--out", "out", "--max-concurrency", "1", "--model", "inference-endpoints:m"]
    ended = imagetask(*run, "--base-url", model_server.model_url("m"), cwd=work, env=env)
    assert ended.code == STOPPED, ended.text
    assert {call.authorization for call in model_server.calls} == {f"Bearer {token}"}
    assert "Invalid credentials" in ended.text
    assert_nowhere(token, ended, work, prefect_places)


def test_a_key_in_a_block_is_left_nowhere(
    work: Path, model_server: ModelServer, server_url: dict[str, str], prefect_places: list[Path]
) -> None:
    key = new_key()
    block = OpenAIImageCredentials(api_key=SecretStr(key), base_url=model_server.openai_url)
    block.save("for-the-secrets-test")
    assert key not in repr(block)
    run = ["generate", "rows.csv", "--out", "out", "--model", "openai:m", "--credentials", "for-the-secrets-test"]
    ended = imagetask(*run, cwd=work, env={**server_url, **NOISE})
    assert ended.code == DONE, ended.text
    assert {call.authorization for call in model_server.calls} == {f"Bearer {key}"}
    assert_nowhere(key, ended, work, prefect_places)


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
    assert found(KEY, json.dumps(answers)) == []


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
    assert found(key, caught.value) == []
