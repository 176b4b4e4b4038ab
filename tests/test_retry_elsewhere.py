"""Failed rows tried again with another model: what is paid, whose rows they are, what may be gone, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.cli import app
from imagetask_flows.preview import preview_rows
from imagetask_flows.retry_failed import retry_failed
from pydantic import SecretStr

from imagetask import ImageDataset
from imagetask.blocks import OpenAIImageCredentials
from imagetask.errors import RunStopped, StorageError, UsageError
from imagetask.layout import Layout
from imagetask.models import load_model
from imagetask.models.breakers import Breakers
from imagetask.models.identity import Identity
from imagetask.models.managed import ManagedModel
from imagetask.retry_settings import Retry
from imagetask.runs import Run
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore
from imagetask.tried_instead import add_instead, tried_instead
from tests.command_line import DONE, SOME_FAILED
from tests.conftest import Generate
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.01)


def write(folder: Path, *prompts: str) -> Path:
    path = folder / "prompts.csv"
    pl.DataFrame({"prompt": prompts}).write_csv(path)
    return path


def asked(server: ModelServer) -> Counter[tuple[str, str]]:
    """Model and prompt of each call since the ledger was emptied; empties it."""
    calls = Counter((str(call.model), call.prompt) for call in server.calls)
    server.reset()
    return calls


def models_of(out: Path) -> dict[str, str]:
    return dict(ImageDataset(out).scan().select("prompt", "model_name").collect().iter_rows())


def test_rows_of_several_models_that_are_tried_with_one_are_asked_of_it_once(
    tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    prompts = [f"refused teapot {n}" for n in range(6)]
    out, source = tmp_path / "out", write(tmp_path, *prompts)
    model_server.fail("refused", "refused", forever=True)
    generate(source, out, model=["openai:a", "openai:b"], base_url=model_server.openai_url)
    model_server.recover()
    model_server.reset()
    model_server.latency = 0.3
    counts = retry_failed(str(out), model="openai:z")
    assert asked(model_server) == {("z", prompt): 1 for prompt in prompts}
    assert counts["failed"] == {}
    rows = ImageDataset(out).scan().collect()
    assert Counter(rows["model_name"]) == {"z": 12}
    assert set(rows["attempts"]) == {2}


def test_only_the_rows_that_were_tried_with_another_model_take_its_pictures(
    tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    """Also where the other model has made pictures of the other rows, as a model of a run of its own."""
    first, later = ["good", "refused one", "server two"], ["late three", "good", "refused one", "server two"]
    out, url = tmp_path / "out", {"base_url": model_server.openai_url}
    model_server.fail("refused", "refused", forever=True)
    model_server.fail("server", "server_error", forever=True)
    generate(write(tmp_path, *first), out, model="openai:a", **url)
    model_server.recover()
    retry_failed(str(out), kind=["refused"], model="openai:z")
    source = write(tmp_path, *later)
    generate(source, out, model="openai:z", **url)
    model_server.reset()

    model_server.fail("late", "server_error", forever=True)
    counts = generate(source, out, model="openai:a", **url)
    assert counts["failed"] == {"server": 1}
    assert asked(model_server) == {("a", "server two"): 1, ("a", "late three"): 5}
    model_server.recover()
    generate(source, out, model="openai:a", **url)
    assert asked(model_server) == {("a", "late three"): 1}
    assert models_of(out) == {"late three": "a", "good": "a", "refused one": "z", "server two": "a"}

    preview_rows(RunSettings.checked(source=str(source), out=out, model="openai:a", **url), 4)
    assert asked(model_server) == {}


def test_a_retry_with_another_model_needs_neither_block_nor_key_of_the_runs_own(
    tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    out = tmp_path / "out"
    key = SecretStr("sk-of-an-account-0816")
    OpenAIImageCredentials(api_key=key, base_url=model_server.openai_url).save("going", overwrite=True)
    model_server.fail("refused", "refused", forever=True)
    generate(write(tmp_path, "good", "refused"), out, model="openai:a", credentials="going")
    OpenAIImageCredentials.delete("going")
    model_server.recover()
    model_server.reset()
    with pytest.raises(UsageError, match="openai-image-credentials/going"):
        retry_failed(str(out))
    counts = retry_failed(str(out), model="inference-endpoints:some/z", base_url=model_server.url)
    assert (counts["done"], counts["failed"]) == (2, {})
    assert [call.wire for call in model_server.calls] == ["huggingface"]
    assert models_of(out) == {"good": "a", "refused": "some/z"}


SECRET = "sk-canary0816aaaaaaaaaaaaaaaaaaaa"
SECRETS: dict[str, dict[str, str]] = {
    "a password in the URL": {"base_url": f"http://user:{SECRET}@127.0.0.1:9/v1"},
    "a key in the URL's query": {"base_url": f"http://127.0.0.1:9/v1?api_key={SECRET}"},
    "a key in place of a block's name": {"credentials": SECRET + "_"},
}


@pytest.mark.parametrize("given", SECRETS.values(), ids=SECRETS)
def test_a_secret_that_is_given_to_a_retry_is_refused_and_written_nowhere(
    given: dict[str, str], failed_run: Path
) -> None:
    before = {path: path.read_bytes() for path in failed_run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        retry_failed(str(failed_run), model="openai:z", **given)
    assert SECRET not in str(caught.value)
    assert f"--{next(iter(given)).replace('_', '-')}" in str(caught.value)
    assert {path: path.read_bytes() for path in failed_run.rglob("*") if path.is_file()} == before
    assert not any(SECRET.encode() in data for data in before.values())


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """The folder of a run with a failed row."""
    from imagetask_flows.generate_images import generate_images

    folder = tmp_path_factory.mktemp("failed")
    with ModelServer() as server:
        server.fail("bad", "refused", forever=True)
        generate_images(
            str(write(folder, "good", "bad")), str(folder / "out"), model="openai:m", base_url=server.openai_url
        )
    return folder / "out"


def test_url_and_credentials_go_to_every_model_that_is_tried_the_same_and_takes_them() -> None:
    run = RunSettings(
        source="a.csv",
        out=Path("out"),
        model=["openai:a", "placeholder"],
        base_url="http://gpubox:8000/v1",
        credentials="mine",
    )

    def given(of: str, **retry: Any) -> tuple[list[str], str | None, str | None]:
        changed = Retry.checked(**retry).settings_for(run, of)
        return changed.model, changed.base_url, changed.credentials

    for of in run.model:
        assert given(of, model="openai:z") == (["openai:z"], run.base_url, run.credentials)
    assert given("openai:a", model="inference-endpoints:z") == (["inference-endpoints:z"], None, None)
    assert given("openai:a", model="placeholder") == (["placeholder"], None, None)
    assert given("openai:a", seed=3) == (["openai:a"], run.base_url, run.credentials)
    assert given("placeholder", seed=3) == (["placeholder"], None, None)


def failing(server: ModelServer, store: GenerationStore, name: str, breakers: Breakers, **more: Any) -> ManagedModel:
    model = load_model(f"openai:{name}", base_url=server.openai_url, api_key="k")
    return ManagedModel(model, store=store, breakers=breakers, max_concurrency=8, **more)


@pytest.mark.parametrize(
    ("fault", "kind", "rows"), [("truncated_image", "corrupt_image", 6), ("refused", "refused", 60)]
)
def test_rows_that_fail_again_with_the_same_model_stop_no_retry_and_with_another_they_do(
    fault: str, kind: str, rows: int, tmp_path: Path, model_server: ModelServer
) -> None:
    store = GenerationStore(tmp_path / "store")
    prompts, again = [f"teapot {n}" for n in range(rows)], [True] * rows
    model_server.fail(None, fault, forever=True)
    with failing(model_server, store, "a", Breakers(1.0, 1.0, proven=True)) as managed:
        managed.generate_outputs(prompts)
    with failing(model_server, store, "a", Breakers()) as managed:
        failed = managed.for_rows([0] * rows, again).generate_outputs(prompts)
    assert {(one.error_kind, one.attempts % 2) for [one] in failed} == {(kind, 0)}
    with (
        failing(model_server, store, "z", Breakers()) as other,
        failing(model_server, store, "a", Breakers(), other=other) as managed,
        pytest.raises(RunStopped) as caught,
    ):
        managed.for_rows([0] * rows, again).generate_outputs(prompts)
    assert caught.value.kind == kind


def test_the_share_that_stops_a_retry_can_be_given_to_it(
    tmp_path: Path, generate: Generate, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, source = tmp_path / "out", write(tmp_path, *[f"teapot {n}" for n in range(60)])
    model_server.fail(None, "refused", forever=True)
    generate(source, out, model="openai:a", base_url=model_server.openai_url, max_refused_share=1.0)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with pytest.raises(RunStopped, match="larger share with --max-refused-share"):
        retry_failed(str(out), model="openai:z", max_refused_share=0.5)
    words = ["retry", str(out), "--model", "openai:z", "--max-refused-share", "1", "--max-failed-share", "0.25"]
    assert app(words) == SOME_FAILED
    assert Run.read(out).settings.max_failed_share == 0.25


def test_a_retry_that_leaves_rows_that_were_never_asked_has_done_its_work(
    tmp_path: Path, generate: Generate, model_server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run was interrupted, and its budget was not reached: what goes on with its rows is no retry."""
    out, source = tmp_path / "out", write(tmp_path, "refused", *"abcd", *[f"later {n}" for n in range(5)])
    run: dict[str, Any] = {"model": "openai:m", "base_url": model_server.openai_url, "chunk_rows": 5}
    model_server.fail("refused", "refused", forever=True)
    generate(source, out, **run, limit=5)
    model_server.fail("later", "unauthorized", forever=True)
    with pytest.raises(RunStopped):
        generate(source, out, **run, max_images=1000)
    state = retry_failed(str(out), return_state=True)
    assert state.name == "Completed with pending rows"
    assert "5 pending; failed: 1 refused: imagetask generate goes on" in state.message
    report = (out / "_imagetask" / "report.md").read_text()
    assert "the budget" not in report
    assert "did not come to its end" not in report
    assert "imagetask generate" in report
    assert "imagetask retry" not in report
    model_server.recover()
    model_server.reset()

    assert app(["retry", str(out)]) == DONE
    assert asked(model_server) == {("m", "refused"): 1}
    ended = " ".join(capsys.readouterr().err.split())
    assert "5: they were not to be tried again; imagetask generate goes on with them" in ended
    assert app(["status", str(out)]) == DONE
    [way_on] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("go on")]
    assert way_on.startswith(f"go on:  imagetask generate {source}")


def test_what_rows_were_tried_with_is_kept_in_the_order_of_trying_and_a_damaged_list_is_told(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    first, second = Identity("openai", "z", None, 0), Identity("openai", "", "http://gpubox:8000/v1", 7, True)
    for identity, rows in ((first, ["a", "b"]), (second, ["b"]), (first, ["b", "c"])):
        add_instead(layout, "openai:m", pl.Series(rows), identity)
    assert tried_instead(layout, "openai:m", ["c", "d", "b", "a"]) == [[first], [], [first, second], [first]]
    assert tried_instead(layout, "openai:n", ["a"]) == [[]]
    layout.instead.write_bytes(layout.instead.read_bytes()[:-9])
    with pytest.raises(StorageError, match=r"instead\.parquet is damaged: remove it"):
        tried_instead(layout, "openai:m", ["a"])
