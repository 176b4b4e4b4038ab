"""Budgets and costs of whole runs: what the dataset, its record, its card and the command tell of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.cli import app
from imagetask_flows.estimate import price_of_an_image
from imagetask_flows.generate_images import generate_images
from imagetask_flows.retry_failed import retry_failed
from pydantic import SecretStr

from imagetask import ImageDataset
from imagetask.blocks import OpenAIImageCredentials
from imagetask.errors import UsageError
from imagetask.layout import Layout
from imagetask.models.budget import spent
from imagetask.runs import Run, counts_so_far
from imagetask.settings import RunSettings
from tests.command_line import DONE, imagetask
from tests.conftest import Generate
from tests.model_server import Call, ModelServer

pytestmark = pytest.mark.prefect_server

SOME_PENDING = 4
TOKEN_PRICES = {"m": 0.04, "m input tokens": 5.0, "m output tokens": 40.0}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    path = work / "prompts.csv"
    pl.DataFrame({"prompt": [f"teapot {'of steel ' * (n % 4)}{n}" for n in range(12)]}).write_csv(path)
    return path


def save(name: str, server: ModelServer, **fields: Any) -> None:
    key = SecretStr("sk-of-an-account-0816")
    OpenAIImageCredentials(api_key=key, base_url=server.openai_url, **fields).save(name, overwrite=True)


def table(out: Path) -> pl.DataFrame:
    return ImageDataset(out).scan().collect()


def state_of(**parameters: Any) -> Any:
    return generate_images(**parameters, return_state=True)


def reported(call: Call) -> float:
    """What a picture of the model server cost by the tokens that it reports, at `TOKEN_PRICES`."""
    return (max(len(call.prompt) // 4, 1) * 5.0 + 272 * 40.0) / 1_000_000


def test_rows_that_a_budget_does_not_reach_are_pending_and_a_larger_one_goes_on(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    save("priced", model_server, prices={"m": 0.04, "n": 0.08})
    out = tmp_path / "out"
    asked: dict[str, Any] = {"source": str(prompts), "out": str(out), "model": ["openai:m", "openai:n"]}
    asked |= {"credentials": "priced", "chunk_rows": 5}

    state = state_of(**asked, max_cost=0.5)
    assert state.name == "Budget reached"
    assert "more than --max-cost 0.5 goes on" in state.message
    prices = [{"m": 0.04, "n": 0.08}[call.model] for call in model_server.calls]
    assert 0.5 - 0.08 < sum(prices) <= 0.5
    images, pending = len(prices), 24 - len(prices)
    assert counts_so_far(out)[1].pending == pending
    assert Run.read(out).state == "finished"
    assert spent(Layout(out).spent)[:2] == pytest.approx((images, sum(prices)))
    rows = table(out)
    assert Counter(rows["status"]) == {"done": images, "pending": pending}
    assert rows.filter(status="pending").select("image", "error_kind", "cost", "cost_source").null_count().row(0) == (
        (pending,) * 4
    )
    assert rows["cost"].sum() == pytest.approx(sum(prices))
    assert f"{pending}" in Layout(out).card.read_text()
    assert "pending" in Layout(out).card.read_text()

    assert state_of(**asked, max_cost=0.5, max_concurrency=64).name == "Budget reached"
    assert len(model_server.calls) == images, "the same budget again asks for nothing"
    state = state_of(**asked, max_cost=1.5)
    assert state.name == "Completed"
    assert set(Counter((call.model, call.prompt) for call in model_server.calls).values()) == {1}
    rows = table(out)
    assert set(rows["status"]) == {"done"}
    assert set(rows["cost_source"]) == {"price table"}
    assert rows["cost"].sum() == pytest.approx(12 * 0.12) == spent(Layout(out).spent)[1]


def test_costs_that_the_backend_reports_agree_with_its_ledger_row_by_row(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    """Rows whose first image was no good cost what both did, also where it was made in an earlier run."""
    save("tokens", model_server, prices=TOKEN_PRICES)
    model_server.fail(lambda prompt: prompt.endswith("3"), "blank_image")
    model_server.fail(lambda prompt: prompt.endswith("5"), "server_error")
    out = tmp_path / "out"
    generate(prompts, out, model="openai:m", credentials="tokens", chunk_rows=5, max_cost=1.0)
    ledger: Counter[str] = Counter()
    for call in model_server.calls:
        ledger[call.prompt] += reported(call) if call.status == 200 else 0  # type: ignore[assignment]
    rows = table(out)
    assert dict(rows.select("prompt", "cost").iter_rows()) == pytest.approx(ledger)
    assert set(rows["cost_source"]) == {"reported"}
    assert sum(ledger.values()) == pytest.approx(spent(Layout(out).spent)[1])
    assert spent(Layout(out).spent)[0] == 13


def test_max_cost_without_a_price_is_told_before_any_call(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    save("other-prices", model_server, prices={"other": 0.04, "m output tokens": 40})
    asked: dict[str, Any] = {"source": str(prompts), "out": tmp_path / "out", "max_cost": 1.0}
    server: list[dict[str, Any]] = [{"credentials": "other-prices"}, {"base_url": model_server.openai_url}]
    for options in server:
        with pytest.raises(
            UsageError, match=r"--max-cost: the price of an image of openai:m is not known: .*--price m="
        ):
            generate(**asked, **options, model="openai:m")
    assert price_of_an_image(RunSettings.checked(**{**asked, "model": "placeholder"}), "placeholder") == 0.0
    assert model_server.calls == []


def test_retry_with_a_model_without_a_price_is_told_before_any_call(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    save("priced", model_server, prices={"m": 0.04})
    model_server.fail(lambda prompt: prompt.endswith("7"), "refused", forever=True)
    out = tmp_path / "out"
    generate(prompts, out, model="openai:m", credentials="priced", max_cost=1.0)
    model_server.reset()
    with pytest.raises(UsageError, match="the price of an image of openai:n is not known"):
        retry_failed(str(out), model="openai:n")
    assert model_server.calls == []


@pytest.mark.parametrize(
    "option", ["--max-images=0", "--max-cost=0", "--max-cost=-1", "--max-cost=inf", "--max-cost=nan"]
)
def test_a_budget_that_is_none_is_refused(option: str, prompts: Path) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        app(["generate", str(prompts), "--out", "out", option])


def test_the_command_tells_estimate_and_sum_and_ends_with_4_where_rows_are_pending(
    prompts: Path, server_url: dict[str, str], model_server: ModelServer
) -> None:
    save("priced", model_server, prices={"m": 0.04})
    generate = ["generate", "prompts.csv", "--out", "out", "--model", "openai:m", "--credentials", "priced"]
    work = prompts.parent
    ended = imagetask(*generate, "--max-images", "5", cwd=work, env=server_url)
    assert ended.code == SOME_PENDING, ended.text
    assert "up to 12 images to generate, at most 0.4800 USD; budget of the dataset: 5 images" in ended.text
    assert "5 images paid for, 0.2000 USD" in ended.text
    assert ended.text.index("to generate") < ended.text.index("5 images paid for")
    told = imagetask("status", "out", cwd=work)
    assert "pending: 7" in told.text, told.text
    assert "so far: 5 images paid for, 0.2000 USD" in told.text
    [how] = [line for line in told.text.splitlines() if line.startswith("go on:  ")]
    assert "--max-images MORE_THAN_5" in how

    words = how.partition(":  ")[2].replace("MORE_THAN_5", "50").split()
    assert words[0] == "imagetask"
    ended = imagetask(*words[1:], cwd=work, env=server_url)
    assert ended.code == DONE, ended.text
    assert "up to 7 images to generate, at most 0.2800 USD; before: 5 images paid for, 0.2000 USD" in ended.text
    assert len(model_server.calls) == 12

    state = work / "out" / "_imagetask"
    next((state / "store").glob("*/*.json")).write_text('{"half')
    for manifest in (state / "parts").glob("*.json"):
        manifest.unlink()
    ended = imagetask(*words[1:], cwd=work, env=server_url)
    assert ended.code == DONE, ended.text
    assert "in the store is damaged: it is made again" in ended.text
    assert "13 images paid for, 0.5200 USD; by all runs" in ended.text
