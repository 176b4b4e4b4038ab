"""The task contract of DESIGN.md, over every backend, without a pipeline."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from imagetask import (
    ImageGeneration,
    ImageGenerationModel,
    ImageRequest,
    ImageTask,
    InferenceEndpointsImageGeneration,
    ManagedModel,
    OpenAIImageGeneration,
    PlaceholderImageGeneration,
    image_from_str,
    load_model,
)
from imagetask.models import BACKENDS
from tests import custom_tasks
from tests.model_server import ModelServer

NAME = "studio/painter-1"
HOSTED = ("inference-endpoints", "openai")
PROMPTS = ["a white siamese cat", "a red bicycle", "a teapot in the rain"]


def open_backend(backend: str, server: ModelServer) -> ImageGenerationModel:
    """A model of the backend; a hosted one calls the server."""
    urls = {"openai": server.openai_url, "inference-endpoints": server.model_url(NAME)}
    return load_model(f"{backend}:{NAME}", base_url=urls[backend]) if backend in urls else load_model(backend)


@pytest.fixture(params=list(BACKENDS))
def model(request: pytest.FixtureRequest, model_server: ModelServer) -> ImageGenerationModel:
    """A model of each backend that is registered."""
    return open_backend(request.param, model_server)


@pytest.fixture(params=HOSTED)
def hosted(request: pytest.FixtureRequest, model_server: ModelServer) -> ImageGenerationModel:
    """A model of each backend with a server behind it."""
    return open_backend(request.param, model_server)


def rows_of(task: ImageTask, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows that a task yields, from load to unload."""
    task.load()
    try:
        return [row for batch in task.process(inputs) for row in batch]
    finally:
        task.unload()


def test_the_example_of_the_contract_runs_as_written(model_server: ModelServer) -> None:
    url = model_server.model_url("black-forest-labs/FLUX.1-schnell")
    task = ImageGeneration(
        name="image-generation",
        image_generation_model=InferenceEndpointsImageGeneration(
            model_id="black-forest-labs/FLUX.1-schnell", base_url=url
        ),
    )
    task.load()
    [row] = next(task.process([{"prompt": "a white siamese cat"}]))
    task.unload()

    [call] = model_server.calls
    assert row["prompt"] == call.prompt == "a white siamese cat"
    assert row["model_name"] == "black-forest-labs/FLUX.1-schnell"
    assert row["image"].startswith("iVBORw0KGgoAAAANSUhEUgA")
    assert base64.b64decode(row["image"]) == model_server.image_bytes(str(call.sha256))
    assert call.body["inputs"] == "a white siamese cat"


def test_the_example_of_the_contract_runs_with_openai_and_placeholder_models(model_server: ModelServer) -> None:
    for model, name in (
        (OpenAIImageGeneration(model="gpt-image-2", base_url=model_server.openai_url), "gpt-image-2"),
        (PlaceholderImageGeneration(), "placeholder"),
    ):
        task = ImageGeneration(name="image-generation", image_generation_model=model)
        task.load()
        [row] = next(task.process([{"prompt": "a white siamese cat"}]))
        task.unload()
        assert row["model_name"] == name
        assert image_from_str(row["image"]).size > (0, 0)
    [call] = model_server.calls
    assert "seed" not in call.body, "GPT image models have no seed"


def test_every_row_is_answered_in_its_place_with_its_columns(model: ImageGenerationModel) -> None:
    task = ImageGeneration(image_generation_model=model)
    inputs = [{"id": number, "prompt": prompt} for number, prompt in enumerate(PROMPTS)]

    rows = rows_of(task, inputs)

    assert [(row["id"], row["prompt"]) for row in rows] == list(enumerate(PROMPTS))
    assert {row["model_name"] for row in rows} == {model.model_name}
    assert {row["status"] for row in rows} == {"done"}
    assert {row["attempts"] for row in rows} == {1}
    assert len({row["image"] for row in rows}) == 3
    assert all(min(image_from_str(row["image"]).size) > 0 for row in rows)
    assert isinstance(task.llm, ManagedModel)
    assert task.image_generation_model is task.llm


def test_the_text_of_an_image_is_the_very_bytes_of_the_server(
    hosted: ImageGenerationModel, model_server: ModelServer
) -> None:
    rows = rows_of(ImageGeneration(image_generation_model=hosted), [{"prompt": prompt} for prompt in PROMPTS])

    for row in rows:
        [call] = model_server.calls_for(row["prompt"])
        assert base64.b64decode(row["image"]) == model_server.image_bytes(str(call.sha256))
        sent = call.body.get("seed") if call.wire == "openai" else call.body["parameters"]["seed"]
        assert row["seed"] == sent


def test_a_task_works_again_after_it_was_unloaded(model: ImageGenerationModel) -> None:
    task = ImageGeneration(image_generation_model=model)
    first = rows_of(task, [{"prompt": PROMPTS[0]}])
    again = rows_of(task, [{"prompt": PROMPTS[0]}])

    assert [row["status"] for row in first + again] == ["done", "done"]
    assert first[0]["seed"] == again[0]["seed"]


def test_a_model_alone_gives_a_list_of_generations_for_each_input(model: ImageGenerationModel) -> None:
    outputs = model.generate_outputs([PROMPTS[0], ImageRequest(PROMPTS[1], width=96, height=48)], num_generations=2)

    assert [[generation.prompt for generation in row] for row in outputs] == [[PROMPTS[0]] * 2, [PROMPTS[1]] * 2]
    assert [[generation.generation for generation in row] for row in outputs] == [[0, 1], [0, 1]]
    images = [generation.image for row in outputs for generation in row if generation.image is not None]
    assert len({image.sha256 for image in images}) == 4
    assert [(image.width, image.height) for image in images[2:]] == [(96, 48)] * 2


def test_a_number_of_generations_gives_as_many_rows_and_different_images(model: ImageGenerationModel) -> None:
    task = ImageGeneration(image_generation_model=model, num_generations=3)
    inputs = [{"id": 7, "prompt": PROMPTS[0]}, {"id": 8, "prompt": PROMPTS[1]}]

    rows = rows_of(task, inputs)

    assert [row["id"] for row in rows] == [7, 7, 7, 8, 8, 8]
    assert [row["generation"] for row in rows] == [0, 1, 2, 0, 1, 2]
    assert len({row["seed"] for row in rows}) == len({row["image"] for row in rows}) == 6


def test_equal_prompts_in_one_batch_get_different_images(model: ImageGenerationModel) -> None:
    rows = rows_of(ImageGeneration(image_generation_model=model), [{"prompt": PROMPTS[0]}] * 3)

    assert len({row["image"] for row in rows}) == 3


def test_grouped_generations_are_lists_in_one_row(model: ImageGenerationModel) -> None:
    task = ImageGeneration(image_generation_model=model, num_generations=3, group_generations=True)

    rows = rows_of(task, [{"id": 7, "prompt": PROMPTS[0]}, {"id": 8, "prompt": PROMPTS[1]}])

    assert [(row["id"], row["status"], row["model_name"]) for row in rows] == [
        (7, "done", model.model_name),
        (8, "done", model.model_name),
    ]
    assert len({image for row in rows for image in row["image"]}) == 6
    assert [row["generation"] for row in rows] == [[0, 1, 2]] * 2


def test_a_failed_generation_is_a_null_in_its_place_in_the_list(
    hosted: ImageGenerationModel, model_server: ModelServer
) -> None:
    model_server.fail("bicycle", "ok", "refused")
    task = ImageGeneration(image_generation_model=hosted, num_generations=3, group_generations=True)

    whole, lacking = rows_of(task, [{"prompt": PROMPTS[0]}, {"prompt": PROMPTS[1]}])

    assert whole["status"] == "done"
    assert lacking["status"] == "2 of 3"
    [place] = [number for number in range(3) if lacking["image"][number] is None]
    [refused] = [call for call in model_server.calls if call.fault == "refused"]
    sent = refused.body.get("seed") if refused.wire == "openai" else refused.body["parameters"]["seed"]
    assert lacking["seed"][place] == sent
    assert [kind is not None for kind in lacking["error_kind"]] == [number == place for number in range(3)]
    assert lacking["error_kind"][place] == "refused"


def test_a_failed_generation_keeps_its_row_with_the_reason(
    hosted: ImageGenerationModel, model_server: ModelServer
) -> None:
    model_server.fail("bicycle", "refused", forever=True)

    rows = rows_of(ImageGeneration(image_generation_model=hosted), [{"prompt": prompt} for prompt in PROMPTS])

    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert [row["error_kind"] for row in rows] == [None, "refused", None]
    assert "safety system" in rows[1]["error_message"]
    assert rows[1]["image"] is None
    assert rows[1]["model_name"] == hosted.model_name


def test_rows_without_a_prompt_fail_without_a_call(model: ImageGenerationModel, model_server: ModelServer) -> None:
    inputs: list[dict[str, Any]] = [{"prompt": None}, {"prompt": "  "}, {"prompt": 12}, {"prompt": PROMPTS[0]}]

    rows = rows_of(ImageGeneration(image_generation_model=model), inputs)

    assert [row["error_kind"] for row in rows] == ["invalid_input"] * 3 + [None]
    assert [row["attempts"] for row in rows] == [0, 0, 0, 1]
    assert [call.prompt for call in model_server.calls] in ([], [PROMPTS[0]])


def test_raw_columns_tell_what_was_asked_and_answered(hosted: ImageGenerationModel) -> None:
    hosted.generation_kwargs = {"width": 96, "height": 80, "guidance_scale": 3.5}
    task = ImageGeneration(image_generation_model=hosted, add_raw_input=True, add_raw_output=True)

    [row] = rows_of(task, [{"prompt": PROMPTS[0]}])

    assert json.loads(row["raw_input"]) == {
        "prompt": PROMPTS[0],
        "width": 96,
        "height": 80,
        "guidance_scale": 3.5,
    }
    answered = json.loads(row["raw_output"])
    if hosted.backend == "openai":
        assert answered["usage"]["output_tokens"] == 272
    assert image_from_str(row["image"]).size == (96, 80)


def test_mappings_give_columns_other_names(model: ImageGenerationModel) -> None:
    task = ImageGeneration(
        image_generation_model=model,
        input_mappings={"prompt": "caption"},
        output_mappings={"image": "picture", "model_name": "painter"},
    )

    [row] = rows_of(task, [{"caption": PROMPTS[0], "note": "kept"}])

    assert {"caption", "note", "picture", "painter"} <= row.keys()
    assert not {"prompt", "image", "model_name"} & row.keys()
    assert row["caption"] == PROMPTS[0]
    assert row["painter"] == model.model_name
    assert image_from_str(row["picture"]).width > 0


@pytest.mark.parametrize("mappings", [{"input_mappings": {"promt": "x"}}, {"output_mappings": {"picture": "x"}}])
def test_a_mapping_of_a_column_that_the_task_does_not_have_is_named(mappings: dict[str, Any]) -> None:
    [(_, names)] = mappings.items()
    with pytest.raises(ValueError, match=f"names '{next(iter(names))}'"):
        ImageGeneration(image_generation_model=PlaceholderImageGeneration(), **mappings)


def test_a_custom_task_with_its_own_process_runs_alone(model: ImageGenerationModel) -> None:
    task = custom_tasks.Postcard(image_generation_model=model, num_generations=2)
    inputs = [{"subject": "a fox", "place": "Bern"}, {"subject": "a goat", "place": "Sion"}]

    rows = rows_of(task, inputs)

    assert [(row["subject"], row["place"], row["letters"]) for row in rows] == [
        ("a fox", "Bern", 4),
        ("a fox", "Bern", 4),
        ("a goat", "Sion", 4),
        ("a goat", "Sion", 4),
    ]
    assert all(row["title"] == f"{row['subject']} – {image_from_str(row['image']).width} px" for row in rows)
    assert len({row["image"] for row in rows}) == 4


def test_a_request_for_each_row_sets_its_size_seed_and_negative_prompt(
    hosted: ImageGenerationModel, model_server: ModelServer
) -> None:
    hosted.generation_kwargs = {"width": 32, "height": 32, "guidance_scale": 2.0}
    task = custom_tasks.Sized(image_generation_model=hosted, num_generations=2)
    inputs = [
        {"prompt": PROMPTS[0], "side": 48, "wanted_seed": 11},
        {"prompt": PROMPTS[1], "side": 96, "wanted_seed": None},
    ]

    rows = rows_of(task, inputs)

    assert [image_from_str(row["image"]).size for row in rows] == [(48, 48)] * 2 + [(96, 96)] * 2
    assert rows[0]["seed"] == 11
    assert len({row["seed"] for row in rows}) == 4
    for call in model_server.calls:
        sent = call.body if call.wire == "openai" else call.body["parameters"]
        assert sent["negative_prompt"] == "blurry"
        assert sent["guidance_scale"] == 2.0
    assert {row["seed"] for row in rows} == {
        (call.body if call.wire == "openai" else call.body["parameters"])["seed"] for call in model_server.calls
    }
