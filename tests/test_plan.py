"""The plan of a run: a snapshot that any table fits into, and chunks whose digests bind what is answered."""

from __future__ import annotations

import datetime
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from imagetask_flows.preview import preview_rows

from imagetask import GenerationStore, ManagedModel, OpenAIImageGeneration, PlaceholderImageGeneration
from imagetask.chunks import run_chunk
from imagetask.crash_points import VARIABLE
from imagetask.errors import DatasetError, SourceError, StorageError, TaskError
from imagetask.layout import Layout, alone_in, read_json, write_json
from imagetask.models.base import ImageGenerationModel
from imagetask.parts import part_path, read_manifest
from imagetask.plan import Plan, first_rows, make_plan, plan_again, read_plan
from imagetask.quality import scored
from imagetask.settings import RunSettings
from imagetask.snapshot import read_rows
from imagetask.tasks.loading import code_digest, load_task
from tests.model_server import ModelServer
from tests.small_datasets import make_dataset

Rows = list[dict[str, Any]]


def settings_for(folder: Path, rows: Rows | pl.DataFrame, **options: Any) -> RunSettings:
    """Settings of a run of `rows` into a folder that is made."""
    frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows)
    frame.write_parquet(folder / "source.parquet")
    settings = RunSettings(**{"source": str(folder / "source.parquet"), "out": folder / "out", **options})
    settings.layout.make()
    return settings


def planned(settings: RunSettings, *models: ImageGenerationModel) -> Plan:
    return make_plan(settings, models or [PlaceholderImageGeneration()])


def managed(settings: RunSettings) -> ManagedModel:
    return ManagedModel(PlaceholderImageGeneration(), store=GenerationStore(settings.store_url))


def prompts(*names: str) -> Rows:
    return [{"prompt": name} for name in names]


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """As on a disk with so much room: the system refuses to write more into any one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_chunk_refuses_rows_of_another_plan(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a cat", "a dog"))
    [chunk] = planned(settings).chunks
    other = settings_for(tmp_path, prompts("a cat", "a cow"))
    planned(other)

    with pytest.raises(DatasetError, match=r"the plan in .*out changed while this run went on: another run"):
        run_chunk(settings, chunk, managed(settings))
    assert not part_path(settings.layout, chunk.digest).exists()
    assert not list((tmp_path / "out").rglob("*.png")), "and nothing was generated for them"


@pytest.mark.parametrize("point", ["plan: ordinals in place", "plan: snapshot in place"])
def test_killed_between_the_files_of_a_new_plan_leaves_none_that_a_retry_could_go_by(
    tmp_path: Path, point: str
) -> None:
    settings = settings_for(tmp_path, prompts("a cat", "a dog"), chunk_rows=1)
    planned(settings)
    other = settings_for(tmp_path, prompts("a cow", "a cat", "a dog"))
    script = "import sys; from tests.test_plan import *; planned(RunSettings(source=sys.argv[1], out=sys.argv[2]))"
    command = [sys.executable, "-c", script, str(tmp_path / "source.parquet"), str(tmp_path / "out")]
    killed = subprocess.run(command, env={**os.environ, VARIABLE: f"{point}:1"}, check=False, start_new_session=True)
    assert killed.returncode == -signal.SIGKILL

    assert read_plan(settings.layout) is None
    with pytest.raises(DatasetError, match=r"there is no plan in .*: run imagetask generate first"):
        plan_again(settings, [PlaceholderImageGeneration()])
    assert planned(other).chunk_rows == 1, "and the size of the chunks is remembered"


def test_a_chunk_refuses_settings_and_models_of_another_plan(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a cat", "a dog"))
    [chunk] = planned(settings).chunks

    with pytest.raises(DatasetError, match="the plan in"):
        run_chunk(settings.model_copy(update={"seed": 1}), chunk, managed(settings))
    another = PlaceholderImageGeneration(model_id="another")
    with pytest.raises(DatasetError, match="the plan in"):
        run_chunk(settings, chunk, ManagedModel(another, store=GenerationStore(settings.store_url)))
    assert run_chunk(settings, chunk, managed(settings))["failed"] == {}


def test_a_chunk_finds_its_plan_in_settings_that_were_written_down_and_read_again(tmp_path: Path) -> None:
    param = {"when": datetime.datetime(2026, 1, 2), "sizes": (1, 2.0), "nested": {"a": [None, True]}}
    settings = settings_for(tmp_path, prompts("a cat"), param=param)
    again = RunSettings(**settings.model_dump(mode="json"))
    assert [c.digest for c in planned(settings).chunks] == [c.digest for c in planned(again).chunks]


def test_a_chunk_digest_has_what_names_the_model_where_no_id_does(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a cat"), model="openai")
    models = [
        OpenAIImageGeneration(base_url="http://127.0.0.1:9/one/v1"),
        OpenAIImageGeneration(base_url="http://127.0.0.1:9/two/v1"),
        OpenAIImageGeneration(model="m", base_url="http://127.0.0.1:9/one/v1"),
        OpenAIImageGeneration(model="m", base_url="http://127.0.0.1:9/two/v1"),
    ]
    one, two, named, moved = (planned(settings, model).chunks[0].digest for model in models)
    assert len({one, two, named}) == 3
    assert named == moved, "where a model id names it, another server is no other model"


def test_digests_follow_rows_and_ordinals_and_nothing_else(tmp_path: Path) -> None:
    rows = prompts("a", "b", "b", "c", "d")
    before = planned(settings_for(tmp_path, rows, chunk_rows=2))
    assert [(chunk.start, chunk.stop) for chunk in before.chunks] == [(0, 2), (2, 4), (4, 5)]
    assert planned(settings_for(tmp_path, rows, chunk_rows=2)) == before

    rows[1] = {"prompt": "x"}
    after = planned(settings_for(tmp_path, rows, chunk_rows=2))
    same = [old.digest == new.digest for old, new in zip(before.chunks, after.chunks, strict=True)]
    assert same == [False, False, True], "the second b is now the first one"


def test_more_rows_than_one_batch_are_cut_without_a_gap(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": [f"picture {number % 40_000}" for number in range(45_000)]})
    settings = settings_for(tmp_path, frame, chunk_rows=17_000)
    plan = planned(settings)
    assert [(chunk.start, chunk.stop) for chunk in plan.chunks] == [(0, 17_000), (17_000, 34_000), (34_000, 45_000)]
    read = [read_rows(settings.layout, chunk.start, chunk.stop) for chunk in plan.chunks]
    assert pl.concat([rows for rows, _ in read]).equals(frame)
    marks = pl.concat([marks for _, marks in read])
    assert marks["ordinal"].to_list() == [0] * 40_000 + [1] * 5_000
    assert marks["row_id"].n_unique() == 45_000


def test_a_remembered_chunk_size_is_given_up_where_it_would_make_too_many_chunks(tmp_path: Path) -> None:
    assert planned(settings_for(tmp_path, prompts("a", "b", "c"), chunk_rows=2)).chunk_rows == 2
    assert planned(settings_for(tmp_path, prompts(*map(str, range(1_998))))).chunk_rows == 2
    grown = planned(settings_for(tmp_path, prompts(*map(str, range(30_000)))))
    assert (grown.chunk_rows, len(grown.chunks)) == (250, 120)


@pytest.mark.parametrize(
    "values",
    [
        [b"\xff", b"\xfe", None],
        [{"a": b"\xff", "b": 1}, {"a": None, "b": 2}, None],
        [[b"\xff", None], [], None],
        [[{"deep": [b"\xff"]}], [{"deep": None}], None],
        pl.Series([[b"a", b"\xff"], [b"a", b"b"], None], dtype=pl.Array(pl.Binary, 2)),
        [Decimal("1.10"), Decimal("2.5"), None],
        [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2), None],
        [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), None],
        [datetime.timedelta(seconds=1), datetime.timedelta(days=2), None],
        [datetime.time(1), datetime.time(2, 3, 4, 5), None],
        pl.Series(["a", "b", None], dtype=pl.Categorical),
        pl.Series(["a", "b", None], dtype=pl.Enum(["a", "b"])),
        pl.Series([[1, 2], [3, 4], None], dtype=pl.Array(pl.Int32, 2)),
        [[[1], []], [], None],
        [{"a": [{"b": "x"}]}, {"a": []}, None],
        [True, False, None],
    ],
    ids=str,
)
def test_columns_of_every_type_are_kept_and_tell_rows_apart(tmp_path: Path, values: Any) -> None:
    frame = pl.DataFrame({"prompt": ["a", "b", "c"], "extra": values})
    settings = settings_for(tmp_path, frame, chunk_rows=1)
    digests = [chunk.digest for chunk in planned(settings).chunks]
    assert pl.concat([read_rows(settings.layout, row, row + 1)[0] for row in range(3)]).equals(frame)

    changed = frame.with_columns(extra=pl.col("extra").gather([1, 1, 2]))
    after = [chunk.digest for chunk in planned(settings_for(tmp_path, changed, chunk_rows=1)).chunks]
    assert [old == new for old, new in zip(digests, after, strict=True)] == [False, True, True]


def test_a_column_that_parquet_cannot_keep_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, pl.DataFrame({"prompt": ["a"], "n": pl.Series([1], dtype=pl.Int128)}))
    with pytest.raises(SourceError, match="has a column of a type that Parquet does not hold"):
        planned(settings)


def test_source_columns_may_have_the_names_of_the_plans_own_marks(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "ordinal": "first", "hash": 1}, {"prompt": "a cat", "ordinal": "second", "hash": 2}]
    settings = settings_for(tmp_path, rows, num_generations=2)
    [chunk] = planned(settings).chunks
    run_chunk(settings, chunk, managed(settings))
    part = pl.read_parquet(part_path(settings.layout, chunk.digest))
    assert part.columns[:4] == ["prompt", "ordinal", "hash", "row_id"]
    assert part["ordinal"].to_list() == ["first", "first", "second", "second"]
    assert part["image"].n_unique() == 4


def test_a_full_disk_is_a_storage_error_wherever_parquet_is_written(tmp_path: Path) -> None:
    rows = [{"prompt": f"a cat {number}", "note": os.urandom(2_000).hex()} for number in range(4)]
    settings = settings_for(tmp_path, rows)
    with no_file_above(4_000), pytest.raises(StorageError, match=r"could not write .*rows.parquet"):
        planned(settings)

    [chunk] = planned(settings).chunks
    run_chunk(settings, chunk, managed(settings))  # from here on the images are in the store
    with no_file_above(4_000), pytest.raises(StorageError, match=rf"could not write .*{chunk.digest}.parquet"):
        run_chunk(settings, chunk, managed(settings))

    few = [{"prompt": f"a cat {number}"} for number in range(3_000)]
    crowded = settings_for(tmp_path, few)
    before = settings.layout.ordinals.read_bytes()
    with no_file_above(16_000), pytest.raises(StorageError, match=r"could not write .*ordinals.parquet"):
        planned(crowded)  # the rows fit, their marks do not
    assert settings.layout.ordinals.read_bytes() == before, "the plan of before is whole"
    assert not [*settings.layout.plan.parent.glob(".*")], "and what is not whole takes no room"


def test_a_run_killed_between_a_part_and_its_manifest_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path, prompts("a cat", "a dog"))
    [chunk] = planned(settings).chunks
    assert run_chunk(settings, chunk, managed(settings))["reused"] == 0
    assert read_manifest(settings.layout, chunk) is not None

    def full(path: Path, _: bytes) -> None:
        raise StorageError(f"could not write {path}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("imagetask.parts.write_whole", full)  # the new part gets written, its manifest does not
        with pytest.raises(StorageError, match="could not write"):
            run_chunk(settings, chunk, managed(settings))
    assert pl.read_parquet(part_path(settings.layout, chunk.digest))["reused"].to_list() == [True, True]
    assert read_manifest(settings.layout, chunk) is None

    assert run_chunk(settings, chunk, managed(settings))["reused"] == 2
    assert read_manifest(settings.layout, chunk) is not None


def test_a_part_of_another_size_than_its_manifest_says_is_not_whole(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a cat"))
    [chunk] = planned(settings).chunks
    run_chunk(settings, chunk, managed(settings))
    part = part_path(settings.layout, chunk.digest)
    part.write_bytes(part.read_bytes()[:-1])
    assert read_manifest(settings.layout, chunk) is None


def test_the_first_rows_are_those_of_the_plan_and_nothing_is_written(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a", "b", "a", "a", "c"), limit=4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    frame, first, total = first_rows(settings, 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert (frame["prompt"].to_list(), first["ordinal"].to_list(), total) == (["a", "b", "a"], [0, 0, 1], 4)

    planned(settings)
    rows, marks = read_rows(settings.layout, 0, 3)
    assert rows.equals(frame)
    assert marks.equals(first)


def test_rows_without_any_of_the_tasks_inputs_are_equal_rows_and_not_none(tmp_path: Path) -> None:
    """A task may have none but optional inputs."""
    settings = settings_for(tmp_path, [{"note": "one"}, {"note": "two"}], task="tests.custom_tasks:OnlyOptional")
    assert planned(settings).rows == 2
    _, marks = read_rows(settings.layout, 0, 2)
    assert marks["ordinal"].to_list() == [0, 1]
    assert first_rows(settings, 2)[1]["ordinal"].to_list() == [0, 1]


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_preview_into_the_folder_of_a_run_leaves_its_plan_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a cat", "a dog"))
    [chunk] = planned(settings).chunks
    run_chunk(settings, chunk, managed(settings))
    before = files(tmp_path / "out")

    preview_rows(settings_for(tmp_path, prompts("a cow", "a fox", "an owl"), chunk_rows=1), 2)

    after = files(tmp_path / "out")
    new = {name for name in after if after[name] != before.get(name)}
    beside = {"contact-sheet.png", "_imagetask/spent.txt", "_imagetask/lock"}
    assert {name for name in new if not name.startswith("_imagetask/store/")} == beside
    assert new - beside
    assert before.keys() <= after.keys()
    assert read_manifest(settings.layout, chunk) is not None


def test_a_preview_with_a_store_elsewhere_leaves_a_folder_that_a_run_can_go_into(tmp_path: Path) -> None:
    pl.DataFrame(prompts("a cat")).write_parquet(tmp_path / "source.parquet")
    settings = RunSettings(source=str(tmp_path / "source.parquet"), out=tmp_path / "out", store=str(tmp_path / "store"))
    preview_rows(settings, 1)
    assert {path.name for path in settings.out.rglob("*")} == {"contact-sheet.png", "_imagetask", "spent.txt", "lock"}
    (settings.out / ".DS_Store").write_bytes(b"of a file manager")
    settings.layout.make()

    (settings.out / "_imagetask").rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match="already holds something else"):
        settings.layout.make()


def test_a_dataset_from_elsewhere_is_not_written_over_also_where_it_was_scored(tmp_path: Path) -> None:
    make_dataset(tmp_path / "out", prompts("a cat", "a dog"))
    shutil.rmtree(tmp_path / "out" / "_imagetask")
    elsewhere = Layout(tmp_path / "out")
    with alone_in(elsewhere):
        scored(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.data.iterdir()}
    with pytest.raises(DatasetError, match="already holds something else"):
        elsewhere.make()
    assert {path: path.read_bytes() for path in elsewhere.data.iterdir()} == before


def test_a_run_that_makes_the_dataset_smaller_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"model": ["openai:m", "placeholder"], "num_generations": 2}
    settings = settings_for(tmp_path, prompts("a", "b", "c"), **options)
    models = [PlaceholderImageGeneration(), PlaceholderImageGeneration()]
    smaller = settings.model_copy(update={"limit": 2, "model": ["placeholder"], "num_generations": 1})
    make_plan(settings, models)
    make_plan(smaller, models[1:])
    assert caplog.messages == [], "there is no dataset yet"
    write_json(settings.layout.shards, {})
    make_plan(settings, models)
    assert caplog.messages == []
    make_plan(smaller, models[1:])
    assert caplog.messages == [
        f"{settings.out}: 2 rows of the source in place of 3, 1 in place of 2 generations of each, no images of "
        "openai:m any more; what leaves the dataset is kept in the store"
    ]


@pytest.mark.parametrize("damaged", [None, "many", []])
def test_a_plan_that_is_damaged_is_made_anew(tmp_path: Path, damaged: object) -> None:
    settings = settings_for(tmp_path, prompts("a"))
    planned(settings)
    write_json(settings.layout.plan, {**(read_json(settings.layout.plan) or {}), "rows": damaged})
    assert read_plan(settings.layout) is None
    assert planned(settings).rows == 1


def test_a_preview_counts_what_is_left_and_heeds_the_request_rate(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a", "b", "a", "c", "d", "e"), num_generations=2)
    preview = preview_rows(settings, 3)
    assert (preview.made, preview.rows, preview.calls, preview.left) == (6, 6, 12, 6)
    assert "6 rows, 12 calls; 6 are left" in "\n".join(preview.lines())
    slow = preview_rows(settings.model_copy(update={"requests_per_minute": 0.5}), 3)
    assert slow.seconds == 6 / 0.5 * 60
    assert preview_rows(settings, 6).seconds == 0.0


def test_a_preview_with_a_process_that_raises_names_the_task(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, prompts("a cat"), task="tests.custom_tasks:Raising")
    with pytest.raises(TaskError, match=r"process of the task 'Raising' raised LookupError: no such brush"):
        preview_rows(settings, 1)


def test_a_preview_makes_what_the_run_takes(tmp_path: Path, model_server: ModelServer) -> None:
    model_server.reset()
    options = {"model": "openai:m", "base_url": model_server.openai_url}
    settings = settings_for(tmp_path, prompts("a cat", "a cat", "a dog"), **options)
    preview_rows(settings, 2)
    assert model_server.prompts == ["a cat", "a cat"]

    backend = OpenAIImageGeneration(model="m", base_url=model_server.openai_url)
    [chunk] = planned(settings, backend).chunks
    with ManagedModel(backend, store=GenerationStore(settings.store_url)) as model:
        assert run_chunk(settings, chunk, model)["reused"] == 2
    assert sorted(model_server.prompts) == ["a cat", "a cat", "a dog"]


TASK = """
from imagetask import ImageGeneration

class One(ImageGeneration):
    edition: int = {edition}

class Two(ImageGeneration):
    edition: int = {edition}
"""


@pytest.fixture
def edited_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of tasks that was imported and then edited."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "edited_tasks.py").write_text(TASK.format(edition=1))
    load_task("edited_tasks:One")
    (tmp_path / "edited_tasks.py").write_text(TASK.format(edition=2))
    yield sys.modules["edited_tasks"]
    del sys.modules["edited_tasks"]


def edition(path: str) -> tuple[int, str]:
    task = load_task(path)
    return task.model_fields["edition"].default, code_digest(task)


def test_an_edited_module_keeps_class_and_digest_until_it_is_imported_again(edited_tasks: ModuleType) -> None:
    number, first = edition("edited_tasks:One")
    assert number == 1
    assert edition("edited_tasks:Two")[0] == 1

    importlib.reload(edited_tasks)
    assert edition("edited_tasks:One") == (2, code_digest(edited_tasks.One))
    assert edition("edited_tasks:One")[1] != first


def test_a_class_of_an_edited_module_that_was_not_used_before_has_the_old_digest(
    edited_tasks: ModuleType, tmp_path: Path
) -> None:
    old = edition("edited_tasks:Two")
    (tmp_path / "edited_tasks.py").write_text(TASK.format(edition=1))
    importlib.reload(edited_tasks)
    assert edition("edited_tasks:Two") == old
    assert edited_tasks.Two is load_task("edited_tasks:Two")


def test_a_class_that_was_made_anew_is_taken_and_not_the_old_one(edited_tasks: ModuleType) -> None:
    old = load_task("edited_tasks:One")
    new = type("One", (old,), {"__module__": "edited_tasks"})
    edited_tasks.One = new  # type: ignore[attr-defined]
    assert load_task("edited_tasks:One") is new
