"""The dataset card: README.md, which tells what the dataset is, and makes plain files load as pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imagetask.card.columns import columns_table
from imagetask.card.counts import DatasetCounts, count_dataset
from imagetask.card.front import BEGIN, END, Earlier, SplitInfo, front_matter, front_text, read_earlier
from imagetask.card.sheet import write_sheet
from imagetask.columns import hub_schema, image_columns
from imagetask.crash_points import reach
from imagetask.errors import StorageError
from imagetask.layout import Layout, read_json, write_whole
from imagetask.markdown import block, code, table, text
from imagetask.shards import shard_files

_SHOWN_SIZES = 5
_NOT_IN_TABLE = ("model", "license", "sources")


def write_card(layout: Layout) -> None:
    """Brings README.md and the picture in it up to date with the shards; what people wrote into it stays.

    Raises `DatasetError` where the folder holds no finished dataset, `StorageError`.
    """
    write_sheet(layout)
    try:
        earlier = layout.card.read_bytes().decode("utf-8", "replace") if layout.card.is_file() else None
    except OSError as error:
        raise StorageError(f"could not read {layout.card}: {error.strerror}") from error
    written = card_of(layout, earlier=earlier)
    reach("card: to be written")
    write_whole(layout.card, written.encode())
    reach("card: in place")


def card_settings(layout: Layout) -> Path:
    """Where it is kept what the card says was asked, to write the card again."""
    return layout.state / "card.json"


def card_of(layout: Layout, *, repo: str | None = None, earlier: str | None = None) -> str:
    """The card of a finished dataset, counted from its shards; it says how the run's settings were.

    repo: OWNER/NAME on the Hub, where the card is for there. earlier: the README that is there already: text outside
    of our part, and keys of the front matter that are not ours, stay. Raises `DatasetError`.
    """
    settings, there = read_json(card_settings(layout)) or {}, read_earlier(earlier)
    counts = count_dataset(layout)
    splits = [_split("default", layout, shard_files(layout))]
    if scores := sorted(layout.quality.glob("train-*.parquet")):
        splits.append(_split("quality", layout, scores))
    front = front_matter(splits, there.front, settings.get("license"))
    ours = "\n\n".join(_sections(layout, repo, counts, splits, settings, front.get("license")))
    return _joined(front, there, repo or layout.root.absolute().name, ours)


def _joined(front: Mapping[Any, Any], there: Earlier, name: str, ours: str) -> str:
    before = there.before or ("" if there.after else f"# {text(name.rpartition('/')[2])}")
    parts = [front_text(front), before, f"{BEGIN}\n{ours}\n{END}", there.after]
    written = "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"
    return written.encode("utf-8", "replace").decode()  # a folder's name may be no Unicode


def _split(config: str, layout: Layout, files: Sequence[Path]) -> SplitInfo:
    schema = pq.read_schema(files[0])
    return SplitInfo(
        config,
        f"{files[0].parent.name}/{'train-' if all(file.name.startswith('train-') for file in files) else ''}*.parquet",
        hub_schema(schema, image_columns(schema)),
        sum(pq.read_metadata(file).num_rows for file in files),
        sum(file.stat().st_size for file in files),
    )


def _sections(
    layout: Layout,
    repo: str | None,
    counts: DatasetCounts,
    splits: Sequence[SplitInfo],
    settings: Mapping[str, Any],
    license: Any,
) -> Iterator[str]:
    yield _what_it_is(counts, settings)
    if layout.card_sheet.is_file():
        yield f"![Pictures from all over the dataset, with their prompts]({layout.card_sheet.name})"
    yield "## What is in it"
    yield _what_is_in_it(counts)
    yield "## How to load it"
    yield _how_to_load(repo or layout.root.absolute().name, repo is not None, splits)
    yield "## Columns"
    yield columns_table(splits[0].schema, template=settings.get("prompt"))
    for split in splits[1:]:
        yield "## Quality columns"
        yield f"In the config `{split.config}`, row for row beside the others; nothing was left out for its score."
        yield columns_table(split.schema, others="of a scorer of its makers' own")
    yield "## How it was made"
    yield _how_it_was_made(counts, settings)
    yield "## Licence"
    told = ", ".join(code(name) for name in (license if isinstance(license, list) else [license]) if name)
    yield f"{told}." if told else "No licence was given: ask whoever made the dataset before you use it."


def _what_it_is(counts: DatasetCounts, settings: Mapping[str, Any]) -> str:
    models = list(counts.models) or _as_list(settings.get("model"))
    by = f" by {' and '.join(map(code, models))}" if models else ""
    return f"{counts.rows:,} rows and {counts.images:,} images, generated with imagetask{by}."


def _what_is_in_it(counts: DatasetCounts) -> str:
    rows = [["rows", f"{counts.rows:,}"], ["images", f"{counts.images:,}"]]
    if counts.picture_bytes:
        rows.append(["pictures", f"{_size(counts.picture_bytes)}, with the provider's own bytes"])
    rows.append(["files", _size(counts.file_bytes)])
    rows += [["formats", _by_count(counts.formats)]] if counts.formats else []
    rows += [["sizes (px)", _by_count(counts.sizes)]] if counts.sizes else []
    for kind, count in sorted(counts.failed.items(), key=lambda item: (item[0] != "refused", item[0])):
        rows.append(["refused by the model" if kind == "refused" else f"failed: {code(kind)}", f"{count:,}"])
    rows += [["pending: a budget was reached", f"{counts.pending:,}"]] if counts.pending else []
    return table(["", ""], rows)


def _by_count(counted: Mapping[str, int]) -> str:
    first = [f"{text(name)} ({count:,})" for name, count in list(counted.items())[:_SHOWN_SIZES]]
    others = len(counted) - len(first)
    return ", ".join(first) + (f", and {others:,} others" if others else "")


def _size(num_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def _how_to_load(place: str, on_hub: bool, splits: Sequence[SplitInfo]) -> str:
    images = image_columns(splits[0].schema)
    where = "" if on_hub else "  # the path of this folder"
    lines = ["from datasets import load_dataset", "", f'rows = load_dataset({place!r}, split="train"){where}']
    lines += [f"rows[0][{images[0]!r}]"] if images else []
    lines += [f'{split.config} = load_dataset({place!r}, {split.config!r}, split="train")' for split in splits[1:]]
    files = f"{f'hf://datasets/{place}' if on_hub else place}/data/*.parquet"
    lines += ["", "import polars as pl", "", f"pl.scan_parquet({files!r})  # no picture is read that is not selected"]
    return block("\n".join(lines), "python")


def _how_it_was_made(counts: DatasetCounts, settings: Mapping[str, Any]) -> str:
    rows = [["model", ", ".join(map(code, _as_list(settings.get("model")) or counts.models))]]
    rows += [["provider", ", ".join(map(code, counts.providers))]] if counts.providers else []
    rows += [["source", _source(source)] for source in _as_list(settings.get("sources"))]
    rows += [[text(name), _value(value)] for name, value in settings.items() if name not in _NOT_IN_TABLE]
    return table(["setting", "value"], rows)


def _source(source: Any) -> str:
    """A source, with its revision and whatever else is known of it."""
    if not isinstance(source, Mapping):
        return code(source)
    return ", ".join(f"{text(name)} {code(value)}" for name, value in source.items() if value is not None)


def _value(value: Any) -> str:
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
