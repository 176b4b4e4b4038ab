"""Killed and interrupted runs: no row is lost, and only what was in flight is asked for again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from imagetask import ImageDataset
from tests.model_server import Call, RemoteModelServer, start_model_server
from tests.test_cli import DONE, STOPPED, command, environment, imagetask, server_url

__all__ = ["server_url"]

ROWS = 300
AT_ONCE = 24
LATENCY = 0.15


@dataclass(frozen=True, slots=True)
class Kill:
    """A run that was killed. asked, arrived: calls that had come to the server, and pictures that it had delivered,
    just before. kept: generations in the store just after."""

    asked: int
    arrived: int
    kept: set[str]

    @property
    def in_flight(self) -> int:
        """Calls of all runs so far whose picture was not durable, those of earlier kills included."""
        return self.asked - len(self.kept)


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


def kept_in(store: Path) -> set[str]:
    """The keys in the store; each record is whole, and so is its image."""
    records = [json.loads(path.read_bytes()) for path in store.glob("*/*.json")]
    for record in records:
        assert (store / record["image"]["path"]).stat().st_size == record["image"]["bytes"]
    return {record["key"] for record in records}


def kill_after(calls: int, pause: float, server: RemoteModelServer, work: Path, env: dict[str, str]) -> Kill:
    """Starts the run, and kills its whole process group `pause` seconds after the server has seen `calls` calls."""
    with started(server, work, env) as process:
        server.wait_for_calls(calls, timeout=120)
        time.sleep(pause)
        counts = server.counts()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    while server.counts().in_flight:
        time.sleep(0.05)
    return Kill(counts.calls, counts.delivered, kept_in(work / "out" / "_imagetask" / "store"))


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
        digest = sha256(picture)
        assert delivered[digest].prompt == prompt
        seen.add(digest)
    assert len(seen) == ROWS, "each row has a picture of its own, rows with equal prompts too"


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_killed_runs_lose_no_row_and_pay_again_only_for_images_in_flight(
    work: Path, server_url: dict[str, str]
) -> None:
    moments = random.Random(20261123)
    out, kills, asked = work / "out", [], 0
    with start_model_server(latency=LATENCY) as server:
        for _ in range(4):
            asked += moments.randint(30, 80)
            kills.append(kill_after(asked, moments.uniform(0, LATENCY), server, work, server_url))
            asked = kills[-1].asked
            print(asked, kills[-1].arrived, len(kills[-1].kept))
        leave_debris(out)
        ended = imagetask(*words(server), cwd=work, env=server_url)
        assert ended.code == DONE, ended.text
        total = server.counts().calls
        print(total)
        check_dataset(server, out)

        again = imagetask(*words(server), cwd=work, env=server_url)
        assert again.code == DONE, again.text
        assert server.counts().calls == total
