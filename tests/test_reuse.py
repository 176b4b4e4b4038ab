"""What is asked again, and what never is: after every change of table, settings, code and files."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.preview import preview_rows

from imagetask import ImageDataset
from imagetask.errors import UsageError
from imagetask.runs import Run, counts_so_far
from imagetask.settings import RunSettings
from tests.conftest import Generate
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server

ANIMALS = ["cat", "dog", "cow", "fox", "owl"]
ROWS = [{"prompt": f"a {animal}", "note": f"note {number}"} for number, animal in enumerate(ANIMALS)]


class Story:
    """One dataset folder, into which several runs go; each tells what it asked for."""

    def __init__(self, folder: Path, server: ModelServer, generate: Generate) -> None:
        self.out = folder / "out"
        self.source = folder / "prompts.csv"
        self.server = server
        self.counts: dict[str, Any] = {}
        self._generate = generate
        self.write(ROWS)

    def write(self, rows: list[dict[str, Any]]) -> None:
        pl.DataFrame(rows).write_csv(self.source)

    def run(self, **parameters: Any) -> list[str]:
        """Runs the flow; gives the prompts that the server was asked for."""
        self.server.reset()
        given = {"model": "openai:m", "base_url": self.server.openai_url, "chunk_rows": 2, **parameters}
        self.counts = self._generate(self.source, self.out, **given)
        return sorted(self.server.prompts)

    def images(self) -> list[str | None]:
        """SHA-256 of the image of each row of the dataset."""
        cells = ImageDataset(self.out).scan().select("image").collect()["image"].to_list()
        return [None if cell is None else hashlib.sha256(cell["bytes"]).hexdigest() for cell in cells]

    def column(self, name: str) -> list[Any]:
        return ImageDataset(self.out).scan().select(name).collect()[name].to_list()


@pytest.fixture
def story(tmp_path: Path, model_server: ModelServer, generate: Generate) -> Story:
    return Story(tmp_path, model_server, generate)


def chunk_states(number: int) -> list[str]:
    """Names of the states in which the chunks of the last flow run ended, as Prefect's server keeps them."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        [run] = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
        end = time.monotonic() + 20
        while True:
            runs = [r for r in client.read_task_runs(flow_run_filter=wanted) if r.name.startswith("openai:m rows")]
            if len(runs) == number and all(r.state is not None and r.state.is_final() for r in runs):
                return sorted(str(r.state.name) for r in runs if r.state is not None)
            if time.monotonic() > end:
                raise TimeoutError(f"{[(r.name, r.state_name) for r in runs]}: expected {number} ended chunks")
            time.sleep(0.1)


def test_the_same_command_again_asks_for_nothing_and_takes_its_chunks_from_prefects_cache(story: Story) -> None:
    assert story.run() == sorted(row["prompt"] for row in ROWS)
    assert chunk_states(3) == ["Completed"] * 3
    assert story.counts["reused"] == 0
    images = story.images()
    shard = story.out / "data" / "train-00000.parquet"
    written = shard.stat().st_mtime_ns

    assert story.run() == []
    assert chunk_states(3) == ["Cached"] * 3
    assert (story.counts["done"], story.counts["reused"]) == (5, 5)
    assert story.images() == images
    assert shard.stat().st_mtime_ns == written, "and a shard whose parts have not changed is not written again"


def test_only_what_is_new_in_the_table_is_asked_for(story: Story) -> None:
    story.run()
    before = story.images()

    changed = [*ROWS[:3], {**ROWS[3], "prompt": "a wolf"}, ROWS[4]]
    story.write(changed)
    assert story.run() == ["a wolf"]
    assert chunk_states(3) == ["Cached", "Cached", "Completed"]
    after = story.images()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, True, False, True]

    noted = [changed[0], {**changed[1], "note": "another note"}, *changed[2:]]
    story.write(noted)
    assert story.run() == []
    assert story.column("note") == [row["note"] for row in noted]
    assert story.images() == after

    story.write([{"prompt": "a hen", "note": "first"}, *noted])
    assert story.run() == ["a hen"]
    assert story.column("prompt") == ["a hen", *(row["prompt"] for row in changed)]
    assert story.images()[1:] == after

    story.write([{"prompt": "a cat", "note": "one more"}, {"prompt": "a hen", "note": "first"}, *noted])
    assert story.run() == ["a cat"], "also where the new row's prompt is there already"
    assert len(set(story.images())) == 7
    assert set(after) < set(story.images())

    story.write(noted)
    assert story.run() == []
    assert story.images() == after


def test_rows_keep_the_order_of_the_table_when_whole_chunks_change_places(story: Story) -> None:
    story.run()
    image_of = dict(zip(story.column("prompt"), story.images(), strict=True))

    for order in ((2, 3, 0, 1, 4), (4, 0, 1, 2, 3)):
        story.write([ROWS[number] for number in order])
        assert story.run() == []
        assert story.column("prompt") == [ROWS[number]["prompt"] for number in order]
        assert story.images() == [image_of[ROWS[number]["prompt"]] for number in order]

    new = [{"prompt": f"a {animal}", "note": ""} for animal in ("hen", "bee", "ant", "elk")]
    story.write([*ROWS[:2], *new, *ROWS[2:]])
    assert story.run() == sorted(row["prompt"] for row in new)
    assert story.column("prompt") == [row["prompt"] for row in [*ROWS[:2], *new, *ROWS[2:]]]


def test_how_the_work_is_cut_and_who_pays_changes_nothing(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-first-key")
    story.run()
    assert {call.authorization for call in story.server.calls} == {"Bearer sk-the-first-key"}
    images = story.images()

    assert story.run(chunk_rows=3) == []
    assert chunk_states(2) == ["Completed"] * 2, "the chunks are others, the generations are not"
    assert story.images() == images

    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key")
    assert story.run(chunk_rows=3) == []
    assert story.run(chunk_rows=3, rebuild=True) == []
    assert chunk_states(2) == ["Completed"] * 2, "a rebuild takes no chunk from the cache"
    assert (story.counts["done"], story.counts["reused"]) == (5, 5)
    assert story.images() == images
    assert story.column("reused") == [True] * 5

    assert story.run(max_concurrency=1, requests_per_minute=600, chunk_rows=3) == []
    assert chunk_states(2) == ["Cached"] * 2


def test_what_was_deleted_is_made_anew_from_the_store(story: Story) -> None:
    story.run()
    images = story.images()

    parts = sorted((story.out / "_imagetask" / "parts").glob("*.parquet"))
    parts[0].unlink()
    assert story.run() == []
    assert chunk_states(3) == ["Cached", "Cached", "Completed"]
    assert story.images() == images
    assert parts[0].is_file()

    shutil.rmtree(story.out / "_imagetask" / "results")
    shutil.rmtree(story.out / "_imagetask" / "parts")
    shutil.rmtree(story.out / "data")
    assert story.run() == []
    assert story.images() == images

    store = story.out / "_imagetask" / "store"
    [picture] = [path for path in store.glob("*/*.png") if hashlib.sha256(path.read_bytes()).hexdigest() == images[2]]
    picture.unlink()
    assert story.run(rebuild=True) == ["a cow"], "only a generation that is gone from the store is paid for again"


def test_from_one_generation_to_three_is_two_calls_a_prompt(story: Story) -> None:
    story.run()
    first = story.images()

    assert story.run(num_generations=3) == sorted([row["prompt"] for row in ROWS] * 2)
    assert story.images()[::3] == first
    assert len(set(story.images())) == 15
    assert story.column("reused") == [True, False, False] * 5
    assert (story.counts["done"], story.counts["reused"]) == (15, 5)

    assert story.run() == []
    assert story.images() == first


def test_another_size_or_seed_asks_for_all_again_and_going_back_for_nothing(story: Story) -> None:
    everything = story.run()
    first = story.images()

    assert story.run(width=32, height=32) == everything
    picture = ImageDataset(story.out).to_pil(0)
    assert picture is not None
    assert picture.size == (32, 32)
    assert story.run(seed=1) == everything
    assert not set(story.images()) & set(first)
    assert story.run(negative_prompt="blurry") == everything
    assert story.run(model="openai:another") == everything

    assert story.run() == []
    assert story.images() == first


def test_a_failure_that_may_pass_is_asked_again_and_a_refusal_is_not(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)
    story.server.fail("dog", "server_error", forever=True)
    story.server.fail("fox", "refused", forever=True)

    assert story.run() == ["a cat", "a cow", *["a dog"] * 5, "a fox", "a owl"]
    assert story.counts["failed"] == {"refused": 1, "server": 1}
    assert story.column("status") == ["done", "failed", "done", "failed", "done"]

    assert story.run() == ["a dog"] * 5
    assert chunk_states(3) == ["Cached", "Cached", "Completed"]

    story.server.recover()
    assert story.run() == ["a dog"]
    assert story.counts["failed"] == {"refused": 1}
    assert story.column("error_kind") == [None, None, None, "refused", None]

    assert story.run(rebuild=True) == []
    assert story.column("error_kind") == [None, None, None, "refused", None]
    assert chunk_states(3) == ["Completed"] * 3


def test_datasets_that_share_a_store_share_their_generations(story: Story, tmp_path: Path) -> None:
    store = str(tmp_path / "shared-store")
    story.run(store=store)
    images = story.images()

    story.out = tmp_path / "another"
    assert story.run(store=store) == []
    assert story.images() == images


def test_a_preview_into_the_folder_of_a_run_leaves_its_record_and_its_chunks_as_they_are(story: Story) -> None:
    story.run()
    run, counts = Run.read(story.out), counts_so_far(story.out)
    story.server.reset()
    source = story.source.with_name("others.csv")
    pl.DataFrame({"prompt": ["a hen", "a bee"]}).write_csv(source)
    url = story.server.openai_url
    preview_rows(RunSettings(source=str(source), out=story.out, model=["openai:m"], base_url=url, chunk_rows=1), 1)

    assert story.server.prompts == ["a hen"]
    assert (Run.read(story.out), counts_so_far(story.out)) == (run, counts)
    assert story.run(chunk_rows=None) == []
    assert chunk_states(3) == ["Cached"] * 3


def test_a_server_that_alone_names_the_model_is_another_model_elsewhere(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", story.server.openai_url)
    everything = story.run(model="openai", base_url=None)
    with ModelServer() as elsewhere:
        monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.openai_url)
        assert story.run(model="openai", base_url=None) == []
        assert sorted(elsewhere.prompts) == everything


TASK = """
from imagetask import ImageGeneration


class Titled(ImageGeneration):
    @property
    def outputs(self):
        return {outputs}

    def format_output(self, output, input):
        return {columns}
"""


def test_a_changed_format_output_asks_for_nothing_and_gives_its_new_columns(story: Story) -> None:
    folder = story.source.parent
    first = TASK.format(outputs=["image", "model_name"], columns='{"image": output}')
    (folder / "my_tasks.py").write_text(first)
    generate_by_command(story, "my_tasks:Titled")
    assert sorted(story.server.prompts) == sorted(row["prompt"] for row in ROWS)
    images = story.images()

    columns = '{"image": output, "title": input["prompt"].upper(), "pixels": output.width * output.height}'
    second = TASK.format(outputs=["image", "title", "pixels", "model_name"], columns=columns)
    (folder / "my_tasks.py").write_text(second)
    story.server.reset()
    generate_by_command(story, "my_tasks:Titled")
    assert story.server.prompts == []
    assert story.images() == images
    assert story.column("title") == [row["prompt"].upper() for row in ROWS]
    assert story.column("pixels") == [64 * 64] * 5


def generate_by_command(story: Story, task: str) -> None:
    """The command in a process of its own, in the folder of the source, against the session's Prefect server."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    assert url
    command = [str(Path(sys.executable).with_name("imagetask")), "generate", story.source.name, "--out", str(story.out)]
    command += ["--model", "openai:m", "--base-url", story.server.openai_url, "--task", task]
    ended = subprocess.run(
        command,
        cwd=story.source.parent,
        env={**os.environ, "PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr


def test_a_run_that_names_no_store_uses_that_of_the_last_one_and_another_store_without_its_images_is_refused(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGETASK_STORE", str(tmp_path / "elsewhere"))
    assert len(story.run()) == len(ROWS)
    monkeypatch.delenv("IMAGETASK_STORE")
    assert story.run() == []
    assert story.run(rebuild=True) == []
    own = tmp_path / "out/_imagetask/store"
    assert not own.exists()
    with pytest.raises(UsageError, match=f"the images of .* are in {tmp_path}/elsewhere, and would be paid for again"):
        story.run(store=str(tmp_path / "new"))
    assert story.server.prompts == []
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "new", dirs_exist_ok=True)
    assert story.run(store=str(tmp_path / "new")) == []
    assert story.run() == []
