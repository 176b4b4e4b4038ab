"""What a run is told to do, and what it tells: from Python and on the command line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import imagetask_flows
import polars as pl
import pytest
from imagetask_flows import models_in_use, monitoring
from imagetask_flows.command_line.progress_bar import shown
from prefect.settings import get_current_settings
from rich.console import Console

from imagetask import ImageDataset, RunStopped, UsageError
from imagetask.layout import Layout, alone_in
from imagetask.runs import Run
from imagetask.settings import RunSettings
from tests.command_line import DONE, STOPPED, WRONG_USAGE, command, environment, imagetask
from tests.conftest import Generate
from tests.model_server import ModelServer, start_model_server


def csv_of(folder: Path, *prompts: str) -> Path:
    source = folder / "prompts.csv"
    pl.DataFrame({"prompt": prompts}).write_csv(source)
    return source


def openai_at(server: ModelServer) -> dict[str, Any]:
    return {"model": "openai:m", "base_url": server.openai_url}


@pytest.mark.parametrize(
    "source",
    [
        [{"prompt": "a red bicycle", "id": 7}, {"prompt": "a blue boat", "id": 8}],
        pl.DataFrame({"prompt": ["a red bicycle", "a blue boat"], "id": [7, 8]}),
    ],
    ids=["dicts", "frame"],
)
def test_rows_from_python_become_a_dataset(prefect_server: None, tmp_path: Path, source: Any) -> None:
    dataset = imagetask_flows.generate(source, tmp_path / "out", model="placeholder")
    rows = dataset.scan().select("prompt", "id", "status").collect()
    assert rows.rows() == [("a red bicycle", 7, "done"), ("a blue boat", 8, "done")]
    assert dataset.to_pil(1) is not None


def test_second_run_into_a_folder_is_refused_while_the_first_goes_on(prefect_server: None, tmp_path: Path) -> None:
    prefect_url = str(get_current_settings().api.url)
    source = csv_of(tmp_path, *[f"prompt {n}" for n in range(40)])
    with start_model_server(latency=1.5) as server:
        words: list[str | Path] = [
            "generate",
            source,
            "--out",
            "out",
            "--model",
            "openai:m",
            "--base-url",
            server.openai_url,
        ]
        env = {"PREFECT_API_URL": prefect_url}
        with subprocess.Popen(
            command(*words, "--max-concurrency", "2"), cwd=tmp_path, env=environment(tmp_path, **env)
        ) as first:
            server.wait_for_calls(1, timeout=60)
            told = imagetask("status", "out", cwd=tmp_path)
            second = imagetask(*words, cwd=tmp_path, env=env)
            calls = len(server.calls)
            first.kill()
        assert second.code == WRONG_USAGE
        assert "another run is writing into" in second.text
        assert calls < 40
        assert "running" in told.text
        assert "go on" not in told.text
        assert "was killed" in imagetask("status", "out", cwd=tmp_path).text
        assert imagetask(*words, cwd=tmp_path, env=env).code == DONE


def test_wrong_option_from_python_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--modle: there is no such option"):
        imagetask_flows.generate([{"prompt": "a red bicycle"}], tmp_path / "out", modle="placeholder")
    with pytest.raises(UsageError, match="has no column 'prompt'"):
        imagetask_flows.generate([{"text": "a red bicycle"}], tmp_path / "other", model="placeholder")


def test_rows_from_python_do_not_replace_those_that_an_earlier_run_goes_on_with(
    prefect_server: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    imagetask_flows.generate([{"prompt": "a red bicycle"}], out, model="placeholder")
    source = Path(str(Run.read(out).settings.source))
    with alone_in(Layout(out)), pytest.raises(UsageError, match="another run is writing into"):
        imagetask_flows.generate([{"prompt": "a blue boat"}], out, model="placeholder")
    assert pl.read_parquet(source)["prompt"].to_list() == ["a red bicycle"]


def test_run_that_is_stopped_while_its_model_is_opened_makes_no_call(model_server: ModelServer, tmp_path: Path) -> None:
    settings = RunSettings(source="a.csv", out=tmp_path / "out", **openai_at(model_server))
    settings.layout.make()
    models_in_use.stop_models("the run", "interrupted", "stopped by hand")
    with models_in_use.closing_models("the run"), pytest.raises(RunStopped, match="stopped by hand"):
        models_in_use.open_model(settings, "openai:m", "the run")
    assert model_server.calls == []


def test_more_failed_rows_than_allowed_stop_the_run_and_the_images_are_kept(
    generate: Generate, model_server: ModelServer, tmp_path: Path
) -> None:
    source = csv_of(tmp_path, *[f"bad {n}" for n in range(3)], *[f"good {n}" for n in range(3)])
    model_server.fail("bad", "refused", forever=True)
    with pytest.raises(RunStopped, match="3 rows failed, more than --max-failed 2 allows"):
        generate(source, tmp_path / "out", **openai_at(model_server), max_failed=2)
    assert Run.read(tmp_path / "out").state == "stopped"
    calls = len(model_server.calls)
    assert generate(source, tmp_path / "out", **openai_at(model_server), max_failed=3)["done"] == 3
    assert len(model_server.calls) == calls


def test_limit_store_and_rate_are_kept_to(
    generate: Generate, model_server: ModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = csv_of(tmp_path, *[f"prompt {n}" for n in range(30)])
    monkeypatch.setenv("IMAGETASK_STORE", str(tmp_path / "store"))
    generate(source, tmp_path / "one", **openai_at(model_server), limit=8, requests_per_minute=120)
    times = [call.time for call in model_server.calls]
    assert len(times) == 8
    assert times[-1] - times[1] >= 0.99 * 6 * 60 / 120, "but for the first, which opens a connection on its way"
    assert not (tmp_path / "one" / "_imagetask" / "store").exists()
    assert generate(source, tmp_path / "two", **openai_at(model_server), limit=10)["reused"] == 8
    assert len(model_server.calls) == 10


def test_base_url_goes_to_those_of_several_models_that_take_one(
    generate: Generate, model_server: ModelServer, tmp_path: Path
) -> None:
    source = csv_of(tmp_path, "a red bicycle")
    models = ["placeholder", "openai:m"]
    generate(source, tmp_path / "out", model=models, base_url=model_server.openai_url)
    assert ImageDataset(tmp_path / "out").scan().collect()["model_name"].to_list() == ["placeholder", "m"]
    with pytest.raises(UsageError, match="base_url"):
        generate(source, tmp_path / "other", model="placeholder", base_url=model_server.openai_url)


def test_progress_bar_ends_with_all_images(generate: Generate, model_server: ModelServer, tmp_path: Path) -> None:
    source = csv_of(tmp_path, "a", "b", "a refused one")
    model_server.fail("refused", "refused", forever=True)
    console = Console(force_terminal=True, width=120, record=True)
    with shown(console):
        generate(source, tmp_path / "out", **openai_at(model_server))
    last = console.export_text().strip().splitlines()[-1]
    assert "3/3" in last
    assert "failed: 1 refused" in last
    progress = monitoring.current()
    assert progress is not None
    assert (progress.finished, progress.new_images) == (3, 2)


def test_prefect_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    csv_of(tmp_path, "a red bicycle")
    ended = imagetask(
        "generate", "prompts.csv", "--out", "out", cwd=tmp_path, env={"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    )
    assert ended.code == STOPPED
    assert "Traceback" not in ended.text
    assert "http://127.0.0.1:9/api does not answer" in ended.text


def test_status_of_what_is_no_dataset_is_a_clear_error(tmp_path: Path) -> None:
    csv_of(tmp_path, "a red bicycle")
    ended = imagetask("status", "prompts.csv", cwd=tmp_path)
    assert ended.code == WRONG_USAGE
    assert "no run was started in prompts.csv" in ended.text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("store", "s3://KEY:hunter2@bucket/folder"),
        ("source", "https://host/prompts.csv?sig=hunter2"),
        ("param", {"api_key": "hunter2"}),
        ("base_url", "https://user:hunter2@host/v1"),
    ],
)
def test_settings_refuse_a_secret_and_do_not_repeat_it(option: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        RunSettings.checked(**{"source": "a.csv", "out": "out", option: value})
    assert "hunter2" not in str(caught.value)
