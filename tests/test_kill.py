"""Runs that are interrupted or told to end: they end soon, and keep what was in flight. Kills: test_crash_points."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

from imagetask import ImageDataset
from tests.command_line import DONE, STOPPED, command, environment, imagetask
from tests.model_server import Call, Fault, RemoteModelServer, start_model_server

ROWS = 300
AT_ONCE = 24
LATENCY = 0.15


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with 300 rows, every tenth of them equal to another in its prompt."""
    folder = tmp_path / "work"
    folder.mkdir()
    rows = [f"picture {i if i % 10 else i // 2},{i}" for i in range(ROWS)]
    (folder / "rows.csv").write_text("prompt,number\n" + "".join(f"{row}\n" for row in rows))
    return folder


def words(server: RemoteModelServer) -> list[str]:
    model = ["--model", "openai:m", "--base-url", server.openai_url]
    return ["generate", "rows.csv", "--out", "out", *model, "--chunk-rows", "40", "--max-concurrency", str(AT_ONCE)]


@contextmanager
def started(server: RemoteModelServer, work: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The run as the leader of a process group of its own; the group is gone at the end."""
    with subprocess.Popen(
        command(*words(server)),
        cwd=work,
        env=environment(work, **env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def kept_in(out: Path) -> set[str]:
    """The hashes of the pictures that the store has; each record is whole, and so is its picture."""
    store = out / "_imagetask" / "store"
    pictures = [json.loads(path.read_bytes())["image"] for path in store.glob("*/*.json")]
    for picture in pictures:
        assert sha256((store / picture["path"]).read_bytes()).hexdigest() == picture["sha256"]
    return {picture["sha256"] for picture in pictures}


def settled(server: RemoteModelServer) -> list[Call]:
    """All calls, once the server has seen that those who made them are gone."""
    while server.counts().in_flight:
        time.sleep(0.05)
    return server.calls


def check_dataset(server: RemoteModelServer, out: Path) -> None:
    """Every row is in its place, with a picture that the server delivered for its prompt."""
    frame = ImageDataset(out).scan().collect()
    assert frame["number"].to_list() == list(range(ROWS))
    assert set(frame["status"]) == {"done"}
    delivered = server.delivered
    seen = set()
    for prompt, picture in frame.select("prompt", pl.col("image").struct.field("bytes")).iter_rows():
        digest = sha256(picture).hexdigest()
        assert delivered[digest].prompt == prompt
        seen.add(digest)
    assert len(seen) == ROWS, "each row has a picture of its own, rows with equal prompts too"


def test_a_run_that_is_told_to_end_while_it_is_stopping_keeps_the_slow_calls_in_flight(
    work: Path, server_url: dict[str, str]
) -> None:
    """One answer stops the run at once; SIGTERM comes while the other three, which take long, are under way."""
    with start_model_server(latency=10.0) as server:
        server.fail(None, Fault("unauthorized", latency=3.0), shared=True)
        with started(server, work, server_url) as process:
            server.wait_for_calls(4, timeout=60)
            time.sleep(4.5)
            os.killpg(process.pid, signal.SIGTERM)
            text, _ = process.communicate(timeout=60)
        calls = settled(server)
        images = {call.sha256 for call in calls if call.sha256 is not None}
        assert len(images) == 3, text
        assert images == kept_in(work / "out")
        assert "Terminated. What came in is kept; the same command goes on from there." in text
        assert process.returncode == -signal.SIGTERM
        told = imagetask("status", "out", cwd=work).text
        assert "stopped: " in told
        assert "key" in told, "the cause is told, not the signal"


def test_interrupted_run_ends_soon_and_keeps_what_was_in_flight(work: Path, server_url: dict[str, str]) -> None:
    """Ctrl-C reaches the whole process group, as it does in a terminal; the run has Prefect's embedded server."""
    with start_model_server(latency=LATENCY) as server:
        with started(server, work, {}) as process:
            server.wait_for_calls(60, timeout=180)
            at = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            text, _ = process.communicate(timeout=60)
        assert time.monotonic() - at < 30
        assert process.returncode == STOPPED, text
        assert "Interrupted. What came in is kept; the same command goes on from there." in text
        assert "Traceback" not in text
        calls = settled(server)
        assert len(calls) < ROWS
        assert {call.sha256 for call in calls} == kept_in(work / "out")
        told = imagetask("status", "out", cwd=work)
        assert "stopped: it was interrupted" in told.text

        ended = imagetask(*words(server), cwd=work, env=server_url)
        assert ended.code == DONE, ended.text
        assert len(server.calls) == ROWS
        check_dataset(server, work / "out")
