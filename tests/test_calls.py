"""What a custom model or task may do wrong, and that it neither hangs a run nor costs an image twice."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from pydantic import PrivateAttr

from imagetask import ImageGeneration
from imagetask.errors import GenerationError, ImageError, RunStopped, StorageError, TaskError
from imagetask.images import Image, encode_picture
from imagetask.models import AsyncImageGenerationModel, Generation, ImageGenerationModel, ImageRequest
from imagetask.models.managed import ManagedModel
from imagetask.store import GenerationStore

SECRET = "sk-verysecret1234567890"
GOOD = [f"prompt {number}" for number in range(5)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> GenerationStore:
    return GenerationStore(tmp_path / "store")


def painted(info: Any = None) -> Image:
    return Image.from_bytes(encode_picture(PILImage.linear_gradient("L").resize((16, 16)), "PNG"), info)


class Local(ImageGenerationModel):
    """A local model that gives whatever `answer` gives for the batch."""

    answer: Callable[[Sequence[ImageRequest]], Any]
    batch_size: int = 4

    @property
    def model_name(self) -> str:
        return "local"

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        given: list[Image | GenerationError] = self.answer(requests)
        return given


class Hosted(AsyncImageGenerationModel):
    """A hosted model that gives whatever `answer` gives for a prompt; notes its calls, and when it is opened."""

    answer: Callable[[str], Any]
    _asked: list[str] = PrivateAttr(default_factory=list)
    _log: list[str] = PrivateAttr(default_factory=list)

    @property
    def model_name(self) -> str:
        return "hosted"

    def load(self) -> None:
        self._log.append("load")

    def unload(self) -> None:
        self._log.append("unload")

    async def agenerate(self, request: ImageRequest) -> Image:
        self._asked.append(request.prompt)
        given: Image = self.answer(request.prompt)
        return given


def raising(error: BaseException) -> Callable[[Any], Any]:
    def answer(asked: Any) -> Any:
        raise error

    return answer


def failing(bad: dict[str, GenerationError]) -> Callable[[str], Image]:
    """An answer that is an image but for the bad prompts."""

    def answer(prompt: str) -> Image:
        if prompt in bad:
            raise bad[prompt]
        return painted()

    return answer


def made(
    model: ImageGenerationModel, prompts: Sequence[Any], store: GenerationStore | None = None, **kwargs: Any
) -> list[Generation]:
    """One generation for each prompt, by a `ManagedModel` of its own, as each run has one; never waits for ever."""
    outcome: list[list[Generation] | BaseException] = []

    def work() -> None:
        try:
            with ManagedModel(model, store=store) as managed:
                outcome.append([one for [one] in managed.generate_outputs(prompts, **kwargs)])
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert outcome, "the run hangs"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


# --- answers that are no image ----------------------------------------------------------------------------------------

PICTURE = PILImage.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda requests: None, r"must return an Image or a GenerationError for each request, not None"),
        (lambda requests: [None] * len(requests), r"for each request, not None"),
        (lambda requests: [PICTURE] * len(requests), r"for each request, not PIL\.Image\.Image"),
        (lambda requests: "abcd"[: len(requests)], r"for each request, not str"),
        (lambda requests: [painted()] * (len(requests) + 1), r"gave 2 results for 1 requests"),
    ],
)
def test_local_model_that_gives_no_images_stops_the_run_and_says_what_it_must_give(
    answer: Callable[[Any], Any], says: str
) -> None:
    with pytest.raises(RunStopped, match=rf"config: Local\.generate .*{says}"):
        made(Local(answer=answer), ["a cat"])


@pytest.mark.parametrize("error", [StopIteration("no more"), SystemExit(2), ValueError("no brush")])
def test_local_model_that_raises_anything_fails_its_row(error: BaseException) -> None:
    [failed] = made(Local(answer=raising(error)), ["a cat"])
    assert (failed.error_kind, failed.attempts) == ("unknown", 2)
    assert str(failed.error_message).startswith(type(error).__name__)


@pytest.mark.parametrize(("given", "name"), [(None, "None"), ("iVBORw0", "str"), (PICTURE, r"PIL\.Image\.Image")])
def test_hosted_model_that_gives_no_image_stops_the_run_after_a_handful_of_calls(given: Any, name: str) -> None:
    model = Hosted(answer=lambda prompt: given)
    with pytest.raises(RunStopped, match=rf"config: Hosted\.agenerate must return an Image, not {name}"):
        made(model, [f"prompt {number}" for number in range(40)])
    assert 1 <= len(model._asked) <= 4


@pytest.mark.parametrize(
    ("again", "kind"),
    [
        (raising(ImageError("cut short")), "corrupt_image"),
        (raising(ConnectionError("lost")), "unknown"),
    ],
)
def test_second_download_that_fails_in_another_way_is_classified_too(again: Callable[[Any], Any], kind: str) -> None:
    async def fetch() -> Any:
        again(None)

    fetching: Callable[[], Awaitable[Any]] = fetch
    [failed] = made(Hosted(answer=raising(GenerationError("download", "the link is dead", again=fetching))), ["a cat"])
    assert failed.error_kind == kind


def test_second_download_that_gives_no_image_stops_the_run() -> None:
    async def fetch() -> bytes:
        return b"bytes"

    with pytest.raises(RunStopped, match="must return an Image, not bytes"):
        made(Hosted(answer=raising(GenerationError("download", "the link is dead", again=fetch))), ["a cat"])


@pytest.mark.parametrize("kind", [Hosted, Local])
def test_message_of_an_unknown_failure_is_short_and_holds_no_secret(
    kind: type[Hosted] | type[Local],
) -> None:
    error = ValueError(f"refused {SECRET} at https://user:pw@host/x?signature=abc\n" + "long " * 200)
    [failed] = made(kind(answer=raising(error)), ["a cat"])
    message = failed.error_message or ""
    assert message.startswith("ValueError: refused *** at https://host/x long")
    assert len(message) <= 300
    assert "\n" not in message


# --- what JSON cannot hold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "kwargs", "name"),
    [
        (ImageRequest("a cat", extra={"mask": {1, 2}}), {}, "mask"),
        (ImageRequest("a cat", extra={"picture": painted()}), {}, "picture"),
        (ImageRequest("a cat", extra={"mixed": {"a": 1, 2: "b"}}), {}, "mixed"),
        (ImageRequest("a cat", guidance_scale=float("nan")), {}, "guidance_scale"),
        (ImageRequest("a cat", seed=object()), {}, "seed"),  # type: ignore[arg-type]
        ("a cat", {"palette": b"raw"}, "palette"),
    ],
)
def test_parameter_that_is_not_json_fails_its_row_without_a_call_and_is_named(
    request_: str | ImageRequest, kwargs: dict[str, Any], name: str, store: GenerationStore
) -> None:
    model = Hosted(answer=lambda prompt: painted())
    [failed] = made(model, [request_], store, **kwargs)
    assert (failed.error_kind, failed.attempts, model._asked) == ("invalid_input", 0, [])
    assert f"the parameter {name!r} is not JSON" in str(failed.error_message)


def _in_itself() -> dict[str, Any]:
    info: dict[str, Any] = {}
    info["self"] = info
    return info


@pytest.mark.parametrize(
    ("info", "kept"),
    [
        ({"path": Path("a"), "cost": 2}, {"path": "a", "cost": 2}),
        ({(1, 2): "tuple", "cost": 2}, {"cost": 2}),
        (_in_itself(), {"unreadable": "Circular reference detected"}),
    ],
)
def test_image_is_kept_whatever_the_backend_said_beside_it(
    info: dict[Any, Any], kept: dict[str, Any], store: GenerationStore
) -> None:
    model = Hosted(answer=lambda prompt: painted(info))
    for _ in range(2):
        [one] = made(model, ["a cat"], store)
        assert (one.status, one.info) == ("done", kept)
    assert model._asked == ["a cat"]


def test_image_of_a_prompt_with_half_a_character_is_kept(store: GenerationStore) -> None:
    model = Hosted(answer=lambda prompt: painted())
    [first], [again] = made(model, ["cat \ud83d"], store), made(model, ["cat \ud83d"], store)
    assert (first.status, again.reused, again.prompt) == ("done", True, "cat \ud83d")
    assert len(model._asked) == 1


# --- failures that are final for the run ------------------------------------------------------------------------------


def test_chunk_that_is_tried_again_asks_for_none_of_its_failed_rows_again(store: GenerationStore) -> None:
    bad = {"bad": GenerationError("server", "down"), "late": GenerationError("timeout", "slow")}
    model = Hosted(answer=failing(bad))
    with ManagedModel(model, store=store) as managed:
        for _ in range(2):
            results = managed.for_rows([0, 0, 0]).generate_outputs(["bad", "late", "a cat"])
            assert [(one.error_kind, one.attempts) for [one] in results] == [("server", 5), ("timeout", 2), (None, 1)]
    assert sorted(model._asked) == ["a cat", *["bad"] * 5, *["late"] * 2]
    assert [one.error_kind for one in made(model, ["bad"], store)] == ["server"]
    assert model._asked.count("bad") == 10


def test_failure_without_a_store_is_asked_again() -> None:
    model = Hosted(answer=failing({"bad": GenerationError("server", "down")}))
    with ManagedModel(model) as managed:
        for _ in range(2):
            managed.generate_outputs(["bad"])
    assert model._asked == ["bad"] * 10


def test_run_that_was_stopped_at_its_start_leaves_all_rows_to_be_asked_again(store: GenerationStore) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    broken = Hosted(answer=raising(GenerationError("invalid_input", "unknown size")))
    for _ in range(2):
        broken._asked.clear()
        with pytest.raises(RunStopped, match="first 5 rows all failed alike"):
            made(broken, prompts, store)
        assert 5 <= len(broken._asked) <= 12
    mended = Hosted(answer=lambda prompt: painted())
    assert {one.status for one in made(mended, prompts, store)} == {"done"}
    assert sorted(mended._asked) == sorted(prompts)


@pytest.mark.parametrize("prompts", [["bad", *GOOD], [*GOOD, "bad"], ["bad", "prompt 0"]])
def test_invalid_row_of_a_run_that_went_on_is_not_asked_again(prompts: list[str], store: GenerationStore) -> None:
    model = Hosted(answer=failing({"bad": GenerationError("invalid_input", "too long")}))
    for _ in range(2):
        kinds = [one.error_kind for one in made(model, prompts, store)]
        assert kinds == ["invalid_input" if prompt == "bad" else None for prompt in prompts]
    assert model._asked.count("bad") == 1


def test_remembered_failures_do_not_hide_that_all_first_calls_fail(store: GenerationStore) -> None:
    refused = [f"refused {number}" for number in range(6)]
    made(Hosted(answer=raising(GenerationError("refused", "no"))), refused, store)
    model = Hosted(answer=raising(GenerationError("invalid_input", "unknown size")))
    with pytest.raises(RunStopped, match="first 5 rows all failed alike"):
        made(model, [*refused, *(f"prompt {number}" for number in range(20))], store)
    assert len(model._asked) <= 12


def test_remembered_images_show_that_a_run_works(store: GenerationStore) -> None:
    made(Hosted(answer=lambda prompt: painted()), GOOD, store)
    bad = [f"bad {number}" for number in range(6)]
    model = Hosted(answer=raising(GenerationError("invalid_input", "too long")))
    with ManagedModel(model, store=store) as managed:
        managed.generate_outputs(GOOD)
        kinds = [one.error_kind for [one] in managed.generate_outputs(bad)]
    assert kinds == ["invalid_input"] * 6


def test_refusal_is_not_counted_as_a_reused_image(store: GenerationStore) -> None:
    model = Hosted(answer=failing({"bad": GenerationError("refused", "no")}))
    made(model, ["bad", "a cat"], store)
    with ManagedModel(model, store=store) as managed:
        managed.generate_outputs(["bad", "a cat"])
    assert (managed.tally.done, managed.tally.reused, managed.tally.failed) == (1, 1, {"refused": 1})


# --- views and tasks --------------------------------------------------------------------------------------------------


def test_view_opens_the_model_once_for_all_and_never_closes_it() -> None:
    model = Hosted(answer=lambda prompt: painted())
    managed = ManagedModel(model)
    views = [managed.for_rows([0]) for _ in range(3)]
    threads = [threading.Thread(target=view.load) for view in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    views[0].unload()
    with views[1].for_rows([0]) as inner:
        [[one]] = inner.generate_outputs(["a cat"])
    assert one.status == "done"
    assert model._log == ["load"]
    managed.unload()
    assert model._log == ["load", "unload"]


class Raising(ImageGeneration):
    """Its code raises `error`, in `format_input` or in `format_output`."""

    error: Any
    where: str

    def format_input(self, input: dict[str, Any]) -> str | ImageRequest:
        if self.where == "format_input":
            raise self.error
        return super().format_input(input)

    def format_output(self, output: Image, input: dict[str, Any]) -> dict[str, Any]:
        raise self.error


@pytest.mark.parametrize("where", ["format_input", "format_output"])
@pytest.mark.parametrize("error", [StorageError("the disk is full"), RunStopped("auth", "no key"), TaskError("wrong")])
def test_store_that_fails_in_a_tasks_code_is_no_fault_of_the_row(error: Exception, where: str) -> None:
    model = Hosted(answer=lambda prompt: painted())
    task = Raising(image_generation_model=model, error=error, where=where)
    with pytest.raises(type(error)) as caught:
        list(task.process([{"prompt": "a cat"}]))
    assert caught.value is error


@pytest.mark.parametrize("where", ["format_input", "format_output"])
@pytest.mark.parametrize("error", [ImageError("no picture"), KeyError("title"), GenerationError("refused", "not it")])
def test_error_of_a_tasks_own_code_fails_its_row(error: Exception, where: str) -> None:
    model = Hosted(answer=lambda prompt: painted())
    task = Raising(image_generation_model=model, error=error, where=where)
    [[row]] = task.process([{"prompt": "a cat"}])
    assert (row["error_kind"], row["image"]) == ("task", None)
    assert row["error_message"] == f"{where} raised {type(error).__name__}: {error}"


@pytest.mark.parametrize("where", ["format_input", "format_output"])
def test_message_of_a_tasks_failure_is_short_and_holds_no_secret(where: str) -> None:
    model = Hosted(answer=lambda prompt: painted())
    error = ValueError(f"refused {SECRET} here\n" + "long " * 200)
    [[row]] = Raising(image_generation_model=model, error=error, where=where).process([{"prompt": "a cat"}])
    assert row["error_message"].startswith(f"{where} raised ValueError: refused *** here long")
    assert len(row["error_message"]) <= 300
