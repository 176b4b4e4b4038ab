"""1,632 real prompts through the flow while everything that can fail a row does: the dataset and the server's ledger
agree on every row."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imagetask import ImageDataset
from tests.chaos import ASKED_AGAIN, KINDS, PATIENCE, Outcome, outcome_by
from tests.conftest import Generate
from tests.model_server import Call, Chaos, RemoteModelServer, start_model_server
from tests.model_server.chaos import PASSING
from tests.model_server.faults import Wire

NO_GOOD = ("blank_image", "same_image")
"""Whole pictures that are none of the prompt."""
CHAOS = Chaos(0.3, seed=4, lasting=0.5)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.models.calling.RETRY_DELAY", 0.02)


@pytest.fixture
def server_apart() -> Iterator[RemoteModelServer]:
    """A model server in a process of its own, with chaos."""
    with start_model_server() as server:
        server.behave({"chaos": {"rate": CHAOS.rate, "seed": CHAOS.seed, "lasting": CHAOS.lasting}})
        yield server


def calls_by_prompt(server: RemoteModelServer) -> dict[str, list[Call]]:
    calls = defaultdict(list)
    for call in server.calls:
        calls[call.prompt].append(call)
    return calls


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the dataset, each image as the hash of its bytes."""
    rows = ImageDataset(folder).scan().collect().to_dicts()
    for row in rows:
        row["image"] = None if row["image"] is None else hashlib.sha256(row["image"]["bytes"]).hexdigest()
    return rows


def assert_row_is_as_the_ledger_says(row: dict[str, Any], calls: list[Call], expected: Outcome) -> None:
    told = (row["prompt"], [call.fault for call in calls])
    assert len(calls) == expected.calls, told
    assert [call.fault for call in calls] == [_name_of(row["prompt"], number) for number in range(len(calls))], told
    assert (row["error_kind"], row["attempts"]) == (expected.kind, expected.attempts), told
    assert row["status"] == ("done" if expected.kind is None else "failed"), told
    assert (row["error_message"] is None) == (expected.kind is None), told
    assert row["maybe_billed"] == expected.timed_out, told
    assert (row["seed"], row["model_name"]) == (calls[-1].seed, calls[-1].model), told
    delivered = [call.sha256 for call in calls if call.delivered and call.fault not in NO_GOOD]
    assert delivered == ([] if row["image"] is None else [row["image"]]), told
    assert (row["image"] is None) == (expected.kind is not None), told


def _name_of(prompt: str, number: int) -> str | None:
    fault = CHAOS.fault_for(prompt, number)
    return fault.name if fault else None


def assert_all_is_in_the_mix(calls: list[Call], kinds: Counter[str | None], wire: Wire) -> None:
    """Not a fault is missing, nor a kind that fails a row."""
    assert {call.fault for call in calls} == {None, *KINDS, *PASSING} - {"scaled_to_zero"}
    missing = {"download"} if wire == "huggingface" else set()
    assert set(kinds) == {None, *KINDS.values()} - missing


@pytest.mark.parametrize(
    ("wire", "rows"), [("openai", 1632), pytest.param("huggingface", 400)], ids=["openai", "huggingface"]
)
def test_every_row_of_a_run_in_chaos_is_as_the_servers_ledger_says(
    wire: Wire,
    rows: int,
    parti_prompts: Path,
    tmp_path: Path,
    server_apart: RemoteModelServer,
    generate: Generate,
    canary: str,
) -> None:
    openai = wire == "openai"
    asked: dict[str, Any] = {
        "model": "openai:painter-1" if openai else "inference-endpoints:painter-1",
        "base_url": server_apart.openai_url if openai else server_apart.model_url("painter-1"),
        "rename": {"Prompt": "prompt"},
        "timeout": PATIENCE,
        "limit": rows,
        "chunk_rows": 200,
    }
    source = pl.read_csv(parti_prompts, separator="\t", quote_char=None)["Prompt"].to_list()[:rows]

    counts = generate(parti_prompts, tmp_path / "out", **asked)

    assert {call.authorization for call in server_apart.calls} == {f"Bearer {canary}"}
    calls, dataset = calls_by_prompt(server_apart), rows_of(tmp_path / "out")
    assert [row["prompt"] for row in dataset] == source, "every row, in its place"
    for row in dataset:
        own = calls[row["prompt"]]
        assert_row_is_as_the_ledger_says(row, own, outcome_by(CHAOS, row["prompt"], own, wire))
    kinds = Counter(row["error_kind"] for row in dataset)
    assert (counts["rows"], counts["done"]) == (rows, kinds[None])
    assert counts["failed"] == {kind: number for kind, number in kinds.items() if kind}
    assert_all_is_in_the_mix(server_apart.calls, kinds, wire)
    assert_the_next_run_asks_only_what_may_pass(generate, parti_prompts, tmp_path / "out", asked, server_apart, dataset)


def assert_the_next_run_asks_only_what_may_pass(
    generate: Generate,
    source: Path,
    out: Path,
    asked: dict[str, Any],
    server: RemoteModelServer,
    before: list[dict[str, Any]],
) -> None:
    server.behave({"recover": True})
    server.reset()
    generate(source, out, **asked)
    after = rows_of(out)
    assert sorted(server.prompts) == sorted(row["prompt"] for row in before if row["error_kind"] in ASKED_AGAIN)
    for was, row in zip(before, after, strict=True):
        if was["error_kind"] in ASKED_AGAIN:
            assert row["image"] == server.calls_for(row["prompt"])[0].sha256
        else:
            assert (row["image"], row["error_kind"]) == (was["image"], was["error_kind"])
