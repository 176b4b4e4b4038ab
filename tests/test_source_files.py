"""Sources that lie elsewhere, or are packed: what is there is read, and what is wrong with it told by its own name."""

from __future__ import annotations

import gzip
import io
import os
import sys
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub.constants
import obstore
import polars as pl
import pyarrow as pa
import pytest
from imagetask_flows.command_line.standard_input import saved_standard_input

from imagetask.errors import HubError, SourceError, StorageError, UsageError
from imagetask.object_stores import open_store
from imagetask.sources import scan_source, source_files, source_name
from imagetask.sources.files import matches
from tests.command_line import WRONG_USAGE, imagetask
from tests.hub_server import HubServer
from tests.s3_server import S3Server, start_s3_server

CSV = b"prompt,note\na cat,x\na dog,\n"
ROWS: dict[str, list[Any]] = {"prompt": ["a cat", "a dog"], "note": ["x", None]}
SERIES = {f"data/train-0000{n}-of-00002.csv": f"prompt\nnumber {n}\n".encode() for n in range(2)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGETASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    return tmp_path / "cache" / "sources"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me", "hf_me")
        hub.put_files("me/open", {"prompts.csv": CSV, "README.md": b"# Prompts\n"}, private=False)
        hub.put_files("me/closed", {"prompts.csv": CSV}, private=True)
        hub.put_files("me/series", {**SERIES, "README.md": b""}, private=False)
        hub.put_files("me/several", {"train.csv": CSV, "test.csv": CSV}, private=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def read(source: Any, **options: Any) -> dict[str, list[Any]]:
    return scan_source(source, **options).collect().to_dict(as_series=False)


def refusal(source: Any, kind: type[Exception] = SourceError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        scan_source(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["p.csv.gz", "p.CSV.GZ", "p.csv.zst"])
def test_packed_files_are_read_as_what_is_in_them(tmp_path: Path, cache: Path, name: str) -> None:
    data = gzip.compress(CSV) if name.lower().endswith("gz") else zstd(CSV)
    path = written(tmp_path / name, data)
    assert read(path) == read(str(tmp_path / "p.*")) == ROWS
    assert len(list(cache.iterdir())) == 1, "unpacked once"
    assert source_files(path)[0].pinned == name


def test_what_was_not_used_for_a_week_leaves_the_cache(tmp_path: Path, cache: Path) -> None:
    for name in ("old.csv.gz", "used.csv.gz"):
        read(written(tmp_path / name, gzip.compress(CSV)))
    for path in cache.iterdir():
        os.utime(path, (time.time() - 6 * 86_400, path.stat().st_mtime))
    read(tmp_path / "used.csv.gz")
    [used] = [path for path in cache.iterdir() if path.stat().st_atime > time.time() - 86_400]
    for path in cache.iterdir():
        os.utime(path, (path.stat().st_atime - 2 * 86_400, path.stat().st_mtime))
    read(written(tmp_path / "new.csv.gz", gzip.compress(CSV)))
    left = list(cache.iterdir())
    assert used in left
    assert len(left) == 2


def test_packed_parquet_and_json_lines_are_read_too(tmp_path: Path) -> None:
    file = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(file)
    assert read(written(tmp_path / "p.parquet.zst", zstd(file.getvalue()))) == ROWS
    assert read(written(tmp_path / "p.jsonl.gz", gzip.compress(b'{"prompt": "a cat"}\n'))) == {"prompt": ["a cat"]}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("p.csv.gz", gzip.compress(CSV * 99)[:-20], "p.csv.gz is cut short, or is not gzip"),
        ("p.csv.zst", zstd(CSV * 9999)[:-20], "p.csv.zst is cut short, or is not Zstandard"),
        ("p.csv.gz", CSV, "p.csv.gz is cut short, or is not gzip"),
        ("p.csv.zst", CSV, "p.csv.zst is cut short, or is not Zstandard"),
        ("p.csv.gz", b"", "p.csv.gz is empty (0 bytes)"),
        ("p.csv.gz", gzip.compress(b""), "p.csv.gz is empty (0 bytes)"),
        ("p.csv.gz", gzip.compress(b'prompt\n"a" b\n'), "p.csv.gz, line 2: "),
        ("p.csv.gz", gzip.compress("prompt\ncafé\n".encode("latin-1")), "p.csv.gz, line 2: the byte 0xE9 is not UTF-8"),
        ("p.csv", gzip.compress(CSV), "the bytes are gzip, not text; name the file so, with .gz at its end"),
        ("p.txt.gz", gzip.compress(CSV), "has no suffix that says its format"),
    ],
    ids=["gzip cut", "zstd cut", "no gzip", "no zstd", "empty", "empty inside", "quotes", "bytes", "packed", "suffix"],
)
def test_what_is_wrong_with_a_packed_file_is_told_by_its_name(
    tmp_path: Path, cache: Path, name: str, data: bytes, says: str
) -> None:
    told = refusal(written(tmp_path / name, data))
    assert says in told
    assert str(cache) not in told


def test_dataset_on_the_hub_is_read_at_one_commit_which_is_told(hub: HubServer) -> None:
    first = hub.commits("me/open")[-1].sha
    [file] = source_files("hf://datasets/me/open")
    assert (file.name, file.pinned) == (
        "hf://datasets/me/open/prompts.csv",
        f"hf://datasets/me/open@{first}/prompts.csv",
    )
    assert read("hf://datasets/me/open") == read("hf://datasets/me/open/*.csv") == ROWS
    hub.put_files("me/open", {"prompts.csv": b"prompt\nanother\n"})
    assert read("hf://datasets/me/open") == {"prompt": ["another"]}
    assert read(f"hf://datasets/me/open@{first}/prompts.csv") == ROWS
    assert source_name("hf://datasets/me/open") == "hf://datasets/me/open"


@pytest.mark.parametrize(
    "pattern",
    [
        "*.csv",
        "*",
        "**",
        "**/*.csv",
        "a/*.csv",
        "a/**/*.csv",
        "a/**",
        "a/*/c.csv",
        "**/b/?.csv",
        ".*",
        "*/.x/*",
        "[a].*",
    ],
)
def test_globs_elsewhere_name_what_they_name_in_a_folder(tmp_path: Path, pattern: str) -> None:
    found = ["a.csv", "b.tsv", ".c.csv", "a/a.csv", "a/b/c.csv", "a/b/e/d.csv", "a/.x/c.csv", ".b/a.csv", "b/b/b.csv"]
    for path in found:
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        written(tmp_path / "in" / path, CSV)
    here = glob(pattern, root_dir=tmp_path / "in", recursive=True)
    assert {path for path in found if matches(path, pattern)} == {p for p in here if (tmp_path / "in" / p).is_file()}


def test_a_file_on_the_hub_is_found_without_a_listing_and_a_wrong_one_not_fetched(hub: HubServer) -> None:
    assert read("hf://datasets/me/open/prompts.csv") == ROWS
    assert "no suffix that says its format" in refusal("hf://datasets/me/open/README.md")
    seen = [f"{request.method} {request.path}" for request in hub.requests]
    assert not [path for path in seen if "/tree/" in path or (path.startswith("GET") and "README" in path)]


def test_a_numbered_series_on_the_hub_is_read_whole(hub: HubServer) -> None:
    assert read("hf://datasets/me/series") == {"prompt": ["number 0", "number 1"]}


def test_private_dataset_is_read_with_a_token_and_told_without(hub: HubServer) -> None:
    assert read("hf://datasets/me/closed", token="hf_me") == ROWS
    told = refusal("hf://datasets/me/closed", UsageError)
    assert "no dataset me/closed on the Hub, or it is private" in told
    assert "set HF_TOKEN" in told
    with pytest.raises(UsageError, match="the Hub does not know the token"):
        read("hf://datasets/me/open", token="hf_expired")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("hf://datasets/me/absent", "there is no dataset me/absent on the Hub, or it is private"),
        ("hf://datasets/me/open@v9", "has no such revision"),
        ("hf://datasets/me/open/prompt.csv", "has no such file; did you mean 'prompts.csv'?"),
        ("hf://datasets/me/open/zzz/*.parquet", "has no such file; there are '.gitattributes', 'README.md'"),
        ("hf://datasets/me/series/data", "is a folder ('data/train-00000-of-00002.csv', 'data/train-0"),
        ("hf://datasets/me/series/*.csv", "has no such file"),
        ("hf://datasets/me/several", "has several files of prompts ('test.csv', 'train.csv'): name one, as in"),
        ("hf://datasets/alone", "expected hf://datasets/OWNER/NAME"),
        ("hf://models/me/open", "expected hf://datasets/OWNER/NAME"),
        ("hf://me:pass5word@datasets/me/open", "holds credentials or a query"),
    ],
)
def test_what_is_not_on_the_hub_is_told_with_what_is(hub: HubServer, url: str, says: str) -> None:
    told = refusal(url, UsageError)
    assert says in told
    assert "pass5word" not in told


def test_hub_that_does_not_answer_is_told_as_such(hub: HubServer) -> None:
    hub.fail(r"GET /api/datasets/", status=503, times=None)
    assert "HTTP 503" in refusal("hf://datasets/me/open", HubError)
    hub.recover()
    hub.drop(r"GET /api/datasets/", at="request", times=None)
    assert "does not answer" in refusal("hf://datasets/me/open", HubError)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


def put(server: S3Server, key: str, data: bytes) -> None:
    obstore.put(open_store(f"s3://{server.bucket}"), key, data)


def test_objects_are_fetched_once_and_named_with_their_state(bucket: S3Server, cache: Path) -> None:
    put(bucket, "in/b.csv", CSV)
    put(bucket, "in/a.csv.gz", gzip.compress(CSV))
    url = f"s3://{bucket.bucket}/in"
    assert read(f"{url}/b.csv") == ROWS
    assert read(f"{url}/*.csv*") == {name: cells * 2 for name, cells in ROWS.items()}
    assert read(f"{url}/a.csv.gz") == ROWS
    assert len(list(cache.iterdir())) == 3, "two objects, and one of them unpacked"
    [file] = source_files(f"{url}/b.csv")
    assert file.pinned.startswith(f"{url}/b.csv (")
    put(bucket, "in/b.csv", b"prompt\nchanged\n")
    assert read(f"{url}/b.csv") == {"prompt": ["changed"]}


def test_a_large_object_is_fetched_in_pieces_of_one_state(bucket: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagetask.sources.objects._PIECE", 2)
    url = f"s3://{bucket.bucket}/in/large.csv"
    put(bucket, "in/large.csv", CSV)
    assert read(url) == ROWS
    put(bucket, "in/large.csv", CSV * 3)
    bucket.requests()

    def change() -> None:
        seen = 0
        while seen < 5:
            seen += bucket.requests()["GET"]
        put(bucket, "in/large.csv", CSV * 2)

    changing = Thread(target=change)
    bucket.delay(0.03)
    changing.start()
    try:
        assert "changed while it was fetched" in refusal(url, StorageError)
    finally:
        bucket.delay(0)
        changing.join()


def test_a_store_that_does_not_answer_now_is_no_wrong_usage(bucket: S3Server) -> None:
    bucket.refuse(503, "SlowDown")
    try:
        assert "503" in refusal(f"s3://{bucket.bucket}/p.csv", StorageError)
        bucket.refuse(403, "AccessDenied")
        assert "403" in refusal(f"s3://{bucket.bucket}/p.csv", UsageError)
    finally:
        bucket.refuse(0)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("in/absent.csv", "there is no object s3://"),
        ("in/*.parquet", "no object matches s3://"),
        ("in/broken.csv", "in/broken.csv, line 2: "),
        ("in/empty.csv", "is empty (0 bytes)"),
        ("in/what.txt", "has no suffix that says its format"),
        ("", "names no object: expected s3://BUCKET/KEY"),
    ],
)
def test_objects_that_cannot_be_read_are_told(bucket: S3Server, cache: Path, key: str, says: str) -> None:
    put(bucket, "in/broken.csv", b'prompt\n"a" b\n')
    put(bucket, "in/empty.csv", b"")
    told = refusal(f"s3://{bucket.bucket}/{key}")
    assert says in told
    assert str(cache) not in told


def test_a_bucket_that_is_not_there_and_a_wrong_endpoint_are_told(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the bucket does not exist" in refusal("s3://no-such-bucket/p.csv")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "refuses connections" in refusal(f"s3://{bucket.bucket}/p.csv", StorageError)


class _Input(io.BytesIO):
    """Standard input with these bytes."""

    @property
    def buffer(self) -> io.BytesIO:
        return self


PARQUET = io.BytesIO()
pl.DataFrame(ROWS).write_parquet(PARQUET)


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (CSV, ".csv"),
        (b"prompt\nalone\n", ".csv"),
        (CSV.replace(b",", b"\t"), ".tsv"),
        (b'{"prompt": "a cat", "note": "x"}\n', ".jsonl"),
        (PARQUET.getvalue(), ".parquet"),
        (gzip.compress(CSV), ".csv.gz"),
        (zstd(CSV), ".csv.zst"),
    ],
    ids=["csv", "one column", "tsv", "jsonl", "parquet", "gzip", "zstd"],
)
def test_standard_input_becomes_a_file_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, suffix: str
) -> None:
    paths = set()
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", _Input(data))
        paths.add(saved_standard_input(tmp_path / "out"))
    [path] = paths
    assert path.endswith(suffix)
    assert Path(path).read_bytes() == data
    assert read(path)["prompt"][0] in ("a cat", "alone")
    assert [p.name for p in (tmp_path / "out" / "_imagetask").iterdir()] == [Path(path).name]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (gzip.compress(CSV)[:-9], "is cut short, or is not gzip"),
        (zstd(CSV)[:-9], "is cut short, or is not Zstandard"),
        (b"\x1f\x8b of no kind", "is cut short, or is not gzip"),
        (b"", "nothing came on standard input"),
        (None, "nothing came on standard input"),
    ],
    ids=["gzip cut", "zstd cut", "no gzip", "empty", "closed"],
)
def test_standard_input_that_holds_no_rows_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, says: str
) -> None:
    monkeypatch.setattr(sys, "stdin", None if data is None else _Input(data))
    with pytest.raises(UsageError, match=says):
        saved_standard_input(tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_on_standard_input_is_told(tmp_path: Path) -> None:
    ended = imagetask("generate", "-", "--out", "out", cwd=tmp_path)
    assert ended.code == WRONG_USAGE
    assert "nothing came on standard input" in ended.text
