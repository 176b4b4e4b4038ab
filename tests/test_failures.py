"""What becomes of a call that fails for a while, waits or stops, over both wires, with a store on disk.

What each kind of failure is and gets, service by service, is in test_failure_table.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from imagetask.errors import RunStopped
from imagetask.models import Generation, load_model
from imagetask.models.managed import ManagedModel
from imagetask.store import GenerationStore
from tests.model_server import Call, Fault, ModelServer

BAD = "the bad one"
GOOD = [f"prompt {number}" for number in range(7)]
KEY = "sk-secret-1234567890"
Make = Callable[..., ManagedModel]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)


@pytest.fixture(params=["openai", "huggingface"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(wire: str, model_server: ModelServer, tmp_path: Path) -> Make:
    """A new `ManagedModel` on the store of this test, as each run has one of its own."""

    def made(**options: Any) -> ManagedModel:
        openai = wire == "openai"
        url = model_server.openai_url if openai else model_server.model_url("m")
        fields = {"base_url": url, "api_key": KEY, "timeout": 20.0, **options}
        model = load_model("openai:m" if openai else "inference-endpoints:m", **fields)
        return ManagedModel(model, store=GenerationStore(tmp_path / "store"))

    return made


def answer(managed: ManagedModel, prompts: list[Any]) -> list[Generation]:
    """One generation for each prompt; the model is opened and closed."""
    with managed:
        return [generation for [generation] in managed.generate_outputs(prompts)]


def stopped(managed: ManagedModel, prompts: list[str]) -> RunStopped:
    """Why the run stopped, which it must; no secret is in the reason."""
    with pytest.raises(RunStopped) as caught:
        answer(managed, prompts)
    assert KEY not in str(caught.value)
    return caught.value


def seed_of(call: Call) -> object:
    return call.body.get("seed") or call.body.get("parameters", {}).get("seed")


def assert_as_sent(generation: Generation, server: ModelServer) -> None:
    """The image is byte for byte what the server sent for this prompt."""
    assert generation.image is not None
    assert server.delivered[generation.image.sha256].prompt == generation.prompt
    assert generation.image.data == server.image_bytes(generation.image.sha256)


# --- rows that fail, and what that costs ------------------------------------------------------------------------------


def test_row_that_fails_for_a_while_gets_its_image_with_the_attempts_it_took(
    make: Make, model_server: ModelServer
) -> None:
    model_server.fail("three errors", "server_error", "bad_gateway", "reset")
    model_server.fail("two bad files", "truncated_image", "html_page")
    model_server.fail("one time-out", "hang")
    generations = answer(make(timeout=2.5), ["three errors", "two bad files", "one time-out", *GOOD])
    assert [generation.status for generation in generations] == ["done"] * 10
    assert [generation.attempts for generation in generations[:4]] == [4, 3, 2, 1]
    assert [generation.maybe_billed for generation in generations[:4]] == [False, False, True, False]
    for generation in generations:
        assert_as_sent(generation, model_server)


def test_blank_image_is_asked_for_again_with_another_seed(make: Make, model_server: ModelServer) -> None:
    model_server.fail(BAD, "blank_image")
    [generation] = answer(make(), [BAD])
    seeds = [seed_of(call) for call in model_server.calls]
    assert generation.status == "done"
    assert len(set(seeds)) == len(seeds) == 2
    assert generation.seed == seeds[1]


@pytest.mark.parametrize(("times", "calls"), [(3, 1), (4, 2)])
def test_lost_download_is_fetched_three_times_more_before_a_new_image_is_made(
    times: int, calls: int, model_server: ModelServer, tmp_path: Path
) -> None:
    model_server.fail(BAD, Fault("result_gone", times=times))
    model_server.answers = "url"
    model = load_model("openai:m", base_url=model_server.openai_url, api_key=KEY)
    [generation] = answer(ManagedModel(model, store=GenerationStore(tmp_path)), [BAD])
    assert (generation.status, generation.attempts) == ("done", calls)
    assert len(model_server.calls) == calls
    assert_as_sent(generation, model_server)


def test_prompt_that_is_no_text_fails_without_a_call(make: Make, model_server: ModelServer) -> None:
    *bad, good = answer(make(), [None, "", " \n", 7, "a cat"])
    assert [(one.error_kind, one.attempts) for one in bad] == [("invalid_input", 0)] * 4
    assert [one.error_message for one in bad] == [
        "the prompt is null",
        "the prompt is empty",
        "the prompt is empty",
        "the prompt is no text but int",
    ]
    assert good.status == "done"
    assert model_server.prompts == ["a cat"]


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault("rate_limited", retry_after=0.6), 0.6),
        (Fault("rate_limited_text"), 0.232),
        (Fault("rate_limited", retry_after="0.0"), 0.2),
        (Fault("loading", retry_after=0.5), 0.5),
        (Fault("scaled_to_zero", retry_after=0.5), 0.5),
    ],
    ids=lambda value: str(getattr(value, "name", "")),
)
def test_call_waits_as_long_as_it_is_told_and_no_attempt_is_used(
    fault: Fault, seconds: float, make: Make, model_server: ModelServer
) -> None:
    model_server.fail(BAD, fault, fault)
    [generation] = answer(make(), [BAD])
    times = [call.time for call in model_server.calls]
    assert (generation.status, generation.attempts, len(times)) == ("done", 1, 3)
    for earlier, later in pairwise(times):
        assert seconds <= later - earlier < seconds + 1.0


def test_model_that_is_still_loading_after_the_warm_up_budget_stops_the_run(
    make: Make, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.models.recovery.LONGEST_WAIT", 0.5)
    model_server.fail(None, Fault("loading", retry_after=0.2), forever=True)
    error = stopped(make(), GOOD)
    assert error.kind == "loading"
    assert "still loading" in error.message
    assert len(model_server.calls) <= 20


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_message_about_a_key_names_where_it_comes_from(
    wire: str, make: Make, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_server.require_key = "another"
    variable = {"openai": "OPENAI_API_KEY", "huggingface": "HF_TOKEN"}[wire]
    message = stopped(make(), GOOD).message
    assert "mend the credentials block, or the api_key that was given" in message
    assert variable not in message
    monkeypatch.setenv(variable, KEY)
    assert f"set {variable}, or name a credentials block" in stopped(make(api_key=None), GOOD).message


def test_what_is_in_flight_at_a_stop_finishes_and_is_kept(make: Make, model_server: ModelServer) -> None:
    model_server.latency = 2.0
    model_server.fail(None, Fault("payment_required", latency=0.2), shared=True)
    prompts = [f"{number} of many" for number in range(20)]
    assert stopped(make(), prompts).kind == "billing"
    paid = {call.prompt for call in model_server.delivered.values()}
    assert len(model_server.calls) == len(paid) + 1
    assert 1 <= len(paid) < 10

    model_server.reset()
    model_server.latency = 0.0
    assert {generation.status for generation in answer(make(), prompts)} == {"done"}
    assert sorted(model_server.prompts) == sorted(set(prompts) - paid)


def test_server_that_was_never_reached_stops_the_run(make: Make, model_server: ModelServer) -> None:
    managed = make()
    model_server.stop()
    error = stopped(managed, GOOD)
    assert error.kind == "server"
    assert "cannot be reached" in error.message
    assert model_server.url in error.message


def test_first_five_prompts_that_are_all_invalid_stop_the_run(make: Make, model_server: ModelServer) -> None:
    model_server.fail(None, Fault("prompt_too_long", latency=0.3), forever=True)
    error = stopped(make(), [f"{number} of many" for number in range(60)])
    assert error.kind == "invalid_input"
    assert "first 5 rows all failed alike" in error.message
    assert 5 <= len(model_server.calls) <= 12
