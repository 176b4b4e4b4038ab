"""The whole table of failures, over the wire: what each service answers, what kind that is, and what it gets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest
from PIL import Image as PILImage

from imagetask.errors import ErrorKind, GenerationError, RunStopped
from imagetask.images import Image, encode_picture
from imagetask.models.base import AsyncImageGenerationModel, Generation, ImageRequest
from imagetask.models.breakers import Breakers
from imagetask.models.budget import Budget
from imagetask.models.classify import classify_response
from imagetask.models.event_loop import event_loop
from imagetask.models.managed import ManagedModel
from imagetask.models.treatments import TREATMENTS
from imagetask.store import GenerationStore
from tests.failure_cases import (
    ANSWERED,
    BROKEN,
    BY_LINK,
    CASES,
    GETS,
    HANGING_CALLS,
    HANGING_RESULTS,
    LOST,
    SPOILED,
    WIRES,
    Case,
    Gets,
    Wire,
)
from tests.services import Services, make_model, prompt_of

T = TypeVar("T")
KEY = "canary/of-the-table+0815"
GOOD = [f"a good one, {number}" for number in range(4)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.005)


@pytest.fixture(scope="module")
def server() -> Iterator[Services]:
    with Services() as running:
        yield running


@pytest.fixture
def services(server: Services) -> Services:
    server.forget()
    return server


def cases_of(wire: Wire, what: str, among: Sequence[Case] = CASES) -> list[Case]:
    """The cases that this wire can have and that get this treatment there."""
    return [case for case in among if wire in case.wires and case.what_on(wire) == what]


def managed(model: AsyncImageGenerationModel, store: Path, **options: Any) -> ManagedModel:
    """No breaker trips: in a table of failures more than half fail."""
    breakers = Breakers(max_failed_share=1.0, max_refused_share=1.0, proven=True)
    return ManagedModel(model, store=GenerationStore(store), breakers=breakers, **options)


def generations(model: ManagedModel, prompts: Sequence[str]) -> list[Generation]:
    with model:
        return [generation for [generation] in model.generate_outputs(prompts)]


def test_treatments_are_those_of_the_table_of_failures() -> None:
    told = {}
    for kind, row in TREATMENTS.items():
        what = "stop" if row.stops else "wait" if row.waits else "fail row"
        told[kind] = Gets(what, 1 + row.retries, row.asked_again, row.maybe_billed)  # type: ignore[arg-type]
    assert told == GETS
    assert set(GETS) == set(get_args(ErrorKind))


def test_every_kind_that_a_service_can_answer_with_has_cases() -> None:
    assert set(GETS) - {case.kind for case in CASES} == {"task", "storage", "placeholder_image"}
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", ANSWERED, ids=str)
def test_answer_is_classified_by_its_body_before_its_status(case: Case) -> None:
    error = classify_response(
        case.status, {name.lower(): value for name, value in case.headers.items()}, str(case.body)
    )
    assert (error.kind, error.fatal, error.retry_after) == (case.kind, case.fatal, case.told)


def failures(model: AsyncImageGenerationModel, cases: Sequence[Case]) -> list[GenerationError | None]:
    """What the backend itself makes of each case, in one call each; None where it gives a picture."""

    async def one(case: Case) -> GenerationError | None:
        try:
            await model.agenerate(ImageRequest(prompt_of(case), seed=1))
        except GenerationError as error:
            return error
        except ValueError as error:  # an ImageError: what is called from here takes it for a corrupt image
            return GenerationError("corrupt_image", str(error))
        return None

    async def every() -> list[GenerationError | None]:
        return await asyncio.gather(*map(one, cases))

    return loaded(model, every())


def loaded(model: AsyncImageGenerationModel, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives, done on the event loop while the model is loaded."""

    async def run() -> T:
        await model.aload()
        try:
            return await work
        finally:
            await model.aunload()

    model.load()
    try:
        return event_loop().run(run())
    finally:
        model.unload()


@pytest.mark.parametrize("wire", WIRES)
def test_every_backend_knows_every_answer_over_its_wire(
    wire: Wire, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case for case in (*ANSWERED, *LOST, *BROKEN) if wire in case.wires]
    answered = failures(make_model(wire, services, KEY, monkeypatch), cases)
    told = {str(case): error and (error.kind, error.fatal) for case, error in zip(cases, answered, strict=True)}
    assert told == {str(case): (case.kind_on(wire), case.fatal) for case in cases}
    assert [error.retry_after for error in answered if error] == [case.told for case in cases]
    for error in answered:
        assert error is not None
        assert len(error.message) <= 300
        assert error.message.isprintable()
        assert KEY not in error.message
    assert len(services.seen) == len(cases), "a client's own retries are off"


@pytest.mark.parametrize("wire", WIRES)
def test_lasting_failure_costs_its_row_what_the_table_says_and_no_other_row(
    wire: Wire, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = cases_of(wire, "fail row", (*ANSWERED, *SPOILED, *LOST, *BROKEN))
    prompts = [*map(prompt_of, cases), *GOOD]
    made = generations(managed(make_model(wire, services, KEY, monkeypatch), tmp_path), prompts)
    told = {str(case): (one.error_kind, one.attempts) for case, one in zip(cases, made, strict=False)}
    assert told == {str(case): (case.kind_on(wire), GETS[case.kind_on(wire)].calls) for case in cases}
    calls = {str(case): len(services.calls_of(case)) for case in cases}
    assert calls == {name: attempts for name, (_, attempts) in told.items()}
    assert [(one.status, one.attempts) for one in made[len(cases) :]] == [("done", 1)] * len(GOOD)
    billed = {str(case) for case, one in zip(cases, made, strict=False) if one.maybe_billed}
    assert billed == {str(case) for case in cases if GETS[case.kind_on(wire)].maybe_billed}

    services.forget()
    services.times = 0
    again = generations(managed(make_model(wire, services, KEY, monkeypatch), tmp_path), prompts)
    asked = {str(case) for case in cases if services.calls_of(case)}
    assert asked == {str(case) for case in cases if GETS[case.kind_on(wire)].asked_again}
    assert {str(case) for case, one in zip(cases, again, strict=False) if one.status == "done"} == asked


@pytest.mark.parametrize("wire", ["openai", "hub", "fal-ai"])
def test_answer_that_does_not_come_costs_two_calls_that_may_have_been_charged(
    wire: Wire, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = managed(make_model(wire, services, KEY, monkeypatch, timeout=0.5), tmp_path)
    made = generations(model, [*map(prompt_of, HANGING_CALLS)])
    assert [(one.error_kind, one.attempts, one.maybe_billed) for one in made] == [("timeout", 2, True)] * len(
        HANGING_CALLS
    )
    assert len(services.seen) == 2 * len(HANGING_CALLS)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A port at which nobody listens yet."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(10)
        yield bound


def url_of(port: socket.socket) -> str:
    return f"http://127.0.0.1:{port.getsockname()[1]}"


def serve_once(port: socket.socket, picture: bytes) -> None:
    connection, _ = port.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture)


@pytest.mark.parametrize("wire", ["openai", *BY_LINK])
def test_result_at_a_host_that_refuses_connections_was_paid_for_and_stops_no_run(
    wire: Wire, services: Services, tmp_path: Path, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.results_at = url_of(silent)
    budget = Budget(max_images=5)
    [made] = generations(managed(make_model(wire, services, KEY, monkeypatch), tmp_path, budget=budget), ["a cat"])
    assert (made.error_kind, made.attempts) == ("download", GETS["download"].calls)
    assert (len(services.seen), budget.images) == (2, 2)


@pytest.mark.parametrize("wire", ["openai", *BY_LINK])
def test_result_that_could_not_be_had_at_first_is_not_made_again(
    wire: Wire, services: Services, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.results_at = url_of(silent)
    model = make_model(wire, services, KEY, monkeypatch)
    picture = encode_picture(PILImage.effect_noise((40, 30), 60), "PNG")

    async def fetched_at_the_third_time() -> Image:
        call: Callable[[], Awaitable[Image]] = partial(model.agenerate, ImageRequest("a cat", seed=1))
        for _ in range(2):
            with pytest.raises(GenerationError, match="could not be fetched: Connect") as caught:
                await call()
            assert (caught.value.kind, caught.value.info) == ("download", {})
            assert caught.value.again is not None
            call = caught.value.again
        silent.listen()
        serving = asyncio.to_thread(serve_once, silent, picture)
        image, _ = await asyncio.gather(call(), serving)
        return image

    assert loaded(model, fetched_at_the_third_time()).data == picture
    assert len(services.seen) == 1


@pytest.mark.parametrize("wire", ["openai", *BY_LINK])
def test_result_that_does_not_come_in_time_is_a_download(
    wire: Wire, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = failures(make_model(wire, services, KEY, monkeypatch, timeout=2.0), HANGING_RESULTS)
    told = [error and (error.kind, error.again is not None, error.info) for error in answered]
    assert told == [("download", True, {})] * len(HANGING_RESULTS)


@pytest.mark.parametrize("wire", ["openai", "hub", "fal-ai"])
def test_call_waits_as_long_as_it_is_told_and_no_attempt_is_used(
    wire: Wire, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.times = 1
    cases = [case for case in cases_of(wire, "wait") if case.told is not None and case.told <= 0.5]
    assert {case.kind_on(wire) for case in cases} == {"rate_limited", "loading"}
    made = generations(managed(make_model(wire, services, KEY, monkeypatch), tmp_path), [*map(prompt_of, cases)])
    assert [(one.status, one.attempts) for one in made] == [("done", 1)] * len(cases)
    for case in cases:
        [(first, second)] = pairwise(seen.time for seen in services.calls_of(case))
        assert second - first >= (case.told or 0.25) - 0.02, case


STOPPING = [(wire, case) for wire in ("openai", "hub") for case in cases_of(wire, "stop")]


@pytest.mark.parametrize(("wire", "case"), STOPPING, ids=str)
def test_failure_that_needs_a_person_stops_the_run_after_a_handful_of_calls(
    wire: Wire, case: Case, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.everywhere = case
    prompts = [f"{number} of many" for number in range(12)]
    with pytest.raises(RunStopped) as caught:
        generations(managed(make_model(wire, services, KEY, monkeypatch), tmp_path), prompts)
    assert caught.value.kind == case.kind_on(wire)
    assert 1 <= len(services.seen) <= 5
    assert KEY not in str(caught.value)
    assert _says_what_to_do(case, str(caught.value))
    assert not [path for path in tmp_path.rglob("*.json") if path.is_file()], "nothing is remembered of its rows"


def _says_what_to_do(case: Case, message: str) -> bool:
    """A setting that is wrong is named by the service itself; the rest needs words of ours."""
    words = {
        "auth": "mend the credentials block",
        "billing": "see to the account's plan or credits",
        "account_blocked": "talk to its support",
        "rate_limited": "come back at 20",
        "loading": "resume the endpoint",
        "config": "HTTP",
    }
    return words[case.kind] in message


def test_run_that_was_stopped_goes_on_where_it_was(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"{number} of many" for number in range(12)]
    services.everywhere = cases_of("openai", "stop")[0]
    with pytest.raises(RunStopped):
        generations(managed(make_model("openai", services, KEY, monkeypatch), tmp_path), prompts)
    services.forget()
    made = generations(managed(make_model("openai", services, KEY, monkeypatch), tmp_path), prompts)
    assert ({one.status for one in made}, len(services.seen)) == ({"done"}, 12)
