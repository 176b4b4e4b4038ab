"""The Hub's double against the Hub's own clients: what they ask for they get, and what goes wrong they tell apart."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import SIGNATURE, HubServer, Upload, start_hub_server

# The client's own: it gives a file to `data=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

DATA = "me/data"
README = b"---\nlicense: mit\n---\n# Data\n"
PART = 1 << 20


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with HubServer(tmp_path / "hub", page_size=3, part_size=PART) as server:
        server.add_user("me", "hf_me")
        server.add_user("me", "hf_reader", role="read")
        server.add_user("other", "hf_other")
        yield server


def client(server: HubServer, token: str | None = "hf_me") -> HfApi:
    return HfApi(endpoint=server.url, token=token or False)


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def commit(server: HubServer, *operations: CommitOperationAdd | CommitOperationDelete, **options: object) -> str:
    api = client(server)
    api.create_repo(DATA, repo_type="dataset", exist_ok=True)
    made = api.create_commit(DATA, operations, commit_message="A commit", repo_type="dataset", **options)  # type: ignore[call-overload]
    return str(made.oid)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_small_and_large_files_come_back_as_they_were_committed(server: HubServer, tmp_path: Path) -> None:
    large, in_parts = os.urandom(1000), os.urandom(3 * PART + 5)
    sha = commit(server, add("README.md", README), add("data/a.parquet", large), add("data/b.parquet", in_parts))
    contents = {"README.md": README, "data/a.parquet": large, "data/b.parquet": in_parts}
    for path, content in contents.items():
        place = {"cache_dir": tmp_path / "cache", "endpoint": server.url, "token": "hf_me"}
        found = hf_hub_download(DATA, path, repo_type="dataset", revision=sha, **place)  # type: ignore[call-overload]
        assert Path(found).read_bytes() == content
    files = server.files(DATA)
    assert {path: file.read() for path, file in files.items() if path != ".gitattributes"} == contents
    assert [files[path].lfs for path in contents] == [False, True, True]
    oids = [hashlib.sha256(content).hexdigest() for content in (large, in_parts)]
    assert sorted(server.uploads, key=lambda upload: upload.bytes) == [
        Upload(oids[0], 1000, 0),
        Upload(oids[1], 3 * PART + 5, 4),
    ]
    assert all(seen.status < 400 for seen in server.requests)


def test_listings_come_in_pages_and_tell_what_the_files_are(server: HubServer) -> None:
    server.put_files(DATA, {f"data/{number}.parquet": bytes([number]) for number in range(8)})
    server.put_files(DATA, {"README.md": README}, message="The card")
    api = client(server, None)
    entries = list(api.list_repo_tree(DATA, repo_type="dataset", recursive=True))
    assert [entry.path for entry in entries] == sorted([*server.files(DATA), "data"])
    assert sum("/tree/" in seen.path for seen in server.requests) == 4
    detailed = {entry.path: entry for entry in api.list_repo_tree(DATA, repo_type="dataset", expand=True)}
    assert {path: entry.last_commit.title for path, entry in detailed.items() if entry.last_commit} == {
        ".gitattributes": "initial commit",
        "README.md": "The card",
        "data": "Put files",
    }
    info = api.get_paths_info(DATA, ["data/3.parquet", "data", "missing"], repo_type="dataset")
    assert [entry.path for entry in info] == ["data/3.parquet", "data"]
    about = api.dataset_info(DATA, files_metadata=True)
    assert about.card_data is not None
    assert (about.sha, about.card_data.license) == (server.commits(DATA)[-1].sha, "mit")
    assert about.siblings is not None
    assert {file.rfilename: file.size for file in about.siblings} == {p: f.size for p, f in server.files(DATA).items()}
    assert [made.title for made in api.list_repo_commits(DATA, repo_type="dataset")][::-1] == [
        made.message for made in server.commits(DATA)
    ]


def test_a_file_is_read_in_ranges(server: HubServer) -> None:
    content = os.urandom(100_000)
    server.put_files(DATA, {"data/a.parquet": content, "small.txt": b"0123456789"})
    filesystem = HfFileSystem(endpoint=server.url, token=False, skip_instance_cache=True)
    with filesystem.open(f"datasets/{DATA}/data/a.parquet", block_size=1000) as file:
        file.seek(50_000)
        assert file.read(10) == content[50_000:50_010]
    assert server.requests[-1].status == 206
    assert filesystem.cat_file(f"datasets/{DATA}/small.txt", start=-3) == b"789"
    beyond = httpx2.get(f"{server.url}/datasets/{DATA}/resolve/main/small.txt", headers={"Range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, "bytes */10")


def test_interrupted_upload_goes_on_where_it_stopped(server: HubServer) -> None:
    contents = [bytes([number]) * 1000 for number in range(3)]
    server.fail("PUT /uploads/", status=403, after=2)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        commit(server, *(add(f"{number}.parquet", content) for number, content in enumerate(contents)), num_threads=1)
    assert len(server.commits(DATA)) == 1
    assert len(server.uploads) == 2
    commit(server, *(add(f"{number}.parquet", content) for number, content in enumerate(contents)))
    assert sorted(upload.oid for upload in server.uploads) == sorted(hashlib.sha256(c).hexdigest() for c in contents)
    assert server.commits(DATA)[-1].added == ("0.parquet", "1.parquet", "2.parquet")


def test_files_that_are_there_are_not_committed_again(server: HubServer) -> None:
    first = commit(server, add("README.md", README), add("a.parquet", b"a"))
    assert commit(server, add("README.md", README), add("a.parquet", b"a")) == first
    commit(server, add("a.parquet", b"b"), CommitOperationDelete("README.md"))
    assert (server.commits(DATA)[-1].added, server.commits(DATA)[-1].deleted) == (("a.parquet",), ("README.md",))


def test_commit_on_a_stale_parent_is_refused(server: HubServer) -> None:
    first = commit(server, add("a.txt", b"a"))
    second = commit(server, add("b.txt", b"b"), parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        commit(server, add("c.txt", b"c"), parent_commit=first)
    assert status_of(error) == 412
    assert server.refs(DATA) == {"refs/heads/main": second}


def test_commit_with_a_part_that_cannot_be_done_changes_nothing(server: HubServer) -> None:
    before = commit(server, add("a.txt", b"a"))
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        commit(server, add("b.txt", b"b"), CommitOperationDelete("missing.txt"))
    assert server.refs(DATA) == {"refs/heads/main": before}
    pointer = '{"key":"header","value":{"summary":"s"}}\n{"key":"lfsFile","value":{"path":"x","oid":"%s"}}' % ("0" * 64)
    url = f"{server.url}/api/datasets/{DATA}/commit/main"
    assert httpx2.post(url, content=pointer, headers={"Authorization": "Bearer hf_me"}).status_code == 400


def test_branches_tags_and_pull_requests_leave_main_alone(server: HubServer) -> None:
    api = client(server)
    first = commit(server, add("data/a.txt", b"a"), add("data/b.txt", b"b"))
    api.create_tag(DATA, tag="v1", repo_type="dataset")
    api.create_branch(DATA, branch="next", repo_type="dataset")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(DATA, branch="next", repo_type="dataset")
    assert status_of(error) == 409
    commit(server, CommitOperationDelete("data/"), revision="next")
    commit(server, add("c.txt", b"c"), create_pr=True)
    assert set(server.files(DATA, "next")) == {".gitattributes"}
    assert "c.txt" in server.files(DATA, "refs/pr/1")
    refs = api.list_repo_refs(DATA, repo_type="dataset", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)} == {
        "main": first,
        "next": server.commits(DATA, "next")[-1].sha,
        "v1": first,
    }
    assert [ref.ref for ref in refs.pull_requests or ()] == ["refs/pr/1"]
    assert api.dataset_info(DATA, revision="refs/pr/1").sha == server.refs(DATA)["refs/pr/1"]
    api.merge_pull_request(DATA, 1, repo_type="dataset")
    assert set(server.files(DATA)) == {".gitattributes", "data/a.txt", "data/b.txt", "c.txt"}


def test_private_repository_is_there_for_its_owner_only(server: HubServer) -> None:
    url = client(server).create_repo(DATA, repo_type="dataset", private=True)
    assert (url.repo_id, url.repo_type) == (DATA, "dataset")
    assert client(server, "hf_reader").dataset_info(DATA).private
    for token, status in ((None, 401), ("hf_other", 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            client(server, token).dataset_info(DATA)
        assert status_of(error) == status
    client(server).update_repo_settings(DATA, private=False, repo_type="dataset")
    assert not client(server, None).dataset_info(DATA).private
    client(server).delete_repo(DATA, repo_type="dataset")
    assert not server.exists(DATA)


def test_who_may_not_write_is_told_so(server: HubServer) -> None:
    api = client(server)
    api.create_repo(DATA, repo_type="dataset")
    api.auth_check(DATA, repo_type="dataset", write=True)
    with pytest.raises(HfHubHTTPError, match="already created") as error:
        api.create_repo(DATA, repo_type="dataset")
    assert status_of(error) == 409
    for token in ("hf_reader", "hf_other"):
        with pytest.raises(HfHubHTTPError, match="403 Forbidden") as error:
            client(server, token).upload_file(
                path_or_fileobj=b"a", path_in_repo="a.txt", repo_id=DATA, repo_type="dataset"
            )
        assert status_of(error) == 403
    with pytest.raises(HfHubHTTPError, match="rights to write under the namespace"):
        api.create_repo("other/data", repo_type="dataset")
    with pytest.raises(HfHubHTTPError) as error:
        client(server, "hf_wrong").dataset_info(DATA)
    assert (status_of(error), type(error.value)) == (401, HfHubHTTPError)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        client(server, "hf_wrong").whoami()


def test_gated_repository_shows_its_files_to_the_granted_only(server: HubServer, tmp_path: Path) -> None:
    server.put_files(DATA, {"a.txt": b"a"})
    server.gate(DATA)
    place = {"cache_dir": tmp_path / "cache", "endpoint": server.url}
    for token in (False, "hf_other"):
        with pytest.raises(GatedRepoError):
            hf_hub_download(DATA, "a.txt", repo_type="dataset", token=token, **place)  # type: ignore[call-overload]
    server.gate(DATA, "other")
    assert hf_hub_download(DATA, "a.txt", repo_type="dataset", token="hf_other", **place)  # type: ignore[call-overload]


def test_what_is_missing_is_told_apart(server: HubServer, tmp_path: Path) -> None:
    server.put_files(DATA, {"a.txt": b"a"})
    api = client(server)
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("me/missing")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(DATA)
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info(DATA, revision="missing")
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(DATA, "missing", repo_type="dataset"))
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(DATA, "missing.txt", repo_type="dataset", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        commit(server, add("README.md", b"---\nlicense: [\n---\n"))
    with pytest.raises(BadRequestError):
        commit(server, add("a.txt/b.txt", b"a file is no folder"))


def test_faults_hit_the_requests_that_they_are_for(server: HubServer) -> None:
    server.fail("whoami", status=429, retry_after=7, after=1)
    api = client(server)
    assert api.whoami()["name"] == "me"
    with pytest.raises(HfHubHTTPError) as error:
        api.whoami()
    assert (status_of(error), error.value.response.headers["Retry-After"]) == (429, "7")
    server.fail("/commit/", status=503, times=2, message="Try later")
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="Try later"):
            commit(server, add("a.txt", b"a"))
    assert commit(server, add("a.txt", b"a")) == server.commits(DATA)[-1].sha
    server.slow("HEAD .*/resolve/", 0.3)
    file = f"{server.url}/datasets/{DATA}/resolve/main/a.txt"
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.head(file, timeout=0.1)
    server.recover()
    assert httpx2.head(file, timeout=10).status_code == 200


def test_connections_drop_in_the_middle_of_what_they_carry(server: HubServer, tmp_path: Path) -> None:
    server.drop("PUT /uploads/")
    server.drop("/commit/", at="answer")
    with pytest.raises(httpx2.RemoteProtocolError):
        commit(server, add("a.parquet", b"a" * 1000))
    assert [seen.status for seen in server.requests if seen.method == "PUT"] == [0, 200]  # the client's own retry
    assert server.commits(DATA)[-1].added == ("a.parquet",)  # its answer was lost
    server.drop("GET /files/", at="body")
    found = client(server).hf_hub_download(DATA, "a.parquet", repo_type="dataset", cache_dir=tmp_path)
    assert Path(found).read_bytes() == b"a" * 1000


def test_storage_takes_signed_urls_without_a_token_only(server: HubServer) -> None:
    server.put_files(DATA, {"a.parquet": b"a"})
    answer = httpx2.get(f"{server.url}/datasets/{DATA}/resolve/main/a.parquet")
    place = answer.headers["Location"]
    assert SIGNATURE in place
    assert not place.startswith(server.url)
    assert httpx2.get(place).content == b"a"
    assert httpx2.get(place.replace(SIGNATURE, "x")).status_code == 403
    assert httpx2.get(place, headers={"Authorization": "Bearer hf_me"}).status_code == 400


LOAD = """
from datasets import load_dataset
rows = [{"row_id": number, "prompt": f"prompt {number}"} for number in range(5)]
assert list(load_dataset("me/data", split="train")) == rows
assert list(load_dataset("me/data", split="train", streaming=True)) == rows
"""


def test_private_dataset_is_loaded_and_streamed_from_another_process(tmp_path: Path) -> None:
    table = pa.table({"row_id": range(5), "prompt": [f"prompt {number}" for number in range(5)]})
    file = io.BytesIO()
    pq.write_table(table, file)
    with HubServer(tmp_path / "hub") as server:
        server.add_user("me", "hf_me")
        server.put_files(DATA, {"data/train-00000-of-00001.parquet": file.getvalue()}, private=True)
        environment = {**os.environ, **server.env(tmp_path / "home", token="hf_me")}
        done = subprocess.run([sys.executable, "-c", LOAD], env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()


def test_hub_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    with start_hub_server(tmp_path / "hub", "me:hf_me") as url:
        assert HfApi(endpoint=url, token="hf_me").whoami()["name"] == "me"
