"""Breakers: what stops a run because too much fails, from how many on, and with which numbers in its message."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from imagetask.errors import ErrorKind, GenerationError, RunStopped
from imagetask.models import Generation, load_model
from imagetask.models.breakers import Breakers
from imagetask.models.managed import ManagedModel
from imagetask.store import GenerationStore
from tests.model_server import Fault, ModelServer

SERVER: list[ErrorKind | None] = ["server"] * 200
REFUSED: list[ErrorKind | None] = ["refused"] * 200
HALF: list[ErrorKind | None] = [None, "server"] * 100
PROMPTS = [f"teapot {number}" for number in range(160)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.001)


def managed(server: ModelServer, store: Path, breakers: Breakers | None = None, **options: Any) -> ManagedModel:
    """By default one call at a time, so that rows are answered in their order."""
    model = load_model("openai:m", base_url=server.openai_url, api_key="k", timeout=options.pop("timeout", 10.0))
    given = {"max_concurrency": 1, "breakers": breakers or Breakers(proven=True), **options}
    return ManagedModel(model, store=GenerationStore(store), **given)


def made(model: ManagedModel, prompts: Sequence[str] = PROMPTS) -> list[Generation]:
    with model:
        return [one for [one] in model.generate_outputs(prompts)]


def rows(breakers: Breakers, *outcomes: ErrorKind | None) -> int:
    """Tells of rows one after another; how many until it trips, or all."""
    for number, kind in enumerate(outcomes, start=1):
        try:
            breakers.note_row(breakers.start_row(), kind, None if kind is None else f"it said {kind}")
        except RunStopped:
            return number
    return len(outcomes)


# --- the first rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["server_error", "hang", "truncated_image", "prompt_too_long"])
def test_first_five_rows_that_fail_alike_stop_the_run_and_it_goes_on_when_the_cause_is_gone(
    fault: str, model_server: ModelServer, tmp_path: Path
) -> None:
    kinds = {"server_error": "server", "hang": "timeout", "truncated_image": "corrupt_image"}
    timeout = 0.1 if fault == "hang" else 10.0
    model_server.fail(None, fault, forever=True)
    with pytest.raises(
        RunStopped, match=r"the first 5 rows all failed alike: .*; .* run the same command again"
    ) as caught:
        made(managed(model_server, tmp_path, Breakers(), max_concurrency=8, timeout=timeout), PROMPTS[:30])
    assert caught.value.kind == kinds.get(fault, "invalid_input")
    model_server.recover()
    assert {one.status for one in made(managed(model_server, tmp_path), PROMPTS[:30])} == {"done"}


@pytest.mark.parametrize(
    ("fault", "breakers"), [("refused", Breakers()), ("server_error", Breakers(proven=True))], ids=["refused", "proven"]
)
def test_first_rows_say_nothing_where_they_are_refused_or_the_folder_has_images(
    fault: str, breakers: Breakers, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(None, fault, forever=True)
    assert {one.status for one in made(managed(model_server, tmp_path, breakers), PROMPTS[:30])} == {"failed"}


def test_first_rows_that_fail_in_several_ways_do_not_stop_the_run() -> None:
    assert rows(Breakers(), "server", "server", "timeout", "server", "server", *SERVER[:20]) == 25
    assert rows(Breakers(), "server", "server", "server", "server", None, *SERVER[:20]) == 25


# --- shares -----------------------------------------------------------------------------------------------------------


def test_more_than_half_of_a_hundred_rows_that_fail_stop_the_run_and_the_same_command_goes_on(
    model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(lambda prompt: int(prompt.split()[1]) % 3 != 0, "truncated_image", forever=True)
    with pytest.raises(RunStopped) as caught:
        made(managed(model_server, tmp_path))
    assert caught.value.kind == "corrupt_image"
    assert caught.value.message.startswith("51 of 100 rows in a row failed, the last with: damaged or cut short")
    assert caught.value.message.endswith("or allow a larger share with --max-failed-share")
    kept = model_server.counts().delivered
    assert kept > 20
    model_server.recover()
    model_server.reset()
    assert {one.status for one in made(managed(model_server, tmp_path))} == {"done"}
    assert len(model_server.calls) == 160 - kept, "what came is kept, what failed is asked again"


def test_shares_are_those_of_a_hundred_rows_in_a_row_from_fifty_on() -> None:
    assert rows(Breakers(proven=True), *HALF) == 200, "half is not more than half"
    assert rows(Breakers(proven=True), *SERVER[:49]) == 49, "too few to tell"
    assert rows(Breakers(proven=True), *SERVER[:60]) == 50
    assert rows(Breakers(proven=True), *[None] * 500, *SERVER[:100]) == 550
    assert rows(Breakers(0.1, proven=True), *[None] * 60, *SERVER[:100]) == 67
    assert rows(Breakers(1.0, 1.0, proven=True), *SERVER, *REFUSED) == 400
    assert rows(Breakers(0.0, proven=True), *[None] * 60, "timeout") == 61


def test_rows_count_among_those_that_started_with_them_in_whatever_order_they_end() -> None:
    breakers = Breakers(proven=True)
    numbers = [breakers.start_row() for _ in range(300)]
    for number in [*numbers[:50], *numbers[100:150], *numbers[200:250]]:
        breakers.note_row(number, "server", "down")
    with pytest.raises(RunStopped, match=r"51 of 100 rows in a row failed, the last with: down;"):
        breakers.note_row(numbers[170], "server", "down")


def test_refused_rows_have_a_share_of_their_own() -> None:
    """And count for that alone."""
    both: list[ErrorKind | None] = ["server", "refused", "refused", None, None]
    assert rows(Breakers(0.3, 0.5, proven=True), *both * 60) == 300
    assert rows(Breakers(0.5, 0.3, proven=True), *both * 60) <= 51
    assert rows(Breakers(0.1, 0.5, proven=True), *both * 60) <= 51


def test_refusals_above_the_share_stop_the_run_and_the_same_command_goes_on_with_a_larger_one(
    model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(lambda prompt: int(prompt.split()[1]) % 4 == 0, "refused", forever=True)
    with pytest.raises(RunStopped) as caught:
        made(managed(model_server, tmp_path, Breakers(0.5, 0.2)))
    assert caught.value.kind == "refused"
    assert caught.value.message.startswith("21 of 100 rows in a row were refused, the last with: HTTP 400: ")
    assert "safety system" in caught.value.message
    assert caught.value.message.endswith("or allow a larger share with --max-refused-share")
    generations = made(managed(model_server, tmp_path, Breakers(0.5, 0.3)))
    assert [one.error_kind for one in generations].count("refused") == 40
    assert len(model_server.calls) == 160, "refused rows are not asked again"


# --- no image for minutes ---------------------------------------------------------------------------------------------


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.breakers.NO_SUCCESS", 0.5)


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize(
    ("fault", "kind", "advice"),
    [
        (Fault("server_error", latency=0.1), "server", "run the same command again"),
        (Fault("rate_limited", retry_after=0.05), "rate_limited", "come back later"),
        (Fault("truncated_image", latency=0.1), "corrupt_image", "run the same command again"),
    ],
    ids=["server", "429", "corrupt"],
)
def test_no_image_for_ten_minutes_while_calls_fail_stops_the_run(
    fault: Fault, kind: str, advice: str, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(None, *["ok"] * 6, fault, shared=True, forever=True)
    with pytest.raises(RunStopped) as caught:
        made(managed(model_server, tmp_path, max_concurrency=4))
    assert caught.value.kind == kind
    number = sum(call.fault is not None for call in model_server.calls)
    assert "no image came for 0 minutes, while " in caught.value.message
    told = int(caught.value.message.split("while ")[1].split()[0])
    assert 5 <= told <= number
    assert f"{told} calls failed, the last with: " in caught.value.message
    assert advice in caught.value.message
    model_server.recover()
    assert {one.status for one in made(managed(model_server, tmp_path, max_concurrency=64))} == {"done"}
    assert len(model_server.delivered) == 160


def test_images_between_failures_keep_the_run_going(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.breakers.NO_SUCCESS", 0.2)
    breakers = Breakers()
    for _ in range(3):
        breakers.note_image()
        for _ in range(20):
            breakers.note_trouble(GenerationError("rate_limited", "slower"))
        time.sleep(0.25)
    with pytest.raises(RunStopped, match="while 21 calls failed, the last with: slower; come back later"):
        breakers.note_trouble(GenerationError("rate_limited", "slower"))


@pytest.mark.usefixtures("half_a_second")
def test_time_in_which_the_model_loads_does_not_count(model_server: ModelServer, tmp_path: Path) -> None:
    loading = Fault("loading", retry_after=0.3)
    model_server.fail(None, *[loading] * 6, *["server_error"] * 8, shared=True)
    started = time.monotonic()
    assert {one.status for one in made(managed(model_server, tmp_path), PROMPTS[:10])} <= {"done", "failed"}
    assert time.monotonic() - started > 0.7


def test_time_that_the_backend_told_to_wait_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.breakers.NO_SUCCESS", 0.05)
    breakers, trouble = Breakers(), GenerationError("server", "it is down")
    for _ in range(4):
        breakers.note_trouble(trouble)
    breakers.note_waiting(0.3)
    time.sleep(0.1)
    for _ in range(6):
        breakers.note_trouble(trouble)
    time.sleep(0.3)
    with pytest.raises(RunStopped, match="while 11 calls failed, the last with: it is down; mend"):
        breakers.note_trouble(trouble)


def test_time_without_any_call_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.breakers.NO_SUCCESS", 0.05)
    breakers = Breakers()
    breakers.note_image()
    time.sleep(0.1)
    for _ in range(4):
        breakers.note_trouble(GenerationError("timeout", "slow"))
