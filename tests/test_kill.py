"""Killed and interrupted runs: no row is lost, and only what was in flight is asked for again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

from imagetask import ImageDataset
from imagetask.models.event_loop import IMAGE_THREADS
from tests.command_line import DONE, STOPPED, command, environment, imagetask
from tests.model_server import Call, Fault, RemoteModelServer, start_model_server

ROWS = 300
AT_ONCE = 24
LATENCY = 0.15
BEING_CHECKED = 2 * IMAGE_THREADS
"""Pictures that came and are not yet durable: their calls gave their places back, so others may be under way."""
A_MOMENT = 1.0
"""Longest time from the last byte of a picture to its record in the store, on a busy machine (seconds)."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A run that was killed. at: when (seconds since 1970). asked: calls of all runs so far. lost: those of this run
    whose picture is not in the store."""

    at: float
    asked: int
    lost: list[Call]


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


def killed_run(
    calls: int, pause: float, asked: int, server: RemoteModelServer, work: Path, env: dict[str, str]
) -> Kill:
    """Starts the run, and kills its whole process group `pause` seconds after the server has seen `calls` more calls
    than the `asked` of earlier runs."""
    with started(server, work, env) as process:
        server.wait_for_calls(asked + calls, timeout=120)
        time.sleep(pause)
        at = time.time()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seen = settled(server)
    kept = kept_in(work / "out")
    return Kill(at, len(seen), [call for call in seen[asked:] if call.sha256 not in kept])


def leave_debris(out: Path) -> None:
    """What a kill in the middle of any write can leave; a test cannot hit each of these moments."""
    state = out / "_imagetask"
    record = next((state / "store").glob("*/*.json"))
    for path in (
        state / "plan" / ".rows.parquet",
        state / "parts" / f"{'0' * 32}.writing",
        state / "parts" / f".{'0' * 32}.json.12345",
        state / ".run.json.12345",
        state / ".train-00000.parquet",
        record.with_name(f"{record.name}#1"),
    ):
        path.write_bytes(b"PAR1 half a fi")
    (state / "parts" / f"{'0' * 32}.parquet").write_bytes(b"PAR1 a part without its manifest")


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


def test_killed_runs_lose_no_row_and_pay_again_only_for_images_in_flight(
    work: Path, server_url: dict[str, str]
) -> None:
    moments = random.Random(20261123)
    out = work / "out"
    kills: list[Kill] = []
    with start_model_server(latency=LATENCY) as server:
        for _ in range(3):
            asked = kills[-1].asked if kills else 0
            calls, pause = moments.randint(30, 80), moments.uniform(0, LATENCY)
            kills.append(killed_run(calls, pause, asked, server, work, server_url))
        left = ROWS - len(kept_in(out))
        kills.append(killed_run(left, moments.uniform(0.2, 0.5), kills[-1].asked, server, work, server_url))
        leave_debris(out)
        ended = imagetask(*words(server), cwd=work, env=server_url)

        assert ended.code == DONE, ended.text
        assert len(server.calls) == ROWS + sum(len(kill.lost) for kill in kills)
        for kill in kills:
            assert len(kill.lost) <= AT_ONCE + BEING_CHECKED
            assert all(call.time + (call.seconds or 0.0) > kill.at - A_MOMENT for call in kill.lost)
        assert sum(bool(kill.lost) for kill in kills) >= 3, "the kills came while calls were in flight"
        check_dataset(server, out)


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
