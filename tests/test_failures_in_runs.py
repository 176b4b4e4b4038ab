"""What becomes of a run whose store, task or key fails: the store, the task's own code, the flow, the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagetask import ImageDataset, ImageGeneration
from imagetask.errors import ErrorKind, RunStopped
from imagetask.images import Image
from imagetask.models import load_model
from imagetask.models.managed import ManagedModel
from imagetask.store import GenerationStore
from imagetask.tasks.base import Row
from tests.conftest import Generate
from tests.model_server import Fault, ModelServer

PROMPTS = [f"prompt {number}" for number in range(7)]
KEY = "sk-secret-1234567890"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)


def managed_for(server: ModelServer, store: Path) -> ManagedModel:
    model = load_model("openai:m", base_url=server.openai_url, api_key=KEY)
    return ManagedModel(model, store=GenerationStore(store))


@pytest.mark.parametrize(("when", "what"), [("before", "write to"), ("after", "read from")])
def test_store_that_does_not_work_stops_the_run_before_anything_is_paid(
    model_server: ModelServer, tmp_path: Path, when: str, what: str
) -> None:
    managed = managed_for(model_server, tmp_path / "store")
    if when == "after":
        managed.load()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file in place of the folder")
    with pytest.raises(RunStopped, match=f"could not {what} the store") as caught, managed:
        managed.generate_outputs(PROMPTS)
    managed.unload()
    assert caught.value.kind == "storage"
    assert model_server.calls == []


_FULL_DISK = """
import resource, sys
from imagetask.errors import RunStopped
from imagetask.models import load_model
from imagetask.models.managed import ManagedModel
from imagetask.store import GenerationStore

model = load_model("openai:m", base_url=sys.argv[1], api_key="k")
with ManagedModel(model, store=GenerationStore(sys.argv[2])) as managed:
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    try:
        managed.generate_outputs([f"prompt {number}" for number in range(40)])
    except RunStopped as error:
        print(error.kind)
"""


def test_full_disk_stops_the_run_and_marks_nothing_done(model_server: ModelServer, tmp_path: Path) -> None:
    """No file may grow over 64 bytes: as on a full disk, a file can be opened but not written."""
    model_server.latency = 0.1
    store = tmp_path / "store"
    command = [sys.executable, "-c", _FULL_DISK, model_server.openai_url, str(store)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "storage", ran.stderr
    assert 1 <= len(model_server.calls) <= 20
    assert not list(store.rglob("*.json"))
    model_server.reset()
    with managed_for(model_server, store) as managed:
        answered = managed.generate_outputs([f"prompt {number}" for number in range(40)])
    assert {generation.status for [generation] in answered} == {"done"}
    assert len(model_server.calls) == 40


class Picky(ImageGeneration):
    """Writes the width of the picture as well; its own code fails for prompts with the word "fussy" in them."""

    @property
    def outputs(self) -> list[str]:
        return ["image", "px", "model_name"]

    def format_output(self, output: Image, input: Row) -> Row:
        if "fussy" in input["prompt"]:
            raise ValueError("too fussy for this task")
        return {"image": output, "px": output.width}


def test_task_that_raises_for_the_first_five_rows_stops_the_run_and_the_images_are_kept(
    model_server: ModelServer, tmp_path: Path
) -> None:
    rows = [{"prompt": f"fussy {number}"} for number in range(8)]
    with (
        managed_for(model_server, tmp_path) as managed,
        pytest.raises(RunStopped, match="format_output raised ValueError: too fussy") as caught,
    ):
        next(Picky(image_generation_model=managed).process(rows))
    assert caught.value.kind == "task"
    model_server.reset()
    with managed_for(model_server, tmp_path) as managed:
        answered = next(ImageGeneration(image_generation_model=managed).process(rows))
    assert [row["status"] for row in answered] == ["done"] * 8
    assert model_server.calls == []


MIXED: tuple[tuple[str, tuple[Fault | str, ...], ErrorKind | None, int], ...] = (
    ("a refused prompt", ("refused",), "refused", 1),
    ("a truncated image", ("truncated_image",) * 3, "corrupt_image", 3),
    ("an HTML page", ("html_page",) * 3, "corrupt_image", 3),
    ("an empty answer", ("empty_data",), "refused", 1),
    ("a blank image", ("blank_image",) * 2, "blank_image", 2),
    ("three errors", ("server_error",) * 3, None, 4),
    ("too many calls", (Fault("rate_limited", retry_after=0.5),), None, 1),
    ("a fussy one", (), "task", 1),
    ("   ", (), "invalid_input", 0),
)
"""Prompt, faults of its first calls, the kind it fails with, attempts."""


def test_mixed_bag_of_failures_through_the_flow_leaves_every_row_in_its_place(
    generate: Generate, model_server: ModelServer, tmp_path: Path
) -> None:
    for prompt, faults, *_ in MIXED:
        if faults:
            model_server.fail(prompt, *faults)
    prompts = [*PROMPTS, *(prompt for prompt, *_ in MIXED), "the last one"]
    source = tmp_path / "prompts.csv"
    source.write_text("prompt,note\n" + "".join(f"{prompt},note {n}\n" for n, prompt in enumerate(prompts)))
    asked: dict[str, Any] = {"model": "openai:m", "base_url": model_server.openai_url}
    asked["task"] = "tests.test_failures_in_runs:Picky"
    counts = generate(source, tmp_path / "out", **asked)
    assert counts["failed"] == {"refused": 2, "corrupt_image": 2, "blank_image": 1, "task": 1, "invalid_input": 1}

    dataset = ImageDataset(tmp_path / "out")
    rows = dataset.scan().drop("image").collect().to_dicts()
    expected = {prompt: (kind, attempts) for prompt, _, kind, attempts in MIXED}
    assert [row["prompt"] for row in rows] == prompts
    assert [row["note"] for row in rows] == [f"note {number}" for number in range(len(prompts))]
    for number, row in enumerate(rows):
        kind, attempts = expected.get(row["prompt"], (None, 1))
        assert (row["error_kind"], row["attempts"]) == (kind, attempts), row["prompt"]
        assert (row["px"], row["error_message"]) == (64, None) if kind is None else row["error_message"]
        image = dataset.image(number)
        assert (image is None) == (kind is not None)
        if image is not None:
            assert model_server.delivered[image.sha256].prompt == row["prompt"]

    model_server.recover()
    model_server.reset()
    counts = generate(source, tmp_path / "out", **asked)
    assert sorted(model_server.prompts) == ["a truncated image", "an HTML page"]
    assert counts["failed"] == {"refused": 2, "blank_image": 1, "task": 1, "invalid_input": 1}


def test_wrong_key_ends_the_command_with_exit_code_1_and_says_what_to_do(
    prefect_server: None, model_server: ModelServer, tmp_path: Path
) -> None:
    from prefect.settings import get_current_settings

    model_server.require_key = "the right one"
    source = tmp_path / "prompts.csv"
    source.write_text("prompt\n" + "".join(f"{number} of many\n" for number in range(200)))
    command = [str(Path(sys.executable).with_name("imagetask")), "generate", str(source), "--out", "out"]
    command += ["--model", "openai:m", "--base-url", model_server.openai_url]
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "PREFECT_API_URL": str(get_current_settings().api.url)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    told = ran.stdout + ran.stderr
    assert ran.returncode == 1, told
    assert 1 <= len(model_server.calls) <= 5
    assert "OPENAI_API_KEY" in told
    assert "auth" in told
    assert "Traceback" not in told
    assert KEY not in told
