"""`imagetask retry`: failed rows alone are asked again, also elsewhere; successes stay as they are, attempts add up."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.cli import app
from imagetask_flows.retry_failed import retry_failed

from imagetask import ImageDataset
from imagetask.errors import DatasetError, RunStopped, UsageError
from imagetask.models import Generation, load_model
from imagetask.models.identity import Identity
from imagetask.models.managed import ManagedModel
from imagetask.runs import Run
from imagetask.store import GenerationStore
from tests.command_line import DONE, command, environment
from tests.conftest import Generate
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server

FAULTS: dict[str, str] = {"refused": "refused", "server": "server_error", "corrupt": "truncated_image"}
ATTEMPTS = {"refused": 1, "server": 5, "corrupt": 3}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """20 rows; 1 is refused, and for 2 each the server fails, or sends no whole image."""
    work = tmp_path / "work"
    work.mkdir()
    path = work / "prompts.csv"
    words = ["refused", "server", "server", "corrupt", "corrupt"] + ["good"] * 15
    pl.DataFrame({"prompt": [f"{word} teapot {n}" for n, word in enumerate(words[5:] + words[:5])]}).write_csv(path)
    return path


def fails(server: ModelServer, *words: str) -> None:
    server.recover()
    for word in words:
        server.fail(word, FAULTS[word], forever=True)


def table(out: Path) -> pl.DataFrame:
    """The rows; of the picture its hash."""
    rows = ImageDataset(out).scan().collect()
    picture = pl.col("image").struct.field("bytes")
    hashed = picture.map_elements(lambda data: sha256(data).hexdigest(), return_dtype=pl.String)
    return rows.with_columns(image=hashed)


def asked_again(server: ModelServer) -> Counter[str]:
    """The prompts by their first word, and how many calls there were since the ledger was emptied."""
    asked = Counter(prompt.split()[0] for prompt in server.prompts)
    server.reset()
    return asked


def attempts(rows: pl.DataFrame) -> dict[str, set[int]]:
    word = pl.col("prompt").str.split(" ").list.first().alias("word")
    return {word: set(some["attempts"]) for (word,), some in rows.group_by(word)}


def run(prompts: Path, server: ModelServer) -> dict[str, Any]:
    """Parameters of a run with two chunks."""
    return {"source": prompts, "model": "openai:m", "base_url": server.openai_url, "chunk_rows": 17}


def test_retry_asks_failed_rows_of_the_kinds_alone_and_attempts_add_up_over_all_runs(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    out = tmp_path / "out"
    fails(model_server, *FAULTS)
    counts = generate(out=out, **run(prompts, model_server))
    assert counts["failed"] == {"refused": 1, "server": 2, "corrupt_image": 2}
    before = table(out)
    assert asked_again(model_server) == {"good": 15, "refused": 1, "server": 10, "corrupt": 6}
    assert attempts(before) == {"good": {1}, "refused": {1}, "server": {5}, "corrupt": {3}}

    retry_failed(str(out), kind=["server", "refused"])
    assert asked_again(model_server) == {"refused": 1, "server": 10}
    assert attempts(table(out)) == {"good": {1}, "refused": {2}, "server": {10}, "corrupt": {3}}

    fails(model_server, "corrupt", "refused")
    counts = generate(out=out, **run(prompts, model_server))
    assert asked_again(model_server) == {"server": 2, "corrupt": 6}, "a refused row is asked again by retry alone"
    assert counts["failed"] == {"refused": 1, "corrupt_image": 2}
    assert attempts(table(out)) == {"good": {1}, "refused": {2}, "server": {11}, "corrupt": {6}}

    fails(model_server)
    counts = retry_failed(str(out))
    assert (counts["done"], counts["failed"], counts["reused"]) == (20, {}, 17)
    assert asked_again(model_server) == {"corrupt": 2, "refused": 1}
    after = table(out)
    assert attempts(after) == {"good": {1}, "refused": {3}, "server": {11}, "corrupt": {7}}
    assert after["prompt"].to_list() == before["prompt"].to_list()
    whole = pl.col("status") == "done"
    kept = [name for name in before.columns if name != "reused"]
    assert after.filter(before["status"] == "done").select(kept).equals(before.filter(whole).select(kept))


def test_images_of_another_seed_or_backend_stand_in_the_row_and_are_kept_by_the_runs_to_come(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    out = tmp_path / "out"
    fails(model_server, "refused", "server")
    generate(out=out, **run(prompts, model_server))
    before = table(out)
    asked_again(model_server)

    fails(model_server, "server")
    counts = retry_failed(str(out), seed=7)
    assert {call.wire for call in model_server.calls} == {"openai"}
    assert asked_again(model_server) == {"refused": 1, "server": 10}
    assert (counts["done"], counts["failed"]) == (18, {"server": 2})
    fails(model_server)
    counts = retry_failed(str(out), model="inference-endpoints:some/n", base_url=model_server.url)
    assert {call.wire for call in model_server.calls} == {"huggingface"}
    assert asked_again(model_server) == {"server": 2}
    assert (counts["done"], counts["failed"]) == (20, {})

    after = table(out)
    failed = before["status"] == "failed"
    assert after.filter(~failed).drop("reused").equals(before.filter(~failed).drop("reused"))
    by_word = {prompt.split()[0]: name for prompt, name in after.select("prompt", "model_name").iter_rows()}
    assert by_word == {"good": "m", "corrupt": "m", "refused": "m", "server": "some/n"}
    assert attempts(after.filter(failed)) == {"refused": {2}, "server": {11}}
    refused = pl.col("prompt").str.starts_with("refused")
    assert after.filter(refused)["seed"].to_list() != before.filter(refused)["seed"].to_list()
    counts = generate(out=out, **run(prompts, model_server), rebuild=True)
    assert (counts["done"], counts["reused"], asked_again(model_server)) == (20, 20, {})
    assert table(out).drop("reused").equals(after.drop("reused"))


def test_attempts_are_counted_once_where_a_row_failed_here_and_elsewhere_again_and_again(
    tmp_path: Path, model_server: ModelServer
) -> None:
    """Also where the retry names the model and the seed that the run has itself."""
    store = GenerationStore(tmp_path / "store")
    instead: list[Identity] = []

    def tried(name: str | None = None, seed: int = 0, again: bool | None = True) -> Generation:
        own = load_model("openai:m", base_url=model_server.openai_url, api_key="k")
        other = None
        if name is not None:
            model = load_model(name, base_url=model_server.openai_url, api_key="k")
            other = ManagedModel(model, store=store, seed=seed)
            instead.extend({other.identity} - set(instead))
        with other or nullcontext(), ManagedModel(own, store=store, other=other) as managed:
            view = managed.for_rows([0], None if again is None else [again], [instead])
            [[generation]] = view.generate_outputs(["a teapot"])
        return generation

    model_server.fail(None, "truncated_image", forever=True)
    elsewhere = ((None, 0), ("openai:n", 0), ("openai:m", 0), ("openai:n", 0), ("openai:m", 3), ("openai:n", 0))
    for number, (name, seed) in enumerate(elsewhere, start=1):
        assert (tried(name, seed).attempts, len(model_server.calls)) == (3 * number, 3 * number), name
    for number in (7, 8):
        assert tried(again=None).attempts == 3 * number
        assert tried(again=False).attempts == 3 * number
    model_server.recover()
    for again in (None, False, None, True):
        generation = tried(again=again)
        assert (generation.status, generation.attempts, generation.model_name) == ("done", 25, "m")
    assert len(model_server.calls) == 25


def test_a_row_that_the_own_model_refused_is_not_asked_of_it_again_whatever_another_one_said(
    tmp_path: Path, model_server: ModelServer
) -> None:
    store = GenerationStore(tmp_path / "store")
    own, other = (load_model(f"openai:{n}", base_url=model_server.openai_url, api_key="k") for n in "mn")
    instead = [Identity.of(other, 0)]
    model_server.fail(None, "refused", "server_error", forever=True, shared=True)
    with ManagedModel(own, store=store) as managed:
        managed.generate_outputs(["a teapot"])
    with (
        ManagedModel(other, store=store) as elsewhere,
        ManagedModel(own, store=store, other=elsewhere) as managed,
    ):
        [[failed]] = managed.for_rows([0], [True], [instead]).generate_outputs(["a teapot"])
    with ManagedModel(own, store=store) as managed:
        [[known]] = managed.for_rows([0], None, [instead]).generate_outputs(["a teapot"])
    assert (failed.error_kind, failed.attempts, failed.model_name) == ("server", 6, "n")
    assert (known.error_kind, known.attempts, known.model_name) == ("server", 6, "n")
    assert len(model_server.calls) == 6


@pytest.mark.parametrize("task", ["imagetask.tasks:ImageGeneration", "tests.custom_tasks:Grouped"])
def test_of_several_generations_only_the_failed_ones_are_asked_again(
    task: str, prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    out = tmp_path / "out"
    model_server.fail("server", *["ok"], *["server_error"] * 5)
    model_server.fail("refused", *["refused"] * 2)
    asked = {**run(prompts, model_server), "task": task, "num_generations": 2, "max_concurrency": 1}
    counts = generate(out=out, **asked)
    assert counts["failed"] == {"server": 2, "refused": 2}
    before = table_of_generations(out)
    model_server.reset()
    counts = retry_failed(str(out), model="openai:n")
    assert counts["failed"] == {}
    assert asked_again(model_server) == {"server": 2, "refused": 2}
    after = table_of_generations(out)
    was_done = before["status_of_one"]
    assert after.filter(was_done)["path"].to_list() == before.filter(was_done)["path"].to_list()
    assert after["status_of_one"].all()
    assert len(set(after["path"])) == 40


def table_of_generations(out: Path) -> pl.DataFrame:
    """One row for each generation: whether it has an image, and the image's path in the store."""
    rows = ImageDataset(out).scan().collect()
    if isinstance(rows.schema["image"], pl.List):
        rows = rows.explode("image")
    return rows.select(path=pl.col("image").struct.field("path"), status_of_one=pl.col("image").is_not_null())


def test_rows_that_were_never_asked_are_not_tried_again_and_those_that_the_budget_left_are_by_the_next_retry(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    out = tmp_path / "out"
    model_server.fail(None, "refused", "refused", shared=True)
    asked = {**run(prompts, model_server), "max_concurrency": 1}
    counts = generate(out=out, **asked, max_images=10)
    assert (counts["done"], counts["failed"], counts["pending"]) == (10, {"refused": 2}, 8)
    model_server.reset()
    fails(model_server)

    state = retry_failed(str(out), max_images=11, return_state=True)
    assert state.name == "Budget reached"
    [first] = model_server.prompts
    model_server.reset()
    counts = retry_failed(str(out), kind=["refused"], max_images=50)
    [second] = model_server.prompts
    assert second != first
    model_server.reset()
    assert (counts["done"], counts["pending"]) == (12, 8)
    counts = generate(out=out, **asked)
    assert (counts["done"], counts["reused"]) == (20, 12)
    assert sum(asked_again(model_server).values()) == 8
    assert sorted(table(out)["attempts"]) == [1] * 18 + [2] * 2


def test_a_retry_that_is_stopped_or_killed_goes_on_with_the_same_command(
    prompts: Path,
    server_url: dict[str, str],
    generate: Generate,
    model_server: ModelServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = prompts.with_name("out")
    fails(model_server, *FAULTS)
    asked = {**run(prompts, model_server), "chunk_rows": 17}
    generate(out=out, **asked)
    model_server.recover()
    model_server.fail(None, "ok", "unauthorized", shared=True, forever=True)
    with pytest.raises(RunStopped):
        retry_failed(str(out), model="openai:n", max_concurrency=1)
    assert len(model_server.delivered) == 16
    model_server.recover()
    model_server.reset()
    model_server.latency = 0.5
    words = command("retry", out, "--model", "openai:n", "--max-concurrency", "1")
    env = environment(prompts.parent, **server_url, OPENAI_API_KEY="k")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=prompts.parent, env=env, start_new_session=True, **quiet) as process:  # type: ignore[call-overload]
        model_server.wait_for_calls(2, timeout=60)
        process.send_signal(signal.SIGKILL)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert app(words[1:]) == DONE
    assert 4 <= len(model_server.prompts) <= 5, "of four rows one, that was in flight, may be asked twice"
    assert table(out)["model_name"].to_list() == ["m"] * 15 + ["n"] * 5
    assert app(["retry", str(out)]) == DONE
    assert f"{out}: no row has failed: nothing to retry" in "".join(capsys.readouterr().err.splitlines())


WRONG = {
    "a kind that is none": (["--kind", "nonsense"], UsageError, "--kind: "),
    "a URL without a model": (["--base-url", "http://127.0.0.1:9/v1"], UsageError, "--base-url goes with a --model"),
    "credentials without a model": (["--credentials", "mine"], UsageError, "--credentials goes with a --model"),
    "a seed that is none": (["--seed=-1"], UsageError, "--seed: "),
    "an unknown backend": (["--model", "dalle:3"], UsageError, "'dalle'"),
    "a budget that is none": (["--max-images", "0"], UsageError, "--max-images"),
    "a folder without a run": ([], DatasetError, "no run was started in"),
}


@pytest.mark.parametrize(("options", "error", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_retried_is_told_before_anything_is_asked(
    options: list[str], error: type[UsageError], words: str, tmp_path: Path, failed_run: Path, model_server: ModelServer
) -> None:
    folder = failed_run if options else tmp_path
    with pytest.raises(error) as caught:
        app(["retry", str(folder), *options])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """The folder of a run with a failed row."""
    from imagetask_flows.generate_images import generate_images

    folder = tmp_path_factory.mktemp("failed")
    with ModelServer() as server:
        server.fail("bad", "refused", forever=True)
        (folder / "rows.csv").write_text("prompt\ngood\nbad\n")
        generate_images(str(folder / "rows.csv"), str(folder / "out"), model="openai:m", base_url=server.openai_url)
    return folder / "out"


def test_nothing_of_a_kind_to_retry_is_told(failed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app(["retry", str(failed_run), "--kind", "server", "--kind", "timeout"]) == DONE
    assert "no row has failed with server or timeout: nothing to retry" in (told := said(capsys))
    assert "did not come to its end" not in told


def test_of_a_run_that_did_not_end_a_retry_says_so(failed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.read(failed_run).end("stopped", "killed")
    assert app(["retry", str(failed_run), "--kind", "server"]) == DONE
    assert f"the last run did not come to its end: imagetask status {failed_run} tells how" in said(capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
