"""What belongs to an account reaches the calls: limits, prices and the default model of a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from imagetask_flows.accounts import account_of, managed_model
from pydantic import SecretStr

from imagetask.blocks import InferenceEndpointsCredentials, OpenAIImageCredentials
from imagetask.errors import UsageError
from imagetask.settings import RunSettings
from tests.conftest import Generate
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server

KEY = SecretStr("sk-of-an-account-0815")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    pl.DataFrame({"prompt": [f"teapot {n}" for n in range(12)]}).write_csv(path)
    return path


def save(name: str, server: ModelServer, **fields: Any) -> None:
    OpenAIImageCredentials(api_key=KEY, base_url=server.openai_url, **fields).save(name, overwrite=True)


def settings(**fields: Any) -> RunSettings:
    return RunSettings.checked(**{"source": "prompts.csv", "out": "out", **fields})


def test_a_run_has_no_more_calls_under_way_than_its_account_allows(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    save("two-at-once", model_server, max_concurrency=2)
    model_server.latency = 0.05
    generate(prompts, tmp_path / "one", model="openai:a", credentials="two-at-once", chunk_rows=4)
    assert (len(model_server.calls), model_server.max_in_flight) == (12, 2)

    models = ["openai:a", "openai:b", "openai:c"]
    generate(prompts, tmp_path / "three", model=models, credentials="two-at-once", chunk_rows=4)
    assert (len(model_server.calls), model_server.max_in_flight) == (48, 2), "the models of one account share it"


def test_a_run_makes_no_more_calls_a_minute_than_its_account_allows(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    save("ten-a-second", model_server, requests_per_minute=600)
    generate(prompts, tmp_path / "out", model="openai:a", credentials="ten-a-second")
    times = [call.time for call in model_server.calls]
    assert len(times) == 12
    assert times[-1] - times[0] > 11 * 0.1 - 0.05


@pytest.mark.parametrize(
    ("block", "run", "holds"),
    [
        ({}, {}, (64, None)),
        ({"max_concurrency": 8, "requests_per_minute": 100}, {}, (8, 100)),
        (
            {"max_concurrency": 8, "requests_per_minute": 100},
            {"max_concurrency": 3, "requests_per_minute": 20},
            (3, 20),
        ),
        ({"max_concurrency": 200, "requests_per_minute": 100}, {"requests_per_minute": 300}, (64, 100)),
        ({"max_concurrency": 8}, {"model": ["openai:a", "placeholder"]}, (8, None)),
    ],
)
def test_the_lower_limit_of_run_and_account_holds(
    block: dict[str, Any], run: dict[str, Any], holds: object, prefect_server: None, model_server: ModelServer
) -> None:
    save("limits", model_server, **block)
    account = account_of(settings(**{"model": "openai:a", "credentials": "limits", **run}), "openai:a")
    assert (account.max_concurrency, account.requests_per_minute) == holds


def test_each_model_has_the_limits_of_its_own_backends_block(prefect_server: None, model_server: ModelServer) -> None:
    save("shared", model_server, max_concurrency=5)
    hub = InferenceEndpointsCredentials(api_key=KEY, max_concurrency=7, requests_per_minute=30)
    hub.save("shared", overwrite=True)
    models = ["openai:a", "inference-endpoints:b/c", "placeholder"]
    asked = settings(model=models, credentials="shared", max_concurrency=9)
    accounts = [account_of(asked, model) for model in models]
    assert [account.max_concurrency for account in accounts] == [5, 7, 9]
    assert [account.requests_per_minute for account in accounts] == [None, 30, None]
    assert accounts[2].block is None, "the placeholder takes no credentials"


def test_the_cost_is_counted_by_the_prices_of_the_account(
    tmp_path: Path, prefect_server: None, model_server: ModelServer
) -> None:
    save("priced", model_server, prices={"a": 0.04, "a 128x64": 0.06, "b 32x32": 1})
    asked = settings(out=tmp_path / "out", model=["openai:a", "openai:b"], credentials="priced")
    account = account_of(asked, "openai:a")
    with managed_model(asked, "openai:a", account) as managed:
        managed.generate_outputs(["a small one", "another small one"])
        managed.generate_outputs(["a wide one"], width=128, height=64)
        assert managed.tally.cost == pytest.approx(0.04 + 0.04 + 0.06)
        assert managed.tally.unpriced == 0
    with managed_model(asked, "openai:b", account) as managed:
        managed.generate_outputs(["of another size than the price"])
        assert (managed.tally.cost, managed.tally.unpriced) == (0, 1)


def test_a_run_that_names_a_backend_alone_asks_the_model_of_the_block(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    """And another model there is another model: nothing of the first one is taken for it."""
    run = {"model": "openai", "credentials": "with-a-model"}
    out = tmp_path / "out"
    for calls, reused, model in ((12, 0, "first"), (12, 12, "first"), (24, 0, "second"), (24, 12, "first")):
        save("with-a-model", model_server, model=model)
        counts = generate(prompts, out, **run)
        assert (len(model_server.calls), counts["reused"]) == (calls, reused)
        assert pl.read_parquet(out / "data" / "*.parquet")["model_name"].unique().to_list() == [model]
    assert [call.model for call in model_server.calls] == ["first"] * 12 + ["second"] * 12
    generate(prompts, out, model="openai:first", credentials="with-a-model")
    assert len(model_server.calls) == 24, "a model that is named is the same as one that the block names"


def test_a_backend_alone_with_a_block_that_names_no_model_is_told(
    prompts: Path, tmp_path: Path, generate: Generate
) -> None:
    OpenAIImageCredentials(api_key=KEY).save("without-a-model", overwrite=True)
    with pytest.raises(UsageError, match="give a model, for example openai:gpt-image-2"):
        generate(prompts, tmp_path / "out", model="openai", credentials="without-a-model")


def test_the_key_of_a_block_is_sent_to_no_other_server_than_the_blocks(
    prompts: Path, tmp_path: Path, generate: Generate, model_server: ModelServer
) -> None:
    save("bound", model_server)
    with pytest.raises(UsageError, match="sent only to the server that the block names"):
        generate(prompts, tmp_path / "out", model="openai:a", credentials="bound", base_url="http://127.0.0.1:9/v1")
    assert model_server.calls == []
