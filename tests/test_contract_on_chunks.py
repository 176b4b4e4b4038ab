"""The task contract on the chunks of a plan, as the pipeline uses it, without Prefect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image as PILImage

from imagetask import GenerationStore, Image, ImageGeneration, ManagedModel, PlaceholderImageGeneration, TaskError
from imagetask.chunks import run_chunk
from imagetask.errors import StorageError
from imagetask.images import encode_picture
from imagetask.parts import part_path
from imagetask.plan import make_plan
from imagetask.settings import RunSettings

PROMPTS = ["a white siamese cat", "a red bicycle", "a teapot in the rain"]


def run_first_chunk(folder: Path, task: str, rows: list[dict[str, Any]], **options: Any) -> pl.DataFrame:
    """The part of the first chunk of `rows`, made with the task and a placeholder model."""
    folder.mkdir(exist_ok=True)
    source = folder / "source.parquet"
    pl.DataFrame(rows).write_parquet(source)
    settings = RunSettings(source=str(source), out=folder / "out", task=f"tests.custom_tasks:{task}", **options)
    settings.layout.make()
    run = FirstChunk(settings)
    run.run()
    return run.part()


class FirstChunk:
    """The first chunk of a plan, answered by a placeholder model as often as wanted."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.model = ManagedModel(PlaceholderImageGeneration(), store=GenerationStore(settings.store_url))
        self.chunk = make_plan(settings, [self.model.model]).chunks[0]

    def run(self) -> dict[str, Any]:
        """Gives the manifest."""
        return run_chunk(self.settings, self.chunk, self.model)

    def part(self) -> pl.DataFrame:
        return pl.read_parquet(part_path(self.settings.layout, self.chunk.digest))


def test_a_chunk_that_is_tried_again_is_counted_once(tmp_path: Path) -> None:
    source = tmp_path / "source.csv"
    source.write_text("prompt\na cat\na dog\n ,\n".replace(" ,", '""'))
    settings = RunSettings(source=str(source), out=tmp_path / "out")
    settings.layout.make()
    run = FirstChunk(settings)
    part = part_path(settings.layout, run.chunk.digest)
    part.mkdir()
    (part / "in the way").touch()
    with pytest.raises(StorageError):
        run.run()
    (part / "in the way").unlink()
    part.rmdir()
    run.run()
    tally = run.model.tally
    assert (tally.done, tally.new, tally.reused, tally.calls) == (2, 2, 0, 2)
    assert tally.failed == {"invalid_input": 1}


happened: list[str] = []
"""What the tasks below did, in order."""


class Opening(ImageGeneration):
    """Opens something of its own before it works, and closes it afterwards."""

    def load(self) -> None:
        happened.append("load")
        super().load()

    def unload(self) -> None:
        happened.append("unload")
        super().unload()

    def process(self, inputs: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        happened.append("process")
        yield from super().process(inputs)


class OpeningInVain(Opening):
    def process(self, inputs: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        raise LookupError("no such brush")
        yield inputs


class NotOpening(Opening):
    def load(self) -> None:
        raise LookupError("no such box of brushes")


class DislikesBicycles(ImageGeneration):
    def format_output(self, output: Image, input: dict[str, Any]) -> dict[str, Any]:
        if "bicycle" in input["prompt"]:
            raise ValueError("not a bicycle again")
        return {"image": output}


def first_chunk(folder: Path, task: str) -> FirstChunk:
    """The chunk of all prompts, for a task of this module."""
    happened.clear()
    pl.DataFrame({"prompt": PROMPTS}).write_parquet(folder / "source.parquet")
    settings = RunSettings(source=str(folder / "source.parquet"), out=folder / "out", task=f"{__name__}:{task}")
    settings.layout.make()
    return FirstChunk(settings)


def test_a_task_is_loaded_before_it_works_and_unloaded_after_while_the_model_stays_open(tmp_path: Path) -> None:
    first = first_chunk(tmp_path, "Opening")
    assert first.run()["failed"] == {}
    assert happened == ["load", "process", "unload"]
    assert first.run()["reused"] == 3
    assert happened == ["load", "process", "unload"] * 2


def test_a_task_is_unloaded_also_where_its_process_raises(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"process of the task 'OpeningInVain' raised LookupError: no such brush"):
        first_chunk(tmp_path, "OpeningInVain").run()
    assert happened == ["load", "unload"]


def test_a_load_that_raises_is_an_error_that_names_the_task(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"load of the task 'NotOpening' raised LookupError: no such box of brushes"):
        first_chunk(tmp_path, "NotOpening").run()
    assert happened == []


def test_the_manifest_counts_as_reused_only_images_that_reached_their_row(tmp_path: Path) -> None:
    first = first_chunk(tmp_path, "DislikesBicycles")
    manifest = first.run()
    assert (manifest["generations"], manifest["failed"], manifest["reused"]) == (3, {"task": 1}, 0)
    manifest = first.run()
    assert (manifest["generations"], manifest["failed"], manifest["reused"]) == (3, {"task": 1}, 2)
    assert first.part()["reused"].to_list() == [True, True, True]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("OneShort", "yielded 1 rows for 2 rows × 1 generations: it must yield 2"),
        ("Twice", "yielded 4 rows for 2 rows × 1 generations: it must yield 2"),
        ("Backwards", "changed the input column 'prompt', or the order of the rows"),
        ("Rewriting", "changed the input column 'prompt', or the order of the rows"),
        ("RewritingItsInputs", "changed the input column 'prompt', or the order of the rows"),
        ("Selective", "asked the model for 1 rows, but was given 2"),
        ("Sorting", "asked the model for its rows in another order"),
        ("Raising", "raised LookupError: no such brush"),
    ],
)
def test_a_process_that_breaks_the_contract_is_an_error_that_names_the_task(
    tmp_path: Path, task: str, reason: str
) -> None:
    with pytest.raises(TaskError) as caught:
        run_first_chunk(tmp_path, task, [{"prompt": PROMPTS[0]}, {"prompt": PROMPTS[1]}])
    assert f"process of the task {task!r}" in str(caught.value)
    assert reason in str(caught.value)


def test_a_custom_task_with_its_own_process_makes_the_part_of_a_chunk(tmp_path: Path) -> None:
    rows = [{"n": 1, "subject": "a fox", "place": "Bern"}, {"n": 2, "subject": "a goat", "place": "Zug"}]

    part = run_first_chunk(tmp_path, "Postcard", rows, num_generations=2)

    assert part.select("n", "subject", "place", "letters").rows() == [
        (1, "a fox", "Bern", 4),
        (1, "a fox", "Bern", 4),
        (2, "a goat", "Zug", 3),
        (2, "a goat", "Zug", 3),
    ]
    assert part["image"].n_unique() == 4
    assert part["title"].str.starts_with("a ").all()
    assert part["status"].to_list() == ["done"] * 4


def test_a_task_that_needs_other_columns_of_its_own_name_reads_them(tmp_path: Path) -> None:
    part = run_first_chunk(tmp_path, "Mapped", [{"caption": PROMPTS[0]}])

    assert {"caption", "picture", "painter", "status"} <= set(part.columns)
    assert not {"prompt", "image", "model_name"} & set(part.columns)
    assert part["painter"].to_list() == ["placeholder"]


def test_pictures_that_a_task_made_are_stored_under_their_own_hash(tmp_path: Path) -> None:
    part = run_first_chunk(tmp_path, "Variants", [{"prompt": prompt} for prompt in PROMPTS])

    store = GenerationStore(tmp_path / "out" / "_imagetask" / "store")
    for row in part.iter_rows(named=True):
        own = Image.from_bytes(store.read(row["image"]))
        assert store.read(row["copy"]) == own.data
        assert Image.from_bytes(store.read(row["thumbnail"])).to_pil().size == (16, 16)
        grey = Image.from_bytes(store.read(row["grey"]))
        assert (grey.format, grey.to_pil().mode) == ("JPEG", "L")
        halves = [Image.from_bytes(store.read(path)) for path in row["halves"]]
        assert [half.width for half in halves] == [own.width // 2, own.width - own.width // 2]
    assert part["row_id"].n_unique() == 3
    assert part["status"].to_list() == ["done"] * 3, "though its process yields no status"


def test_columns_of_a_picture_tell_of_the_one_that_a_task_made(tmp_path: Path) -> None:
    given = encode_picture(PILImage.linear_gradient("L").resize((40, 30)), "PNG")
    part = run_first_chunk(tmp_path, "Given", [{"prompt": "a", "given": given}, {"prompt": "b", "given": None}])
    told = part.select("image_format", "image_bytes", "image_sha256", "image_size")
    assert told.row(0) == ("PNG", len(given), hashlib.sha256(given).hexdigest(), "40x30")
    assert told.row(1)[0] == "JPEG", "the generation's own, which the task left out"
