"""The Hub's token comes from a block by its name, and stands in no message, file or log."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagetask_flows.hub_credentials import hub_token
from pydantic import SecretStr

from imagetask.blocks import InferenceEndpointsCredentials
from imagetask.errors import UsageError
from tests.canary import found, new_key
from tests.command_line import STOPPED, WRONG_USAGE, imagetask
from tests.conftest import prefect_folders
from tests.hub_server import HubServer

pytestmark = pytest.mark.prefect_server


def test_a_run_reads_and_pushes_with_the_token_of_a_block(tmp_path: Path, server_url: dict[str, str]) -> None:
    token = new_key()
    InferenceEndpointsCredentials(api_key=SecretStr(token)).save("hub-one", overwrite=True)
    (tmp_path / "work").mkdir()
    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me", token)
        hub.put_files("me/prompts", {"p.csv": b"prompt\na cat\na dog\n"}, private=True)
        env = {**server_url, **hub.env(tmp_path / "home")}
        words = ["generate", "hf://datasets/me/prompts", "--out", "out", "--push-to", "me/cats"]
        refused = imagetask(*words, cwd=tmp_path / "work", env=env)
        assert refused.code != 0
        assert "set HF_TOKEN" in refused.text
        ended = imagetask(*words, "--hub-credentials", "hub-one", cwd=tmp_path / "work", env=env)
        assert ended.code == 0, ended.text
        assert f"pushed: {hub.url}/datasets/me/cats" in ended.text
        assert hub.is_private("me/cats")

        taken = [*words[:2], "--out", "other", *words[4:], "--hub-credentials", "hub-one"]
        ended = imagetask(*taken, cwd=tmp_path / "work", env=env)
        assert ended.code == WRONG_USAGE
        assert "me/cats on the Hub holds another dataset" in ended.text
        made = [file for file in (tmp_path / "work" / "other").rglob("*") if file.suffix in (".png", ".parquet")]
        assert made == [], "told before an image is made"

        hub.fail(r"POST .*/preupload/", status=403, times=None, message="no")
        (tmp_path / "work" / "more.csv").write_text("prompt\nan owl\n")
        more = ["generate", "more.csv", "--out", "out", "--push-to", "me/cats", "--hub-credentials", "hub-one"]
        ended = imagetask(*more, cwd=tmp_path / "work", env=env)
        assert ended.code in (STOPPED, 2)
        assert "the token may not push to the dataset me/cats on the Hub" in ended.text
        assert "pushed" not in ended.text
    assert found(token, tmp_path / "work", *prefect_folders()) == []
    assert token not in ended.text


def test_a_block_that_is_not_there_or_holds_no_token_is_told(prefect_server: None) -> None:
    with pytest.raises(UsageError, match="--hub-credentials absent: there is no block"):
        hub_token("absent")
    InferenceEndpointsCredentials().save("hub-empty", overwrite=True)
    with pytest.raises(UsageError, match="--hub-credentials hub-empty: the block holds no token"):
        hub_token("hub-empty")
    assert hub_token(None) is None
