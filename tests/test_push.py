"""A dataset goes to the Hub whole or not at all, nothing of it twice; what stands in the way is told in a sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from imagetask import push as pushing
from imagetask.errors import DatasetError, HubError, UsageError
from imagetask.hub import hub_errors
from imagetask.layout import Layout, read_json, write_json
from imagetask.push import Pushed, check_push, push
from tests.canary import found, new_key
from tests.command_line import DONE, WRONG_USAGE, environment, imagetask
from tests.hub_server import SIGNATURE, Commit, HubServer
from tests.small_datasets import make_dataset

# The client's own: it gives a file to `data=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "me/cats"
TOKEN, READER = "hf_writer4711", "hf_reader4711"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(pushing, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me", TOKEN)
        hub.add_user("me", READER, role="read")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def out(tmp_path: Path) -> Path:
    grown(tmp_path / "out", 20)
    return tmp_path / "out"


def grown(out: Path, rows: int) -> None:
    make_dataset(out, [{"prompt": f"a cat number {number}"} for number in range(rows)], chunk_rows=8)


def pushed(out: Path, token: str = TOKEN, **options: Any) -> Pushed:
    return push(Layout(out), REPO, token=token, **options)


def is_whole(commit: Commit) -> bool:
    """Whether a reader of this commit has a dataset: as many rows as the card says, in the files that it names."""
    card = yaml.safe_load(commit.files["README.md"].read().decode().split("---\n")[1])
    info = card["dataset_info"][0] if isinstance(card["dataset_info"], list) else card["dataset_info"]
    names = [path for path in commit.files if path.startswith("data/")]
    rows = sum(pq.read_metadata(io.BytesIO(commit.files[path].read())).num_rows for path in names)
    listed = json.loads(commit.files["imagetask.json"].read())["files"]
    return bool(rows == info["splits"][0]["num_examples"] and set(listed) <= commit.files.keys())


def local_hashes(out: Path) -> dict[str, str]:
    return {f"data/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in (out / "data").iterdir()}


def hub_hashes(hub: HubServer) -> dict[str, str]:
    return {path: file.sha256 for path, file in hub.files(REPO, "main").items() if path.startswith("data/")}


def test_first_push_makes_a_private_dataset_in_one_commit(hub: HubServer, out: Path) -> None:
    told: list[str] = []
    done = pushed(out, told=told.append)
    assert hub.is_private(REPO)
    assert [commit.sha for commit in hub.commits(REPO)][1:] == [done.commit]
    assert hub_hashes(hub) == local_hashes(out)
    assert is_whole(hub.commits(REPO)[-1])
    assert (done.url, told[0]) == (f"{hub.url}/datasets/{REPO}", "data/train-00000.parquet: uploaded, 1 of 2")
    assert f"load_dataset('{REPO}'" in hub.files(REPO, "main")["README.md"].read().decode().replace('"', "'")


def test_push_of_nothing_new_commits_nothing_and_sends_nothing(hub: HubServer, out: Path) -> None:
    pushed(out)
    before = len(hub.uploads)
    assert pushed(out).commit is None
    assert (len(hub.commits(REPO)), len(hub.uploads)) == (2, before)


def test_what_is_added_comes_in_one_commit_and_touches_no_shard(hub: HubServer, out: Path) -> None:
    pushed(out)
    before = hub_hashes(hub)
    grown(out, 27)
    pushed(out)
    after, last = hub_hashes(hub), hub.commits(REPO)[-1]
    assert {path: after[path] for path in before} == before
    assert [path for path in last.added if path.startswith("data/")] == ["data/train-00001.parquet"]
    assert is_whole(last)
    assert after == local_hashes(out)


def test_shards_that_are_no_longer_part_of_the_dataset_leave_it(hub: HubServer, out: Path) -> None:
    pushed(out)
    grown(out, 27)
    pushed(out)
    grown(out, 8)
    pushed(out)
    assert hub.commits(REPO)[-1].deleted == ("data/train-00001.parquet",)
    assert is_whole(hub.commits(REPO)[-1])


def test_a_dataset_that_was_deleted_on_the_hub_is_made_again(hub: HubServer, out: Path) -> None:
    pushed(out)
    HfApi(endpoint=hub.url, token=TOKEN).delete_repo(REPO, repo_type="dataset")
    assert pushed(out).commit
    assert hub_hashes(hub) == local_hashes(out)


def test_a_dataset_that_is_there_stays_as_public_as_it_is(hub: HubServer, out: Path) -> None:
    hub.put_files(REPO, {"README.md": b"Cats."}, private=False)
    told: list[str] = []
    pushed(out, told=told.append)
    assert told[0] == f"{REPO} is public already, and stays so"
    assert not hub.is_private(REPO)


def test_what_people_wrote_into_the_card_stays(hub: HubServer, out: Path) -> None:
    hub.put_files(
        REPO, {"README.md": b"---\nlicense: mit\npretty_name: My cats\n---\nWritten by hand.\n"}, private=True
    )
    pushed(out)
    card = hub.files(REPO, "main")["README.md"].read().decode()
    assert "license: mit" in card
    assert "pretty_name: My cats" in card
    assert "Written by hand." in card
    hub.put_files(REPO, {"README.md": card.replace("by hand", "by me").encode()})
    grown(out, 21)
    pushed(out)
    assert "Written by me." in hub.files(REPO, "main")["README.md"].read().decode()


def test_a_stale_card_in_the_folder_does_no_harm(hub: HubServer, out: Path) -> None:
    (out / "README.md").write_text("---\ndataset_info: {splits: [{name: train, num_examples: 3}]}\n---\nold\n")
    pushed(out)
    assert is_whole(hub.commits(REPO)[-1])


def published(out: Path) -> list[str]:
    """The shards that keep their rows from now on."""
    return sorted((read_json(Layout(out).pushed) or {"files": ()})["files"])


PUSH = """
import sys
from imagetask.layout import Layout
from imagetask.push import push
push(Layout(__import__("pathlib").Path(sys.argv[1])), sys.argv[2], told=lambda line: print(line, flush=True))
"""


def kill_when(reached: Callable[[], bool], command: list[str], env: dict[str, str]) -> None:
    """Starts the push, and ends it by SIGKILL at this moment."""
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        while not reached():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_killed_twice_in_the_middle_and_once_at_the_commit_it_goes_on_and_sends_nothing_again(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.cutting.SHARD_ROWS", 8)
    out = tmp_path / "out"
    grown(out, 32)
    env = {**environment(tmp_path), **hub.env(tmp_path / "home", token=TOKEN), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", PUSH, str(out), REPO]
    for more, up in ((1, 1), (2, 3)):
        hub.slow(r"PUT /uploads/", 60, after=more)
        kill_when(lambda up=up: len(hub.uploads) >= up, command, env)  # type: ignore[misc]
        hub.recover()
        assert len(hub.commits(REPO)) == 1, "a reader sees nothing of it"
        assert published(out) == [], "and the next run may cut it anew"
    hub.drop(r"POST .*/commit/", at="answer")
    kill_when(lambda: len(hub.commits(REPO)) > 1, command, env)
    assert published(out) == [f"train-0000{number}.parquet" for number in range(4)]
    assert is_whole(hub.commits(REPO)[-1])
    assert pushed(out).commit is None
    assert len(hub.commits(REPO)) == 2
    assert hub_hashes(hub) == local_hashes(out)
    sent = [upload.oid for upload in hub.uploads]
    assert len(sent) == len(set(sent)) == 4 + 1, "four shards and the contact sheet, each once"


@pytest.mark.parametrize(
    ("fault", "path"),
    [
        ({"status": 429, "retry_after": 0}, r"POST .*/commit/"),
        ({"status": 500}, r"POST .*/commit/"),
        ({"status": 503}, r"GET /api/datasets/"),
        ({"status": 500}, r"POST .*/objects/batch"),
        ({"status": 503}, r"POST /api/validate-yaml"),
        ({"at": "answer"}, r"POST .*/commit/"),
        ({"at": "request"}, r"POST .*/commit/"),
        ({"at": "request"}, r"PUT /uploads/"),
        ({"at": "body"}, r"GET /api/datasets/"),
    ],
    ids=str,
)
def test_a_hub_that_refuses_for_now_is_waited_for(hub: HubServer, out: Path, fault: dict[str, Any], path: str) -> None:
    (hub.drop if "at" in fault else hub.fail)(path, times=2, **fault)
    done = pushed(out)
    [commit] = hub.commits(REPO)[1:]  # one whose answer was lost is not made again
    assert is_whole(commit)
    assert (done.commit, done.files) == (commit.sha, 2)
    assert hub_hashes(hub) == local_hashes(out)


def test_a_hub_that_goes_on_refusing_is_told_and_the_same_push_goes_on(
    hub: HubServer, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pushing, "LONGEST_WAIT", 0.05)
    hub.fail(r"POST .*/commit/", status=503, times=None)
    with pytest.raises(HubError, match="HTTP 503; what was sent is kept, and the same command goes on"):
        pushed(out)
    hub.recover()
    before = len(hub.uploads)
    assert pushed(out).commit
    assert len(hub.uploads) == before
    hub.drop(r"PUT /uploads/", at="request", times=None)
    grown(out, 30)
    with pytest.raises(HubError) as caught:
        pushed(out)
    assert caught.value.__cause__ is None
    told = str(caught.value) + caplog.text
    assert SIGNATURE not in told
    assert TOKEN not in told


def test_what_somebody_else_committed_meanwhile_is_kept(hub: HubServer, out: Path) -> None:
    pushed(out)
    grown(out, 27)
    others = iter([b"a note of theirs"])

    def commits_first(line: str) -> None:
        for note in others:
            hub.put_files(REPO, {"NOTES.md": note})

    pushed(out, told=commits_first)
    assert hub.files(REPO, "main")["NOTES.md"].read() == b"a note of theirs"
    assert is_whole(hub.commits(REPO)[-1])


def test_a_name_that_is_taken_is_refused_and_nothing_there_is_touched(
    hub: HubServer, out: Path, tmp_path: Path
) -> None:
    hub.put_files(REPO, {"data/train.csv": b"theirs"}, private=True)
    before = hub.commits(REPO)
    with pytest.raises(UsageError, match=r"already holds other files \(data/train.csv, …\): choose another name"):
        pushed(out)
    assert hub.commits(REPO) == before
    grown(tmp_path / "another", 3)
    push(Layout(tmp_path / "another"), "me/dogs", token=TOKEN)
    with pytest.raises(UsageError, match=r"holds another dataset.* take its place with imagetask push … --replace"):
        push(Layout(out), "me/dogs", token=TOKEN)


def test_a_dataset_whose_folder_was_lost_takes_its_place_again_where_that_is_asked(
    hub: HubServer, out: Path, tmp_path: Path
) -> None:
    grown(out, 27)
    pushed(out)
    hub.put_files(REPO, {"NOTES.md": b"theirs"})
    grown(tmp_path / "again", 20)
    told: list[str] = []
    pushed(tmp_path / "again", replace=True, told=told.append)
    assert f"{REPO} has 27 rows, and 20 after this push: its history keeps them" in told
    assert hub_hashes(hub) == local_hashes(tmp_path / "again")
    assert is_whole(hub.commits(REPO)[-1])
    assert hub.files(REPO, "main")["NOTES.md"].read() == b"theirs"
    assert pushed(tmp_path / "again").commit is None, "it is the dataset of this folder from now on"
    hub.put_files("me/others", {"data/train.csv": b"theirs"}, private=True)
    with pytest.raises(UsageError, match="already holds other files"):
        push(Layout(out), "me/others", token=TOKEN, replace=True)


def test_a_card_that_the_hub_does_not_take_is_told(hub: HubServer, out: Path) -> None:
    (out / "README.md").write_text("---\nlicense: cc-by-99\n---\n")
    hub.fail(r"POST /api/validate-yaml", status=400)
    with pytest.raises(UsageError, match=r"refuses the front matter of the card of me/cats .* mend it in .*README.md"):
        pushed(out)
    assert pushed(out).commit


def test_a_hub_that_says_how_long_to_wait_is_believed(hub: HubServer, out: Path) -> None:
    hub.fail(r"POST .*/commit/", status=429, retry_after=3600, times=None)
    with pytest.raises(HubError, match="HTTP 429, and asks to wait 3600 s; what was sent is kept") as caught:
        pushed(out)
    assert caught.value.retry_after is None
    answer = httpx2.Response(429, headers={"RateLimit": '"api";r=0;t=55'}, request=httpx2.Request("POST", hub.url))
    with pytest.raises(HubError) as caught, hub_errors("push to", REPO):
        raise HfHubHTTPError("", response=answer)
    assert caught.value.retry_after == 55


def test_a_push_that_goes_on_in_spite_of_failures_is_not_given_up(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagetask.cutting.SHARD_ROWS", 8)
    monkeypatch.setattr(pushing, "LONGEST_WAIT", 0.05)
    grown(tmp_path / "out", 64)
    for number in range(8):
        hub.fail(r"POST .*/objects/batch", status=502, times=8, after=9 * number + 1)
    assert pushed(tmp_path / "out").files == 9


def test_what_the_hub_refused_is_not_published_and_may_be_cut_anew(hub: HubServer, out: Path) -> None:
    hub.fail(r"POST .*/commit/", status=403)
    with pytest.raises(UsageError, match="may not push to"):
        pushed(out)
    assert published(out) == []
    grown(out, 27)
    pushed(out)
    assert published(out) == ["train-00000.parquet"]


def test_a_push_to_a_second_name_that_fails_leaves_what_is_published_under_the_first(hub: HubServer, out: Path) -> None:
    pushed(out)
    grown(out, 27)
    hub.fail(r"POST .*/commit/", status=403)
    with pytest.raises(UsageError, match="may not push to"):
        push(Layout(out), "me/cat", token=TOKEN)
    assert published(out) == ["train-00000.parquet"]


def test_a_file_named_as_our_marker_makes_no_dataset_of_ours(hub: HubServer, out: Path) -> None:
    hub.put_files(REPO, {"imagetask.json": b'["my notes"]', "data/train-00001.parquet": b"theirs"}, private=True)
    with pytest.raises(UsageError, match="already holds other files"):
        pushed(out, replace=True)


def test_a_large_file_that_the_hub_does_not_take_is_told_with_its_words(hub: HubServer, out: Path) -> None:
    hub.refuse_objects("Private repository storage limit reached")
    with pytest.raises(UsageError, match=r"could not push to the dataset me/cats .* storage limit reached"):
        pushed(out)
    hub.refuse_objects(None)
    assert pushed(out).commit


NO_RIGHTS = [
    ("you/cats", TOKEN, "of me, who has no part in you: push to me/…"),
    ("me/cats", READER, "may only read"),
    ("me/cats", "hf_unknown", "the Hub does not know the token"),
    ("me/cats", None, "set HF_TOKEN"),
]


@pytest.mark.parametrize(("repo", "token", "says"), NO_RIGHTS)
def test_whoever_may_not_push_is_told_so_and_nothing_is_made(
    hub: HubServer, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repo: str, token: str | None, says: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for attempt in (lambda: check_push(repo, token), lambda: push(Layout(out), repo, token=token)):
        with pytest.raises(UsageError, match=says) as caught:
            attempt()
        assert token is None or found(token, caught.value) == []
    assert not hub.exists(repo)


def test_rights_that_are_missing_in_a_dataset_that_is_there_are_told(hub: HubServer, out: Path) -> None:
    pushed(out)
    grown(out, 27)
    with pytest.raises(UsageError, match="may only read"):
        pushed(out, token=READER)
    token = new_key()
    hub.add_user("me", token)
    hub.fail(r"POST .*/preupload/", status=403, times=None, message=f"Not with {token}")
    with pytest.raises(UsageError, match=r"may not push to the dataset me/cats .*\(Not with \*\*\*\)") as caught:
        pushed(out, token=token)
    assert found(token, caught.value, out) == []


def test_a_name_without_an_owner_is_refused(hub: HubServer, out: Path) -> None:
    with pytest.raises(UsageError, match="'cats' is no name of a dataset on the Hub: expected OWNER/NAME"):
        push(Layout(out), "cats", token=TOKEN)
    assert hub.requests == []


def test_a_folder_without_a_dataset_is_refused(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a folder that imagetask generate wrote"):
        pushed(tmp_path)


def test_the_command_pushes_and_says_how_to_load_it(hub: HubServer, out: Path, tmp_path: Path) -> None:
    env = hub.env(tmp_path / "home", token=TOKEN)
    ended = imagetask("push", "out", REPO, cwd=tmp_path, env=env)
    assert ended.code == DONE, ended.text
    assert f"datasets.load_dataset('{REPO}')" in ended.text
    refused = imagetask("push", "out", "you/cats", cwd=tmp_path, env=env)
    assert refused.code == WRONG_USAGE
    assert "who has no part in you: push to me/…" in refused.text
    assert found(TOKEN, ended.text, refused.text) == []
    assert found(TOKEN, out) == []


def test_a_folder_whose_run_is_not_at_its_end_is_told_from_one_that_is_none(hub: HubServer, out: Path) -> None:
    Layout(out).shards.unlink()
    write_json(Layout(out).run, {})
    with pytest.raises(DatasetError, match=r"no finished dataset yet: imagetask status .* tells how its run goes on"):
        pushed(out)


def test_what_is_pending_is_told(hub: HubServer, out: Path) -> None:
    [shard] = (out / "data").iterdir()
    rows = pq.read_table(shard).to_pylist()
    schema = pq.read_schema(shard)
    missing = {"image": None, "image_size": None, "status": "pending"}
    pq.write_table(pa.Table.from_pylist([*rows[:17], *({**row, **missing} for row in rows[17:])], schema), shard)
    told: list[str] = []
    pushed(out, told=told.append)
    assert told[0] == "3 of its images are pending: no run has come to them"


def test_an_address_of_the_hub_that_is_none_is_told_at_once(
    hub: HubServer, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "junk")
    with pytest.raises(UsageError, match="HF_ENDPOINT is 'junk': expected a URL that begins with https:// or http://"):
        pushed(out)


def test_a_dataset_that_a_killed_run_left_half_new_is_not_pushed(hub: HubServer, out: Path) -> None:
    layout = Layout(out)
    record = read_json(layout.shards) or {}
    for sign in ({"digest": ""}, {"gone": True}):
        write_json(layout.shards, {**record, "shards": [{**record["shards"][0], **sign}]})
        with pytest.raises(DatasetError, match="was left while its shards were put in place: run the same command"):
            pushed(out)
    assert not hub.exists(REPO)
