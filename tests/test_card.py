"""The dataset card: front matter that loads, a text that tells what is there, and what people wrote into it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml  # type: ignore[import-untyped]
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from PIL import Image as PILImage

from imagetask import DatasetError, ImageDataset
from imagetask.card import card_of, card_settings, write_card
from imagetask.card.columns import MEANINGS
from imagetask.card.counts import count_dataset
from imagetask.card.front import BEGIN, END
from imagetask.columns import frame_to_hub_table
from imagetask.layout import Layout, read_json, write_json
from imagetask.quality.table import GROUPS, MEASURES
from imagetask.tasks.base import BOOKKEEPING
from tests.small_datasets import make_dataset

ROWS: list[dict[str, Any]] = [{"prompt": f"cat {number}"} for number in range(5)] + [{"prompt": None}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset of six rows, of which the last one failed."""
    return make_dataset(tmp_path_factory.mktemp("card") / "cats", ROWS, license="cc-by-4.0").folder


@pytest.fixture
def layout(made: Path, tmp_path: Path) -> Layout:
    """A copy of it, to change."""
    shutil.copytree(made, tmp_path / "cats")
    return Layout(tmp_path / "cats")


def tell(layout: Layout, **settings: Any) -> None:
    """Sets what the card says was asked, beside what the run did."""
    write_json(card_settings(layout), {**(read_json(card_settings(layout)) or {}), **settings})


def front(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    loaded: dict[str, Any] = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    return loaded


def tables(card: str) -> list[list[list[str]]]:
    """The cells of the card's tables, as text, as a page shows them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1])
    found: list[list[list[str]]] = []
    for before, token in zip([tokens[0], *tokens], tokens, strict=False):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif before.type in ("td_open", "th_open"):
            assert all(child.type in ("text", "code_inline", "softbreak") for child in token.children or ())
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


def test_front_matter_tells_the_features_and_sizes_and_the_hubs_client_reads_it(layout: Layout) -> None:
    tell(layout, license="cc-by-4.0")
    write_card(layout)
    told = front(layout.card.read_text())
    assert told["license"] == "cc-by-4.0"
    assert told["size_categories"] == ["n<1K"]
    assert told["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            "default": True,
        }
    ]
    [info] = told["dataset_info"]
    assert {"name": "image", "dtype": "image"} in info["features"]
    size = sum(file.stat().st_size for file in layout.data.iterdir())
    assert info["splits"] == [{"name": "train", "num_bytes": size, "num_examples": 6}]
    card = DatasetCard(layout.card.read_text())
    assert front(str(card)) == told
    assert card.text.lstrip().startswith("# cats\n")


def test_datasets_loads_both_configs_and_verifies_their_sizes(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    ImageDataset(layout.root).score()
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset(str(layout.root), split="train", cache_dir=cache, verification_mode="all_checks")
    assert [image and image.size for image in rows["image"]] == [(16, 16)] * 5 + [None]
    scores = datasets.load_dataset(str(layout.root), "quality", split="train", cache_dir=cache)
    assert scores["blank"][:] == [False] * 5 + [None]
    quality = layout.card.read_text().split("## Quality columns")[1]
    assert "| `blank` | `bool` | all of the picture has one colour |" in quality


def test_card_tells_what_is_there_how_it_was_made_and_each_columns_meaning(layout: Layout) -> None:
    sources = [{"source": "hf://datasets/a/b/rows.csv", "revision": "0123abc"}]
    tell(layout, negative_prompt="blurry", sources=sources)
    written = card_of(layout)
    assert "6 rows and 5 images, generated with imagetask by `placeholder`." in written
    counts, columns, settings = tables(written)
    assert ["rows", "6"] in counts
    assert ["failed: invalid_input", "1"] in counts
    assert ["sizes (px)", "16x16 (5)"] in counts
    assert columns[1] == ["prompt", "string", "of the source"]
    assert ["image", "image", MEANINGS["image"]] in columns
    assert all(meaning for _, _, meaning in columns)
    assert ["model", "placeholder"] in settings
    assert ["source", "source hf://datasets/a/b/rows.csv, revision 0123abc"] in settings
    assert ["negative_prompt", "blurry"] in settings
    assert "No licence was given" in written
    assert "license" not in front(written)


def test_every_column_that_imagetask_writes_has_a_meaning() -> None:
    assert {*BOOKKEEPING, *MEASURES, *GROUPS} <= MEANINGS.keys()


def test_refusals_failures_and_pending_rows_are_counted_by_kind_over_all_shards(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "out")
    layout.data.mkdir(parents=True)
    kinds: list[list[str | None]] = [["refused", None], ["refused", "timeout"], [None, None]]
    for number, kind in enumerate(kinds):
        size = ["512x512" if one is None else None for one in kind]
        frame = pl.DataFrame(
            {"error_kind": kind, "image_size": size, "image_bytes": [1000 if s else None for s in size]}
        )
        if number == 2:
            frame = frame.with_columns(pl.Series("image_size", ["64x64", None]))
        frame = frame.with_columns(pl.lit("m").alias("model_name"))
        pq.write_table(frame_to_hub_table(frame, []), layout.data / f"train-{number:05d}.parquet")
    counts = count_dataset(layout)
    assert (counts.rows, counts.images, counts.pending) == (6, 2, 1)
    assert counts.failed == {"refused": 2, "timeout": 1}
    assert counts.sizes == {"512x512": 1, "64x64": 1}
    assert counts.picture_bytes == 2000
    [table, *_] = tables(card_of(layout))
    assert table[-3:] == [
        ["refused by the model", "2"],
        ["failed: timeout", "1"],
        ["pending: a budget was reached", "1"],
    ]


def test_lists_of_generations_are_counted_one_by_one(tmp_path: Path) -> None:
    grouped = make_dataset(tmp_path / "out", ROWS, task="tests.custom_tasks:Grouped", num_generations=2)
    counts = count_dataset(Layout(grouped.folder))
    assert (counts.rows, counts.images, counts.failed) == (6, 10, {"invalid_input": 2})
    assert sum(counts.formats.values()) == 10
    assert Layout(grouped.folder).card_sheet.is_file()


def test_folder_without_a_dataset_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no finished dataset"):
        card_of(Layout(tmp_path))


def test_card_is_the_same_wherever_it_is_written_from(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(layout.root)
    assert card_of(Layout(Path(".")), earlier=card_of(layout)) == card_of(layout)


def test_card_for_the_hub_loads_from_the_hub(layout: Layout) -> None:
    written = card_of(layout, repo="someone/cats-2")
    assert "# cats-2\n" in written
    assert "load_dataset('someone/cats-2', split=\"train\")" in written
    assert "pl.scan_parquet('hf://datasets/someone/cats-2/data/*.parquet')" in written


def test_what_people_wrote_around_our_part_stays_and_our_part_is_made_anew(layout: Layout) -> None:
    first = layout.card.read_text()
    theirs = first.replace("# cats\n", "# Cats of mine\n\nBefore.\n") + "\nAfter.\n\n---\n\nMore.\n"
    theirs = theirs.replace("6 rows", "7 rows").replace("---\n", "---\nlanguage: no\npretty_name: Cats\n", 1)
    theirs = theirs.replace("- imagetask\n", "- imagetask\n- cats\n").replace("license: cc-by-4.0", "license: mit")
    layout.card.write_text(theirs)
    write_card(layout)
    again = layout.card.read_text()
    body = again.split("\n---\n", 1)[1]
    assert body.startswith(f"\n# Cats of mine\n\nBefore.\n\n{BEGIN}\n6 rows and 5 images")
    assert again.endswith(f"{END}\n\nAfter.\n\n---\n\nMore.\n")
    told = front(again)
    assert told["language"] == "no"
    assert told["pretty_name"] == "Cats"
    assert told["tags"] == ["imagetask", "synthetic", "cats"]
    write_card(layout)
    assert layout.card.read_text() == again


def test_licence_given_by_hand_stays_unless_the_run_was_given_one(layout: Layout) -> None:
    written = card_of(layout, earlier="---\nlicense: mit\nsize_categories: [n>1T]\n---\n")
    assert front(written)["license"] == "mit"
    assert front(written)["size_categories"] == ["n<1K"]
    assert "## Licence\n\n`mit`." in written
    tell(layout, license="cc0-1.0")
    assert front(card_of(layout, earlier=written))["license"] == "cc0-1.0"


def test_readme_that_was_there_keeps_its_text(layout: Layout) -> None:
    written = card_of(layout, earlier="# Mine\n\nText with <!-- a comment -->.\n")
    assert f"# Mine\n\nText with <!-- a comment -->.\n\n{BEGIN}" in written
    assert "# cats" not in written


def test_front_matter_that_is_no_yaml_is_kept_as_text(layout: Layout) -> None:
    written = card_of(layout, earlier="---\nlicense: [mit\n---\nMy text.\n")
    assert "license" not in front(written)
    assert "My text.\n\n```yaml\nlicense: [mit\n```" in written
    assert card_of(layout, earlier=written) == written


def test_card_of_a_version_without_markers_is_replaced_whole(layout: Layout) -> None:
    old = (
        '---\nconfigs: []\ntags: ["imagetask", "synthetic"]\nlicense: mit\n---\n\n# cats\n\n'
        "3 rows and 2 images, generated with imagetask by `placeholder`.\n\nHow it was made:\n"
    )
    written = card_of(layout, earlier=old)
    assert written.count("# cats") == 1
    assert "3 rows" not in written
    assert front(written)["license"] == "mit"


@pytest.mark.parametrize("cut", [BEGIN, END, ""])
def test_card_that_people_took_over_keeps_their_text(layout: Layout, cut: str) -> None:
    ours = card_of(layout)
    theirs = (ours.replace(cut, "") if cut else ours.replace(BEGIN, "").replace(END, "")) + "\n## Written by me\n"
    assert "## Written by me" in card_of(layout, earlier=theirs)


@pytest.mark.parametrize("lone", [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}"])
def test_marker_without_its_other_half_costs_no_text(layout: Layout, lone: str) -> None:
    written = card_of(layout, earlier=f"Before.\n{lone}\nAfter.\n")
    assert f"Before.\nAfter.\n\n{BEGIN}\n" in written
    assert written.count(BEGIN) == written.count(END) == 1


HOSTILE = f"a | b ``` ` <script>alert(1)</script> --> {END}\n{END}\n\n---\n| x |\n# no heading \x7f\u2028 [l](u) \\"


def test_settings_and_columns_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "o`u`t \U0001f408", [{"prompt": "a cat", HOSTILE: 1, "no": 2, "\U0001f408": 3}])
    layout = Layout(dataset.folder)
    tell(layout, negative_prompt=HOSTILE, param={HOSTILE: [HOSTILE]}, prompt=HOSTILE, sources=[{"source": HOSTILE}])
    write_card(layout)
    written = layout.card.read_text()
    names = [feature["name"] for feature in front(written)["dataset_info"][0]["features"]]
    assert names == dataset.scan().collect_schema().names()
    assert front(str(DatasetCard(written))) == front(written)
    assert written.count(f"\n{BEGIN}\n") == written.count(f"\n{END}\n") == 1
    assert card_of(layout, earlier=written) == written
    html = MarkdownIt("commonmark").enable("table").render(written.split("\n---\n", 1)[1])
    assert "<script" not in html
    assert html.count("<h1>") == 1
    counts, columns, settings = tables(written)
    assert {len(row) for row in counts} == {2}
    assert {len(row) for row in columns} == {3}
    assert {len(row) for row in settings} == {2}


def test_sheet_shows_pictures_of_the_dataset_and_is_drawn_anew_only_when_the_shards_change(layout: Layout) -> None:
    with PILImage.open(layout.card_sheet) as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 5 * 160
    assert f"]({layout.card_sheet.name})" in layout.card.read_text()
    drawn = layout.card_sheet.stat().st_mtime_ns
    write_card(layout)
    assert layout.card_sheet.stat().st_mtime_ns == drawn
    record = read_json(layout.shards)
    assert record is not None
    record["shards"][0]["digest"] = "another"
    write_json(layout.shards, record)
    write_card(layout)
    assert layout.card_sheet.stat().st_mtime_ns > drawn


def test_dataset_without_a_picture_has_no_sheet(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "out", [{"prompt": None}])
    layout = Layout(dataset.folder)
    assert not layout.card_sheet.exists()
    assert "contact-sheet" not in layout.card.read_text()


def test_picture_that_cannot_be_decoded_is_left_out_of_the_sheet(layout: Layout) -> None:
    [file] = layout.data.iterdir()
    frame = ImageDataset(layout.root).scan().collect()
    cut = pl.struct(pl.col("image").struct.field("bytes").bin.slice(0, 200), pl.col("image").struct.field("path"))
    pq.write_table(frame_to_hub_table(frame.with_columns(image=cut), ["image"]), file)
    layout.shards.unlink()
    write_card(layout)
    assert not layout.card_sheet.exists()
