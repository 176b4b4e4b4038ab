"""ManagedModel: what makes a generation the one it is, and that no image is asked for twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from pydantic import PrivateAttr

from imagetask.errors import GenerationError, RunStopped
from imagetask.images import Image, encode_picture
from imagetask.models import Generation, ImageGenerationModel, ImageRequest, load_model
from imagetask.models.managed import ManagedModel
from imagetask.store import GenerationStore
from tests.model_server import Fault, ModelServer


def openai(server: ModelServer, **options: Any) -> ImageGenerationModel:
    return load_model("openai:m", **{"base_url": server.openai_url, "api_key": "sk-first-key-123456", **options})


def generations(managed: ManagedModel, inputs: Sequence[Any], number: int = 1, **kwargs: Any) -> list[list[Generation]]:
    """What the model gives; it is opened and closed."""
    with managed:
        return managed.generate_outputs(inputs, number, **kwargs)


def keys(
    model: ImageGenerationModel, request: str | ImageRequest = "a cat", number: int = 1, **kwargs: Any
) -> list[str]:
    """The keys of a request's generations."""
    [made] = generations(ManagedModel(model, **kwargs), [request], number, **model.get_generation_kwargs())
    assert all(one.error_kind is None for one in made)
    return [one.key for one in made]


# --- keys, seeds and ordinals -----------------------------------------------------------------------------------------


def test_key_is_the_same_whatever_the_secret_the_url_or_the_pace(model_server: ModelServer) -> None:
    first = keys(openai(model_server))
    assert keys(openai(model_server, api_key="sk-second-key-654321")) == first
    assert keys(openai(model_server, base_url=f"{model_server.url}/elsewhere/v1")) == first
    assert keys(openai(model_server), max_concurrency=1) == first


def test_url_is_in_the_key_only_where_no_model_id_names_the_model(model_server: ModelServer) -> None:
    one = load_model("openai", base_url=f"{model_server.url}/one/v1", api_key="k")
    other = load_model("openai", base_url=f"{model_server.url}/other/v1", api_key="another")
    assert keys(one) != keys(other)
    assert keys(one) == keys(load_model("openai", base_url=f"{model_server.url}/one/v1", api_key="another"))


def test_whatever_decides_the_pixels_changes_the_key(model_server: ModelServer) -> None:
    model = openai(model_server)
    found = [
        keys(model),
        keys(model, "a dog"),
        keys(model, seed=1),
        keys(model, ImageRequest("a cat", width=128, height=64)),
        keys(model, ImageRequest("a cat", negative_prompt="blur")),
        keys(model, ImageRequest("a cat", seed=5)),
        keys(model, ImageRequest("a cat", extra={"style": "vivid"})),
        keys(openai(model_server, size="128x128")),
        keys(load_model("openai:other", base_url=model_server.openai_url, api_key="k")),
        keys(load_model("inference-endpoints:m", base_url=model_server.model_url("m"), api_key="k")),
    ]
    assert len({key for [key] in found}) == len(found)


def test_parameters_for_all_requests_and_those_of_one_make_the_same_key(model_server: ModelServer) -> None:
    for_all = openai(model_server, generation_kwargs={"width": 64, "height": 64})
    assert keys(for_all) == keys(openai(model_server), ImageRequest("a cat", height=64, width=64))


def test_record_and_key_hold_no_secret_and_no_url(model_server: ModelServer, tmp_path: Path) -> None:
    generations(ManagedModel(openai(model_server), store=GenerationStore(tmp_path)), ["a cat"])
    [record] = tmp_path.rglob("*.json")
    assert "sk-first" not in record.read_text()
    assert "127.0.0.1" not in record.read_text()
    assert str(tmp_path) not in record.read_text()


def test_each_generation_of_a_prompt_has_a_seed_and_an_image_of_its_own(
    model_server: ModelServer, tmp_path: Path
) -> None:
    store = GenerationStore(tmp_path)
    [made] = generations(ManagedModel(openai(model_server), store=store), ["a cat"], 3)
    assert [one.generation for one in made] == [0, 1, 2]
    assert len({one.seed for one in made}) == len({one.image.sha256 for one in made if one.image}) == 3
    assert sorted(call.body["seed"] for call in model_server.calls) == sorted(one.seed for one in made if one.seed)
    [again] = generations(ManagedModel(openai(model_server), store=store), ["a cat"], 4)
    assert [one.reused for one in again] == [True, True, True, False]
    assert [one.key for one in again[:3]] == [one.key for one in made]
    assert len(model_server.calls) == 4


def test_seed_of_a_request_is_taken_for_its_first_generation(model_server: ModelServer) -> None:
    [made] = generations(ManagedModel(openai(model_server)), [ImageRequest("a cat", seed=7)], 2)
    assert made[0].seed == 7
    assert made[1].seed != 7
    assert sorted(call.body["seed"] for call in model_server.calls) == sorted([7, made[1].seed or 0])


def test_seed_is_recorded_but_not_sent_where_the_backend_has_none(model_server: ModelServer) -> None:
    model = load_model("openai:gpt-image-2", base_url=model_server.openai_url, api_key="k")
    [[one]] = generations(ManagedModel(model), ["a cat"])
    assert isinstance(one.seed, int)
    assert "seed" not in model_server.calls[0].body


def test_equal_prompts_get_different_images_and_their_order_gives_them_back(
    model_server: ModelServer, tmp_path: Path
) -> None:
    store = GenerationStore(tmp_path)
    prompts = ["a cat", "a dog", "a cat", "a cat"]
    made = [one for [one] in generations(ManagedModel(openai(model_server), store=store), prompts)]
    assert len({one.key for one in made}) == len({one.image.sha256 for one in made if one.image}) == 4
    again = [one for [one] in generations(ManagedModel(openai(model_server), store=store), prompts)]
    assert [one.key for one in again] == [one.key for one in made]
    assert len(model_server.calls) == 4


def test_ordinals_of_a_view_count_over_all_chunks(model_server: ModelServer) -> None:
    with ManagedModel(openai(model_server)) as managed:
        whole = [one.key for [one] in managed.generate_outputs(["a cat", "a cat", "a cat"])]
        first, second = managed.for_rows([0, 1]), managed.for_rows([2])
        split = first.generate_outputs(["a cat"]) + first.generate_outputs(["a cat"])
        split += second.generate_outputs(["a cat"])
        assert [one.key for [one] in split] == whole
        assert first.asked is not None
        assert [one.key for [one] in first.asked] == whole[:2]
        assert managed.asked is None


# --- one call for one key ---------------------------------------------------------------------------------------------


def test_equal_keys_in_flight_wait_for_one_call(model_server: ModelServer) -> None:
    model_server.latency = 0.4
    results: list[Generation] = []
    with ManagedModel(openai(model_server)) as managed:

        def ask() -> None:
            [[one]] = managed.for_rows([0]).generate_outputs(["a cat"])
            results.append(one)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(model_server.calls) == 1
    assert len(results) == 4
    assert len({one.image.sha256 for one in results if one.image}) == 1
    assert sorted(one.reused for one in results) == [False, True, True, True]


def test_equal_keys_in_flight_share_a_failure_too(model_server: ModelServer) -> None:
    model_server.fail("a cat", Fault("refused", latency=0.3), forever=True)
    kinds: list[str | None] = []
    with ManagedModel(openai(model_server)) as managed:

        def ask() -> None:
            [[one]] = managed.for_rows([0]).generate_outputs(["a cat"])
            kinds.append(one.error_kind)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert kinds == ["refused"] * 3
    assert len(model_server.calls) == 1


def test_image_is_durable_before_it_is_reported(model_server: ModelServer, tmp_path: Path) -> None:
    [[made]] = generations(ManagedModel(openai(model_server), store=GenerationStore(tmp_path)), ["a cat"])
    assert made.image is not None
    assert made.image.path is not None
    assert (tmp_path / made.image.path).read_bytes() == model_server.image_bytes(made.image.sha256)
    assert GenerationStore(tmp_path).get(made.key) is not None


def test_tally_counts_calls_images_reuse_and_failures_by_kind(model_server: ModelServer, tmp_path: Path) -> None:
    store = GenerationStore(tmp_path)
    generations(ManagedModel(openai(model_server), store=store), ["prompt 0", "prompt 1"])
    model_server.fail("bad", "refused")
    managed = ManagedModel(openai(model_server), store=store)
    generations(managed, ["prompt 0", "prompt 1", "prompt 2", "bad", None])
    tally = managed.tally
    assert (tally.done, tally.reused, tally.calls) == (3, 2, 2)
    assert tally.failed == {"refused": 1, "invalid_input": 1}


def test_stop_keeps_what_is_in_flight_and_starts_nothing_new(model_server: ModelServer, tmp_path: Path) -> None:
    model_server.latency = 0.6
    prompts = [f"prompt {number}" for number in range(30)]
    with ManagedModel(openai(model_server), store=GenerationStore(tmp_path)) as managed:
        outcome: list[BaseException] = []

        def ask() -> None:
            try:
                managed.generate_outputs(prompts)
            except RunStopped as error:
                outcome.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        model_server.wait_for_calls(4)
        managed.stop("interrupted", "a person asked")
        thread.join(20)
        assert [str(error) for error in outcome] == ["interrupted: a person asked"]
        with pytest.raises(RunStopped, match="a person asked"):
            managed.generate_outputs(["another"])
    paid = len(model_server.calls)
    assert len(list(tmp_path.rglob("*.json"))) == model_server.counts().delivered == paid < 30
    model_server.reset()
    model_server.latency = 0.0
    made = generations(ManagedModel(openai(model_server), store=GenerationStore(tmp_path)), prompts)
    assert all(one.status == "done" for [one] in made)
    assert len(model_server.calls) == 30 - paid


def test_hosted_model_works_alone_and_again_after_it_was_closed(model_server: ModelServer) -> None:
    model = openai(model_server)
    for _ in range(2):
        [[one, two], [_, _]] = model.generate_outputs(["a cat", "a dog"], num_generations=2)
        assert one.image is not None
        assert one.image.path is None
        assert one.image.data == model_server.image_bytes(one.image.sha256)
        assert two.image is not None
        assert two.image.sha256 != one.image.sha256
    assert len(model_server.calls) == 8


def test_managed_model_opens_again_after_it_was_closed(model_server: ModelServer) -> None:
    managed = ManagedModel(openai(model_server))
    for prompt in ("a cat", "a dog"):
        [[one]] = generations(managed, [prompt])
        assert one.status == "done"
        managed.unload()


# --- local models -----------------------------------------------------------------------------------------------------


class LocalModel(ImageGenerationModel):
    """A model in this process that paints one colour pair for each seed, and notes the batches it was given."""

    batch_size: int = 4
    _batches: list[list[ImageRequest]] = PrivateAttr(default_factory=list)
    _log: list[str] = PrivateAttr(default_factory=list)

    @property
    def model_name(self) -> str:
        return "local"

    def load(self) -> None:
        self._log.append("load")

    def unload(self) -> None:
        self._log.append("unload")

    def generate(self, requests: Sequence[ImageRequest]) -> list[Image | GenerationError]:
        self._batches.append(list(requests))
        self._log.append(threading.current_thread().name)
        time.sleep(0.02)
        if any("short" in request.prompt for request in requests):
            return []
        if any("crash" in request.prompt for request in requests):
            raise RuntimeError("out of memory")
        return [self._painted(request) for request in requests]

    def _painted(self, request: ImageRequest) -> Image | GenerationError:
        if "bad" in request.prompt:
            return GenerationError("refused", "not this one")
        assert request.seed is not None
        painted = PILImage.linear_gradient("L").resize((16, 16))
        painted.putpixel((0, 0), request.seed % 256)
        return Image.from_bytes(encode_picture(painted, "PNG"), {"seed": request.seed})


def test_local_model_is_given_batches_of_requests_one_at_a_time() -> None:
    model = LocalModel()
    made = [one for [one] in generations(ManagedModel(model), [f"prompt {number}" for number in range(22)])]
    assert [one.prompt for one in made] == [f"prompt {number}" for number in range(22)]
    assert [one.info["seed"] for one in made] == [one.seed for one in made]
    assert sum(len(batch) for batch in model._batches) == 22
    assert max(len(batch) for batch in model._batches) == 4
    assert len(model._batches) <= 10
    assert model._log[0] == "load"
    assert model._log[-1] == "unload"
    assert len(set(model._log[1:-1])) == 1


def test_local_model_may_fail_one_request_of_a_batch() -> None:
    made = [one for [one] in LocalModel().generate_outputs(["a cat", "a bad one", "a dog"])]
    assert [one.error_kind for one in made] == [None, "refused", None]


def test_local_model_that_raises_fails_its_batch_with_the_exceptions_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)
    [[one]] = LocalModel().generate_outputs(["crash"])
    assert (one.error_kind, one.attempts) == ("unknown", 2)
    assert one.error_message == "RuntimeError: out of memory"


def test_local_model_that_gives_too_few_results_stops_the_run() -> None:
    with pytest.raises(RunStopped, match=r"LocalModel\.generate gave 0 results for 1 requests"):
        LocalModel().generate_outputs(["short"])
