"""A process that works on chunks of a run whose flow is elsewhere: the end of a run, and the beginning of the next."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from imagetask_flows import worker_processes
from imagetask_flows.models_in_use import open_model, reserved, stop_models, stopped
from imagetask_flows.shares import Share
from imagetask_flows.worker_processes import Report, Word, check_process, close, hear

from imagetask.errors import RunStopped, StorageError, UsageError
from imagetask.models.base import Generation
from imagetask.parts import part_path, read_manifest, write_part
from imagetask.plan import Chunk
from imagetask.runs import Run
from imagetask.settings import RunSettings
from tests.model_server import ModelServer

HERE = SimpleNamespace(address="here")
PLACES = 4
PROMPTS = [f"teapot number {number}" for number in range(40)]


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    for run in list(worker_processes._known):
        worker_processes._close(run)


@pytest.fixture
def settings(model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    model_server.latency = 1.0
    made = RunSettings.checked(
        source="rows.csv",
        out=tmp_path / "out",
        model="openai:m",
        base_url=model_server.openai_url,
        runner="dask",
        dask_address="tcp://127.0.0.1:1",
        max_concurrency=PLACES,
    )
    made.layout.make()
    return made


def said(settings: RunSettings, run: str, *, begin: bool = False) -> Report:
    """What this process answers to the flow of the run."""
    return hear(Word(run, str(settings.out), {"here": Share()}, {}), begin=begin, dask_worker=HERE)


def begun(settings: RunSettings, run: str) -> threading.Thread:
    """Begins a run in this process, and asks for the prompts in a thread that ends with the run."""
    Run.start(settings, run)
    said(settings, run, begin=True)

    def ask() -> None:
        try:
            open_model(settings, "openai:m", run).for_rows([0] * len(PROMPTS)).generate_outputs(list(PROMPTS))
        except RunStopped:
            return

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def images_kept(settings: RunSettings) -> int:
    return len(list(settings.layout.store.glob("*/*.png")))


def test_a_run_begins_once_the_calls_of_an_earlier_one_into_its_folder_have_ended(
    settings: RunSettings, model_server: ModelServer
) -> None:
    asking = begun(settings, "killed")
    model_server.wait_for_calls(PLACES, timeout=20)
    Run.start(settings, "next")
    first = said(settings, "next")
    assert (first.takes_part, first.within) == (False, False)
    assert reserved("killed") > 0
    asking.join()
    assert said(settings, "next").within
    assert images_kept(settings) == len(model_server.calls)
    assert stopped("next") is None


def test_a_run_whose_folder_another_one_has_makes_no_more_calls_though_nobody_tells_it(
    settings: RunSettings, model_server: ModelServer
) -> None:
    asking = begun(settings, "killed")
    model_server.wait_for_calls(1, timeout=20)
    wait_until(lambda: worker_processes._known["killed"].recorded)
    Run.start(settings.model_copy(update={"runner": "threads"}), "next")
    asking.join(20)
    assert not asking.is_alive()
    assert stopped("killed") is not None
    assert images_kept(settings) == len(model_server.calls) < len(PROMPTS)


def test_a_record_that_is_seen_late_stops_no_run(settings: RunSettings) -> None:
    Run.start(settings, "the one before")
    said(settings, "new", begin=True)
    time.sleep(2.5)
    assert stopped("new") is None


def test_what_is_under_way_when_a_run_is_closed_is_kept_and_then_the_model_is_closed(
    settings: RunSettings, model_server: ModelServer
) -> None:
    asking = begun(settings, "cancelled")
    model_server.wait_for_calls(PLACES, timeout=20)
    stop_models("cancelled", "interrupted", "it was cancelled")
    asyncio.run(close("cancelled", HERE))
    asking.join(20)
    assert len(model_server.calls) == images_kept(settings) > 0
    wait_until(lambda: "cancelled" not in worker_processes._known)
    with pytest.raises(RunStopped, match="it was cancelled"):
        open_model(settings, "openai:m", "cancelled")


def test_a_process_that_lacks_folder_server_or_store_is_told_so(settings: RunSettings, tmp_path: Path) -> None:
    store = settings.store_url
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/api"

    def check(run: str, server: str | None, store: str) -> None:
        asyncio.run(check_process(run, str(settings.out), store, server))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_processes, "_SEEN_WITHIN", 0.3)
        Run.start(settings, "earlier")
        with pytest.raises(UsageError, match=r"it does not see the run in .*/out: that must be on a file system"):
            check("run", None, store)
        Run.start(settings, "run")
        check("run", None, store)
        with pytest.raises(UsageError, match=f"does not reach the Prefect server at {nobody}: .*PREFECT_API_URL"):
            check("run", nobody, store)
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="could not open the store"):
            check("run", None, str(tmp_path / "file"))


def test_of_a_part_that_two_processes_write_one_stands_with_its_own_manifest(settings: RunSettings) -> None:
    chunk = Chunk("openai:m", 0, 50, "d" * 32)
    errors: list[BaseException] = []

    def write(number: int, together: threading.Barrier) -> None:
        part = pl.DataFrame({"image": [f"{number}-{row}" * (1 + number) for row in range(50)]})
        together.wait()
        try:
            write_part(settings.layout, chunk, part, ["image"], [number] * 50, [[Generation("m", error_kind="server")]])
        except BaseException as error:
            errors.append(error)

    for _ in range(40):
        together = threading.Barrier(2)
        writers = [threading.Thread(target=write, args=(number, together)) for number in (0, 1)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        manifest = read_manifest(settings.layout, chunk)
        assert manifest is not None
        written = part_path(settings.layout, chunk.digest).read_bytes()
        assert hashlib.blake2b(written, digest_size=16).hexdigest() == manifest["content"]
        number = int(str(pl.read_parquet(written)["image"][0])[0])
        assert manifest["row_groups"] == [[50, 50 * number]]
    assert errors == []
    assert not list(settings.layout.parts.glob("*.writing"))
