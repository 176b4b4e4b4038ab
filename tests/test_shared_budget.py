"""One budget that several processes spend at the same time; and what a process has of a run's other limits."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from imagetask_flows import worker_processes
from imagetask_flows.accounts import Account
from imagetask_flows.models_in_use import _pace_of, close_models, share_of, stopped
from imagetask_flows.shares import Share
from imagetask_flows.worker_processes import Word, hear, wait_for_share

from imagetask import errors
from imagetask.errors import GenerationError, ImageTaskError, RunStopped, StorageError
from imagetask.models.budget import Budget, BudgetReached, spent
from imagetask.models.event_loop import event_loop
from imagetask.models.ledger import Ledger
from imagetask.models.pacing import Pace
from imagetask.settings import RunSettings
from tests.timed import timed


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "spent.txt"


SPENDER = """
import asyncio, sys
from pathlib import Path
from imagetask.models.budget import Budget, BudgetReached

async def told(budget):
    while True:
        budget.note_elsewhere(0)
        await asyncio.sleep(0.2)

async def spend(budget):
    telling, taken, tries = asyncio.create_task(told(budget)), 0, 0
    sys.stdin.readline()
    while True:
        try:
            reservation = await budget.reserve(0.01)
        except BudgetReached:
            return taken
        await asyncio.sleep(0)
        tries += 1
        if tries % 3 == 2:
            budget.release(reservation)
        else:
            budget.settle(reservation, 0.01)
            taken += 1

print("ready", flush=True)
print(asyncio.run(spend(Budget(max_cost=8.0, ledger=Path(sys.argv[1]), shared=True))))
"""


def test_processes_together_spend_the_budget_to_the_last_image(ledger: Path) -> None:
    ledger.write_text("300 3.00\n1 0.0")
    command = [sys.executable, "-c", SPENDER, str(ledger)]
    spenders = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        for _ in range(3)
    ]
    try:
        for each in spenders:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        for each in spenders:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        assert sum(int(each.communicate(timeout=60)[0]) for each in spenders) == 500
    finally:
        for each in spenders:
            each.kill()
            each.communicate()
    assert spent(ledger) == (800, 8.0, 0)


def test_what_another_process_has_reserved_is_waited_for_and_taken_once_it_is_released(ledger: Path) -> None:
    async def one_of(budget: Budget) -> str:
        try:
            budget.settle(await budget.reserve(0.5), 0.5)
        except BudgetReached:
            return "reached"
        return "taken"

    async def run() -> list[str]:
        here, there = (Budget(max_images=2, ledger=ledger, shared=True) for _ in range(2))

        async def told_until(seen: Callable[[], bool]) -> None:
            async with asyncio.timeout(10):
                while not seen():
                    here.note_elsewhere(there.reserved)
                    await asyncio.sleep(0.2)

        first, second = await there.reserve(0.5), await there.reserve(0.5)
        waiting = [asyncio.create_task(one_of(here)) for _ in range(2)]
        for _ in range(4):
            here.note_elsewhere(there.reserved)
            await asyncio.sleep(0.2)
        assert not any(one.done() for one in waiting)
        there.release(first)
        await told_until(lambda: any(one.done() for one in waiting))
        for _ in range(4):
            here.note_elsewhere(there.reserved)
            await asyncio.sleep(0.2)
        assert sorted(one.done() for one in waiting) == [False, True], "the other's second call may still fail"
        there.settle(second, 0.5)
        await told_until(lambda: all(one.done() for one in waiting))
        ended = [one.result() for one in waiting]
        started = time.monotonic()
        assert [await one_of(here) for _ in range(50)] == ["reached"] * 50
        assert time.monotonic() - started < 1, "once it is known, nobody waits"
        return ended

    assert sorted(asyncio.run(run())) == ["reached", "taken"]
    assert spent(ledger).images == 2


def test_a_call_that_began_elsewhere_after_that_process_was_asked_is_waited_for(ledger: Path) -> None:
    """It was asked, then it reserved, this one looked, and then was told: of this round, and in the next, the same."""

    async def run() -> None:
        here, there = (Budget(max_images=1, ledger=ledger, shared=True) for _ in range(2))
        asked_before = there.reserved
        reservation = await there.reserve(None)
        waiting = asyncio.create_task(here.reserve(None))
        await asyncio.sleep(0.05)
        for _ in range(2):
            here.note_elsewhere(asked_before)
        await asyncio.sleep(0.7)
        assert not waiting.done()
        here.note_elsewhere(there.reserved)
        there.release(reservation)
        here.release(await waiting)

    asyncio.run(run())


def test_a_stopped_run_waits_for_no_budget_of_other_processes(ledger: Path) -> None:
    async def run() -> None:
        here, there = (Budget(max_images=1, ledger=ledger, shared=True) for _ in range(2))
        await there.reserve(None)
        here.note_elsewhere(1)
        waiting = asyncio.create_task(here.reserve(None))
        await asyncio.sleep(0.05)
        here.stop(lambda: RunStopped("auth", "no key"))
        with pytest.raises(RunStopped, match="no key"):
            await waiting

    asyncio.run(run())


def test_half_a_line_of_a_process_that_died_is_taken_off_by_those_who_go_on(ledger: Path) -> None:
    kept = Ledger(ledger)
    kept.add(1, 40_000_000)
    with ledger.open("ab") as file:
        file.write(b"1 0.0")
    kept.add(1, None)
    assert ledger.read_bytes() == b"1 0.04\n1 ?\n"
    ledger.write_bytes(b"")
    with pytest.raises(StorageError, match=r"spent\.txt was removed or cut while a run went on"):
        kept.add(1, None)


@timed
def test_a_ledger_of_a_million_lines_is_counted_in_constant_memory_and_not_read_again(ledger: Path) -> None:
    ledger.write_bytes(b"1 0.04\n1 ?\n-1 -0.04\n1 0.0375\n" * 250_000)
    tracemalloc.start()
    kept = Ledger(ledger)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (kept.amounts.images, kept.amounts.nano, kept.amounts.unpriced) == (500_000, 9_375 * 10**9, 250_000)
    assert peak < 32 * 2**20
    started = time.perf_counter()
    for _ in range(1000):
        kept.add(1, 40_000_000)
    assert time.perf_counter() - started < 2
    assert spent(ledger).images == 501_000


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 7, 64])
def test_the_shares_of_all_processes_are_the_limits_of_the_run(processes: int) -> None:
    shares = [Share(processes, rank) for rank in range(processes)]
    assert sum(share.places(64) for share in shares) == 64
    assert sum(share.rate(90.0) or 0.0 for share in shares) == pytest.approx(90.0)
    assert {share.places(1) for share in shares} == {1}
    assert {share.rate(None) for share in shares} == {None}


def test_a_pace_whose_limit_is_cut_starts_no_call_until_enough_have_ended() -> None:
    async def run() -> None:
        pace = Pace(8)
        pace.limit = 8.0
        for _ in range(6):
            await pace.acquire()
        pace.change(2)
        waiting = asyncio.create_task(pace.acquire())
        for _ in range(4):
            pace.answered()
            await asyncio.sleep(0)
            assert not waiting.done()
        pace.answered()
        await asyncio.sleep(0)
        assert await waiting == 7
        assert pace.in_flight == 2
        pace.change(8)
        for _ in range(2):
            pace.answered()
            await pace.acquire()
        assert pace.limit > 2

    asyncio.run(run())


def all_errors(kind: type[ImageTaskError]) -> list[type[ImageTaskError]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in all_errors(sub))]


@pytest.mark.parametrize("kind", [one for one in all_errors(ImageTaskError) if one.__module__ == errors.__name__])
def test_every_error_comes_from_another_process_as_it_is(kind: type[ImageTaskError]) -> None:
    error = kind("auth", "no key") if kind in (GenerationError, RunStopped) else kind("no key")
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is kind
    assert (str(came), vars(came)) == (str(error), vars(error))


def word(run: str, folder: Path, stop: tuple[errors.StopReason, str] | None = None) -> Word:
    return Word(run, str(folder), {"here": Share(2, 1)}, {}, stop)


HERE = SimpleNamespace(address="here")


def test_a_process_takes_no_part_before_its_flow_says_so_and_a_later_run_into_the_folder_ends_it(
    tmp_path: Path,
) -> None:
    try:
        assert not hear(word("one", tmp_path), dask_worker=HERE).takes_part
        assert share_of("one") is None
        assert hear(word("one", tmp_path), begin=True, dask_worker=HERE).takes_part
        assert share_of("one") == Share(2, 1)
        hear(word("other", tmp_path / "elsewhere"), begin=True, dask_worker=HERE)
        assert stopped("one") is None
        hear(word("two", tmp_path), begin=True, dask_worker=HERE)
        assert stopped("one") == ("interrupted", "the process of its flow is gone, or cannot reach this one")
        assert stopped("other") is None
        assert hear(word("two", tmp_path, ("auth", "no key")), dask_worker=HERE).stopped == ("auth", "no key")
    finally:
        for run in ("one", "two", "other"):
            worker_processes._close(run)
    assert share_of("one") is None


def test_a_process_is_not_within_a_share_that_its_pace_has_not_yet_taken(tmp_path: Path) -> None:
    busy, goes_on = threading.Event(), threading.Event()

    def keep_busy() -> None:
        busy.set()
        goes_on.wait(10)

    shares = [Word("one", str(tmp_path), {"here": Share(processes)}, {}) for processes in (1, 2)]
    try:
        hear(shares[0], begin=True, dask_worker=HERE)
        pace = _pace_of("one", "openai", Account(None, 8, None))
        pace.in_flight = 6
        assert hear(shares[0], dask_worker=HERE).within
        event_loop().loop.call_soon_threadsafe(keep_busy)
        assert busy.wait(10)
        assert not hear(shares[1], dask_worker=HERE).within
        goes_on.set()
        pace.in_flight = 4
        until = time.monotonic() + 10
        while not hear(shares[1], dask_worker=HERE).within:
            assert time.monotonic() < until
        assert pace.max_concurrency == 4
    finally:
        goes_on.set()
        worker_processes._close("one")


def test_a_chunk_of_a_stopped_run_waits_for_no_share(tmp_path: Path) -> None:
    settings = RunSettings.checked(source="rows.csv", out=tmp_path, runner="dask", dask_address="tcp://127.0.0.1:1")
    assert not hear(word("stopped early", tmp_path, ("auth", "no key")), dask_worker=HERE).takes_part
    started = time.monotonic()
    with pytest.raises(RunStopped, match="no key"):
        wait_for_share("stopped early", settings)
    assert time.monotonic() - started < 5


def test_a_run_whose_flow_is_silent_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_processes, "SILENCE", 0.3)
    hear(word("silent", tmp_path), begin=True, dask_worker=HERE)
    until = time.monotonic() + 10
    while stopped("silent") is None and time.monotonic() < until:
        time.sleep(0.1)
    assert stopped("silent") is not None
    close_models("silent")
