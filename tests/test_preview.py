"""`imagetask preview`: what it makes counts, and is within the budget of the dataset."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.cli import app
from imagetask_flows.preview import preview_rows
from pydantic import SecretStr

from imagetask.errors import DatasetError, UsageError
from imagetask.layout import Layout, alone_in
from imagetask.models.budget import spent
from imagetask.settings import RunSettings
from tests.conftest import Generate
from tests.model_server import ModelServer

SOME_PENDING = 4


def settings(folder: Path, server: ModelServer, **more: Any) -> RunSettings:
    source = folder / "prompts.csv"
    pl.DataFrame({"prompt": [f"teapot {n}" for n in range(6)]}).write_csv(source)
    given = {"source": str(source), "out": folder / "out", "model": "openai:m", "base_url": server.openai_url}
    return RunSettings.checked(**{**given, **more})


def test_preview_asks_for_no_more_than_the_budget_of_the_dataset(tmp_path: Path, model_server: ModelServer) -> None:
    """Of all models together; what it made counts for the next preview."""
    budget = settings(tmp_path, model_server, model=["openai:m", "openai:n"], max_images=3)
    told = preview_rows(budget, 2)
    assert (told.made, told.pending, told.left, len(model_server.calls)) == (3, 1, 9, 3)
    assert "pending: 1: the budget of the dataset is reached" in told.lines()
    assert spent(Layout(tmp_path / "out").spent)[0] == 3
    told = preview_rows(settings(tmp_path, model_server, max_images=4), 4)
    assert (told.made, told.pending, len(model_server.calls)) == (3, 1, 4)


def test_the_command_ends_with_4_where_the_budget_was_reached(tmp_path: Path, model_server: ModelServer) -> None:
    asked = settings(tmp_path, model_server)
    words = ["preview", str(asked.source), "--out", str(asked.out), "--model", "openai:m"]
    words += ["--base-url", model_server.openai_url, "--max-images", "1"]
    assert app(words) == SOME_PENDING
    assert len(model_server.calls) == 1


@pytest.mark.prefect_server
def test_a_run_counts_what_a_preview_has_spent(tmp_path: Path, generate: Generate, model_server: ModelServer) -> None:
    preview_rows(settings(tmp_path, model_server), 4)
    run = settings(tmp_path, model_server)
    asked = {"model": "openai:m", "base_url": run.base_url}
    counts = generate(str(run.source), run.out, **asked, max_images=5)
    assert (counts["done"], counts["reused"], counts["pending"]) == (5, 4, 1)
    assert len(model_server.calls) == 5


@pytest.mark.prefect_server
def test_preview_with_a_budget_in_usd_needs_a_price(
    prefect_server: None, tmp_path: Path, model_server: ModelServer
) -> None:
    from imagetask.blocks import OpenAIImageCredentials

    with pytest.raises(UsageError, match="--max-cost: the price of an image of openai:m is not known"):
        preview_rows(settings(tmp_path, model_server, max_cost=1.0), 2)
    assert model_server.calls == []
    assert not (tmp_path / "out").exists()
    key = SecretStr("sk-of-an-account-0816")
    block = OpenAIImageCredentials(api_key=key, base_url=model_server.openai_url, prices={"m": 0.04})
    block.save("for-previews", overwrite=True)
    told = preview_rows(settings(tmp_path, model_server, max_cost=0.1, credentials="for-previews"), 4)
    assert (told.made, told.pending) == (2, 2)
    assert spent(Layout(tmp_path / "out").spent)[:2] == pytest.approx((2, 0.08))


def test_preview_and_run_do_not_spend_the_budget_of_a_folder_at_one_time(
    tmp_path: Path, model_server: ModelServer
) -> None:
    run = settings(tmp_path, model_server, max_images=3)
    model_server.latency = 1.0
    with ThreadPoolExecutor() as threads:
        preview = threads.submit(preview_rows, run, 2)
        model_server.wait_for_calls(1, timeout=60)
        with pytest.raises(DatasetError, match="another run is writing"), alone_in(run.layout):
            pytest.fail("the folder is not held")
        assert preview.result().made == 2
    with alone_in(run.layout), pytest.raises(DatasetError, match="another run is writing"):
        preview_rows(run, 2)
    assert len(model_server.calls) == 2
