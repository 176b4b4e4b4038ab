"""The front matter of a card, which tells the Hub and `datasets` what to load; and the README that was there before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import yaml  # type: ignore[import-untyped]

from imagetask.columns import hub_features
from imagetask.markdown import block

BEGIN, END = "<!-- imagetask: begin -->", "<!-- imagetask: end -->"
"""The lines between which a card is made anew; what stands around them is people's own."""

_BLOCK = re.compile(r"\A\s*---[ \t]*\n(.*?)(?:^|\n)---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_PART = re.compile(rf"^{BEGIN}[ \t]*$(?:(?!^{BEGIN}[ \t]*$).)*?^{END}[ \t]*$", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(rf"^(?:{BEGIN}|{END})[ \t]*\n?", re.MULTILINE)
_UNMARKED = re.compile(
    r"\s*# [^\n]*\n\n[\d,]+ rows and [^\n]*generated with imagetask by .*"
    r"How it was made:\n(?:\n```json\n(?:(?!```).)*\n```\s*)?",
    re.DOTALL,
)
"""A whole card of a version that wrote no markers: its title, and our sentences alone."""
"""What the cards of versions without markers said."""

_CLASSES = ((1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M"))
_MERGED = ("tags", "task_categories")


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One config of the dataset, with its one split. path: of its files; num_bytes: of all of them together."""

    config: str
    path: str
    schema: pa.Schema
    rows: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """A README that is there already. front: its front matter; before, after: people's text around our part."""

    front: Mapping[Any, Any] = field(default_factory=dict)
    before: str = ""
    after: str = ""


class _CoreLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.2 as the Hub reads it: `no` is the code of a language, and a date is text."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), list(_first))


def read_earlier(readme: str | None) -> Earlier:
    """Takes a README apart; of one that a version without markers wrote, only foreign keys of its front matter stay.

    Front matter that is no YAML is kept as a block of text.
    """
    readme = (readme or "").removeprefix("\ufeff").replace("\r\n", "\n")
    begun = _BLOCK.match(readme)
    body = readme[begun.end() :] if begun else readme
    front = _parsed(begun[1]) if begun else {}
    if front is None:
        assert begun is not None
        front, body = {}, f"{body.rstrip()}\n\n{block(begun[1], 'yaml')}\n"
    if part := _PART.search(body):
        return Earlier(front, body[: part.start()].strip("\n"), body[part.end() :].strip("\n"))
    is_old = _UNMARKED.fullmatch(body) and not _MARKER.search(body)
    if "imagetask" in _listed(front.get("tags")) and is_old:
        return Earlier(front)
    return Earlier(front, _MARKER.sub("", body).strip("\n"))


def _parsed(text: str) -> dict[Any, Any] | None:
    """Front matter, or None where it is not a mapping in YAML."""
    try:
        value = yaml.load(text, _CoreLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError):
        return None
    return value if isinstance(value, dict) else {} if value is None else None


def front_matter(splits: Sequence[SplitInfo], earlier: Mapping[Any, Any], license: str | None) -> dict[Any, Any]:
    """The front matter: ours, and what `earlier` has beside. splits: the first is the one that is loaded by default.

    license: as the run was told; where it was not, that of `earlier` stays, and where there is none the key is absent.
    """
    ours: dict[Any, Any] = {} if license is None else {"license": license}
    ours |= {
        "task_categories": ["text-to-image"],
        "tags": ["imagetask", "synthetic"],
        "size_categories": [_size_class(splits[0].rows)],
        "configs": [_config(split, default=number == 0) for number, split in enumerate(splits)],
        "dataset_info": [_info(split) for split in splits],
    }
    for key in _MERGED:
        ours[key] = list(dict.fromkeys([*ours[key], *_listed(earlier.get(key))]))
    return {key: value for key, value in earlier.items() if key not in ours} | ours


def front_text(front: Mapping[Any, Any]) -> str:
    """Front matter as it stands in a README, between its lines of dashes."""
    written = yaml.safe_dump(dict(front), allow_unicode=True, sort_keys=False, width=10**6)
    return f"---\n{written}---\n"


def _listed(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [str(item) for item in items if item is not None]


def _config(split: SplitInfo, *, default: bool) -> dict[str, Any]:
    named = {"config_name": split.config, "data_files": [{"split": "train", "path": split.path}]}
    return {**named, "default": True} if default else named


def _info(split: SplitInfo) -> dict[str, Any]:
    return {
        "config_name": split.config,
        "features": _fields(hub_features(split.schema)),
        "splits": [{"name": "train", "num_bytes": split.num_bytes, "num_examples": split.rows}],
        "download_size": split.num_bytes,
        "dataset_size": split.num_bytes,
    }


def _size_class(rows: int) -> str:
    """The Hub's word for how many rows there are."""
    lower = "n<1K"
    for number, (least, name) in enumerate(_CLASSES):
        if rows >= least:
            following = _CLASSES[number + 1][1] if number + 1 < len(_CLASSES) else "100M"
            lower = f"{name}<n<{following}"
    return lower


def _fields(features: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **_described(feature)} for name, feature in features.items()]


def _described(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as a dataset card writes it: `dtype`, `list` or `struct`."""
    match feature.get("_type"):
        case "List":
            inner = _described(feature["feature"])
            short = next(iter(inner.values())) if inner.keys() in ({"dtype"}, {"struct"}) else inner
            length = {"length": feature["length"]} if "length" in feature else {}
            return {"list": short, **length}
        case "Value":
            return {"dtype": feature["dtype"]}
        case "Image":
            return {"dtype": "image"}
    return {"struct": _fields(feature)}
