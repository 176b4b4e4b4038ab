"""Budgets: never exceeded, whatever fails and however many calls are in flight; by the model server's own ledger."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagetask.errors import RunStopped, StorageError
from imagetask.models import Generation, load_model
from imagetask.models.breakers import Breakers
from imagetask.models.budget import Budget, BudgetReached, spent
from imagetask.models.managed import ManagedModel
from imagetask.models.pacing import Pace
from imagetask.store import GenerationStore
from tests.model_server import Call, Chaos, Fault, ModelServer

PRICE = 0.04
PROMPTS = [f"teapot number {number}" for number in range(300)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "spent.txt"


def at_once(calls: int) -> Pace:
    """A pace that makes so many calls at once from the start."""
    pace = Pace(calls)
    pace.limit = float(calls)
    return pace


def priced(server: ModelServer, budget: Budget, store: Path, *, model: str = "m", **options: Any) -> ManagedModel:
    given: dict[str, Any] = {"pace": at_once(64), "prices": {model: PRICE}, "breakers": Breakers(1.0, 1.0), **options}
    hosted = load_model(f"openai:{model}", base_url=server.openai_url, api_key="k", timeout=3.0)
    return ManagedModel(hosted, store=GenerationStore(store), budget=budget, **given)


def made(managed: ManagedModel, prompts: Sequence[str] = PROMPTS) -> list[Generation]:
    with managed:
        return [one for [one] in managed.generate_outputs(prompts)]


def statuses(generations: Sequence[Generation]) -> Counter[str]:
    return Counter(one.status for one in generations)


def may_be_charged(calls: Sequence[Call]) -> int:
    """Calls that were answered with a picture, or with something in its place, or whose answer was lost."""
    return sum(call.status is None or call.status < 400 for call in calls)


# --- the budget and its ledger ----------------------------------------------------------------------------------------


async def take(budget: Budget, number: int, price: float) -> int:
    """How many of so many images the budget allows."""
    for taken in range(number):
        try:
            budget.settle(await budget.reserve(price), price)
        except BudgetReached:
            return taken
    return number


@pytest.mark.parametrize(
    ("price", "limit", "allowed"), [(0.1, 0.3, 3), (0.001, 1.0, 1000), (0.07, 0.2, 2), (0.5, 0.4, 0)]
)
def test_amounts_add_up_exactly(price: float, limit: float, allowed: int, ledger: Path) -> None:
    assert asyncio.run(take(Budget(max_cost=limit, ledger=ledger), 2000, price)) == allowed
    assert spent(ledger)[:2] == pytest.approx((allowed, price * allowed), abs=1e-12)


def test_what_was_reserved_and_never_settled_counts_for_the_next_run(ledger: Path) -> None:
    async def killed(budget: Budget) -> None:
        budget.settle(await budget.reserve(0.04), 0.04)
        budget.release(await budget.reserve(0.04))
        await budget.reserve(0.04)

    for budget in (Budget(max_images=5, ledger=ledger), Budget(ledger=ledger)):
        asyncio.run(killed(budget))
    assert spent(ledger)[:2] == (4, 0.16)
    assert asyncio.run(take(Budget(max_images=5, ledger=ledger), 9, 0.04)) == 1
    assert asyncio.run(take(Budget(max_cost=0.2, ledger=ledger), 9, 0.01)) == 0


def test_what_an_image_cost_in_the_end_is_what_counts(ledger: Path) -> None:
    async def dearer_and_cheaper(budget: Budget) -> None:
        budget.settle(await budget.reserve(0.04), 0.05)
        budget.settle(await budget.reserve(0.04), 0.01)

    asyncio.run(dearer_and_cheaper(Budget(max_cost=1.0, ledger=ledger)))
    assert spent(ledger)[:2] == (2, 0.06)


def test_a_call_waits_for_what_others_have_reserved_and_takes_it_when_it_is_released() -> None:
    async def run() -> list[str]:
        budget, seen = Budget(max_images=2), []
        first, second = await budget.reserve(0), await budget.reserve(0)

        async def third() -> None:
            try:
                budget.settle(await budget.reserve(0), 0)
                seen.append("taken")
            except BudgetReached:
                seen.append("reached")

        waiting = [asyncio.create_task(third()) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert seen == []
        budget.release(first)
        await asyncio.sleep(0.01)
        assert seen == ["taken"], "the other goes on waiting: the second call may still fail"
        budget.settle(second, 0)
        await asyncio.gather(*waiting)
        return seen

    assert asyncio.run(run()) == ["taken", "reached"]


def test_half_a_line_of_a_ledger_is_taken_off_and_the_next_stands_on_its_own(ledger: Path) -> None:
    ledger.write_bytes(b"1 0.04\n1 0.0")
    assert asyncio.run(take(Budget(max_images=2, ledger=ledger), 9, 0.04)) == 1
    assert ledger.read_bytes() == b"1 0.04\n1 0.04\n"


@pytest.mark.parametrize("text", [b"1 0.04\nten 0.04\n", b"1\n", b"1 0.04 7\n", b"1 4e\n", b"1 \xff\n"])
def test_a_damaged_ledger_is_told_and_not_counted_as_nothing(text: bytes, ledger: Path) -> None:
    ledger.write_bytes(text)
    with pytest.raises(StorageError, match=r"spent\.txt is damaged: remove it"):
        Budget(ledger=ledger)


def test_a_ledger_that_is_a_folder_is_told(ledger: Path) -> None:
    ledger.mkdir()
    with pytest.raises(StorageError, match=r"could not write .*spent\.txt: Is a directory"):
        Budget(ledger=ledger)


# --- calls ------------------------------------------------------------------------------------------------------------

TROUBLE = (
    Fault("server_error"),
    Fault("reset", after_bytes=200),
    Fault("rate_limited", retry_after=0.05),
    Fault("hang"),
    Fault("slow_body", seconds=0.2),
    Fault("truncated_image"),
    Fault("blank_image"),
    Fault("refused"),
    Fault("result_gone", times=4),
)


def test_images_of_an_unknown_price_count_at_the_price_that_is_known_later(ledger: Path) -> None:
    async def runs() -> None:
        unpriced = Budget(ledger=ledger)
        for _ in range(3):
            unpriced.settle(await unpriced.reserve(None), None)
        unpriced.release(await unpriced.reserve(None))
        unpriced.settle(await unpriced.reserve(None), 0.07)
        assert spent(ledger) == pytest.approx((4, 0.07, 3))
        priced = Budget(max_cost=0.07 + 5 * 0.04, ledger=ledger)
        for _ in range(2):
            priced.settle(await priced.reserve(0.04), 0.04)
        with pytest.raises(BudgetReached):
            await priced.reserve(0.04)

    asyncio.run(runs())
    assert spent(ledger) == pytest.approx((6, 0.15, 3))


@pytest.mark.parametrize("limit", [{"max_images": 70}, {"max_cost": 70 * PRICE}])
def test_a_budget_is_never_exceeded_with_64_in_flight_whatever_fails(
    limit: dict[str, Any], model_server: ModelServer, ledger: Path, tmp_path: Path
) -> None:
    model_server.latency = lambda prompt: 0.4 + 0.02 * (int(prompt.split()[-1]) % 10)
    slow = tuple(replace(fault, latency=0.4) for fault in TROUBLE)  # none comes before all places are taken
    model_server.chaos(Chaos(0.3, seed=4, faults=slow))
    budget = Budget(**limit, ledger=ledger)
    generations = made(priced(model_server, budget, tmp_path / "store"))
    calls = model_server.calls
    assert model_server.max_in_flight > 30
    assert {call.fault for call in calls} >= {"server_error", "reset", "hang", "truncated_image", "refused"}
    assert 0 < model_server.counts().delivered <= may_be_charged(calls) <= 70
    assert spent(ledger)[:2] == pytest.approx((70, 70 * PRICE)), "and it is used up"
    came = statuses(generations)
    assert came["pending"] > 100
    assert came["done"] <= model_server.counts().delivered
    blank = {call.prompt for call in calls if call.fault == "blank_image"}
    begun = [one for one in generations if one.status == "pending" and one.attempts]
    assert all(one.prompt in blank for one in begun), "but for a second try with another seed"

    model_server.recover()
    model_server.reset()
    assert made(priced(model_server, Budget(**limit, ledger=ledger), tmp_path / "store")) != generations
    assert model_server.calls == [], "a further run with the same budget asks for nothing"


def test_slow_calls_are_no_more_than_the_budget_and_a_larger_one_goes_on_with_the_others(
    model_server: ModelServer, ledger: Path, tmp_path: Path
) -> None:
    model_server.latency = 0.3
    for limit, total in ((10, 10), (10, 10), (25, 25), (400, 60)):
        budget = Budget(max_images=limit, ledger=ledger)
        generations = made(priced(model_server, budget, tmp_path / "store"), PROMPTS[:60])
        assert len(model_server.calls) == total
        assert statuses(generations) == Counter({"done": total, "pending": 60 - total})
        assert budget.reached == (total < 60)
    assert set(Counter(model_server.prompts).values()) == {1}, "nobody was asked twice"


def test_two_models_share_one_budget(model_server: ModelServer, ledger: Path, tmp_path: Path) -> None:
    model_server.latency = 0.1
    budget = Budget(max_cost=30 * PRICE, ledger=ledger)
    models = [priced(model_server, budget, tmp_path / "store", model=name) for name in ("m", "n")]
    threads = [threading.Thread(target=made, args=(model, PROMPTS[:100])) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(model_server.calls) == 30
    assert spent(ledger)[:2] == pytest.approx((30, 30 * PRICE))
    assert models[0].tally.pending + models[1].tally.pending == 170


def test_what_a_refused_call_had_reserved_goes_to_a_row_that_waits(model_server: ModelServer, tmp_path: Path) -> None:
    model_server.fail(None, Fault("refused", latency=0.3), shared=True)
    generations = made(priced(model_server, Budget(max_images=1), tmp_path / "store"), PROMPTS[:3])
    assert statuses(generations) == Counter(["done", "failed", "pending"])
    assert (len(model_server.calls), model_server.counts().delivered) == (2, 1)


def test_a_row_that_failed_and_has_no_money_left_for_another_attempt_is_failed_not_pending(
    model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(None, "truncated_image", forever=True)
    [one] = made(priced(model_server, Budget(max_images=2), tmp_path / "store"), PROMPTS[:1])
    assert (one.status, one.error_kind, one.attempts) == ("failed", "corrupt_image", 2)
    assert one.cost == pytest.approx(2 * PRICE)


def test_a_stopped_run_makes_no_call_for_rows_that_waited_for_the_budget(
    model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(None, Fault("unauthorized", latency=0.4), shared=True)
    with pytest.raises(RunStopped, match="Incorrect API"):
        made(priced(model_server, Budget(max_images=1), tmp_path / "store"), PROMPTS[:20])
    assert len(model_server.calls) == 1


def test_a_ledger_that_cannot_be_written_any_more_stops_the_run_and_nobody_waits_for_ever(
    model_server: ModelServer, ledger: Path, tmp_path: Path
) -> None:
    model_server.fail(None, Fault("refused", latency=0.4), forever=True)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            made(priced(model_server, Budget(max_images=2, ledger=ledger), tmp_path / "store"), PROMPTS[:20])
        except RunStopped as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    model_server.wait_for_calls(2)
    ledger.unlink()
    ledger.mkdir()
    thread.join(20)
    assert [str(error).partition(":")[0] for error in caught] == ["storage"]
    assert len(model_server.calls) == 2


def test_rows_that_a_budget_does_not_reach_do_not_wait_for_their_turn(
    model_server: ModelServer, tmp_path: Path
) -> None:
    """At 300 calls a minute 300 rows would take a minute."""
    started = time.monotonic()
    budget = Budget(max_images=6)
    managed = priced(model_server, budget, tmp_path / "store", pace=Pace(64, requests_per_minute=300))
    assert statuses(made(managed)) == Counter({"pending": 294, "done": 6})
    assert time.monotonic() - started < 15
    times = [call.time for call in model_server.calls]
    assert times[-1] - times[0] > 5 * 0.2 - 0.125, "those that are made keep to it"


KILLED = """
import sys
from pathlib import Path
from tests.model_server import ModelServer
from tests.test_budget import Budget, PROMPTS, made, priced

class Server:
    openai_url = sys.argv[1]

made(priced(Server(), Budget(max_images=90, ledger=Path(sys.argv[2])), Path(sys.argv[3])), PROMPTS)
"""


def test_killed_run_leaves_a_budget_that_is_never_exceeded(
    model_server: ModelServer, ledger: Path, tmp_path: Path
) -> None:
    model_server.latency = 0.6
    store = tmp_path / "store"
    arguments = [sys.executable, "-c", KILLED, model_server.openai_url, str(ledger), str(store)]
    with subprocess.Popen(arguments, cwd=Path(__file__).parents[1]) as process:
        model_server.wait_for_calls(85, timeout=60)
        process.kill()
    calls = model_server.calls
    lost = len(calls) - len(list(store.glob("*/*.json")))
    assert lost >= 30, "it was killed with many calls in flight"
    model_server.latency = 0.0
    came = made(priced(model_server, Budget(max_images=90, ledger=ledger), store))
    assert len(calls) <= len(model_server.calls) <= 90, "what was in flight may have been paid for"
    assert statuses(came)["pending"] == len(PROMPTS) - statuses(came)["done"] > 0

    more = made(priced(model_server, Budget(max_images=500, ledger=ledger), store))
    assert statuses(more) == Counter({"done": len(PROMPTS)})
    asked = Counter(model_server.prompts)
    assert sum(asked.values()) - len(asked) == lost, "and these alone are paid for again"
