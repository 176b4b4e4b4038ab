"""From a dataset on the Hub to a dataset on the Hub: prompts in, pictures out, and an instalment more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import DONE, environment, imagetask
from tests.hub_server import HubServer
from tests.model_server import ModelServer

pytestmark = pytest.mark.prefect_server

TOKEN = "hf_round_trip"
REPO = "me/parti-images"
HEADER = "Prompt\tCategory\tChallenge\tNote\n"

READ = """
import hashlib, json, sys
import datasets
rows = datasets.load_dataset(sys.argv[1], split="train")
raw = rows.cast_column("image", datasets.Image(decode=False))
print(json.dumps({
    "prompts": list(rows["Prompt"]),
    "size": rows[0]["image"].size,
    "sha256": [hashlib.sha256(cell["bytes"]).hexdigest() for cell in raw["image"]],
    "said": list(rows["image_sha256"]),
}))
"""


def loaded(hub: HubServer, folder: Path) -> dict[str, Any]:
    """What `datasets` reads of the dataset on the Hub, in a process and with a cache of its own."""
    env = {**environment(folder), **hub.env(folder / "reader", token=TOKEN)}
    ended = subprocess.run([sys.executable, "-c", READ, REPO], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def shards(hub: HubServer) -> dict[str, str]:
    return {path: file.sha256 for path, file in hub.files(REPO, "main").items() if path.startswith("data/")}


def test_parti_prompts_go_from_the_hub_to_the_hub_and_200_more_after_them(
    tmp_path: Path, parti_prompts: Path, server_url: dict[str, str]
) -> None:
    text = parti_prompts.read_text()
    work = tmp_path / "work"
    work.mkdir()
    with HubServer(tmp_path / "hub") as hub, ModelServer(size=(64, 64), format="jpeg") as model_server:
        hub.add_user("me", TOKEN)
        hub.put_files("me/prompts", {"PartiPrompts.tsv": text.encode()}, private=True)
        env = {**server_url, **hub.env(work / "home", token=TOKEN), "OPENAI_API_KEY": "sk-round"}
        words = ["generate", "hf://datasets/me/prompts", "--out", "out", "--prompt-column", "Prompt"]
        words += ["--model", "openai:m", "--base-url", model_server.openai_url, "--push-to", REPO]
        ended = imagetask(*words, cwd=work, env=env, timeout=300)
        assert ended.code == DONE, ended.text

        first, before = loaded(hub, tmp_path), shards(hub)
        delivered = [str(call.sha256) for call in model_server.calls]
        assert first["prompts"] == [line.split("\t")[0] for line in text.splitlines()[1:]]
        assert sorted(first["sha256"]) == sorted(delivered) == sorted(first["said"])
        assert len(first["sha256"]) == 1632
        assert hub.is_private(REPO)
        assert len(hub.commits(REPO)) == 2, "the Hub's own first one, and the push"

        more = text.rstrip("\n") + "".join(f"\na new prompt, number {number}\tx\ty\t" for number in range(200)) + "\n"
        hub.put_files("me/prompts", {"PartiPrompts.tsv": more.encode()}, private=True)
        ended = imagetask(*words, cwd=work, env=env, timeout=300)
        assert ended.code == DONE, ended.text

        commits, after = hub.commits(REPO), shards(hub)
        assert len(commits) == 3
        assert {path: after[path] for path in before} == before
        assert [path for path in commits[-1].added if path.startswith("data/")] == ["data/train-00001.parquet"]
        assert not commits[-1].deleted
        again = loaded(hub, tmp_path / "later")
        assert again["prompts"][:1632] == first["prompts"]
        assert (len(again["sha256"]), len(model_server.calls)) == (1832, 1832)
        assert again["sha256"] == again["said"]

        ended = imagetask("push", "out", REPO, cwd=work, env=env)
        assert (ended.code, len(hub.commits(REPO))) == (DONE, 3), ended.text
        revision = hub.commits("me/prompts")[-1].sha
        assert f"hf://datasets/me/prompts@{revision}" in (work / "out" / "README.md").read_text()
