"""What the formats of an export have in common: rows of one split → files in a folder."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from imagetask.errors import UsageError
from imagetask.exports.rows import Rows


class SplitWriter(ABC):
    """Writes the rows of one split into `folder`; nothing is there before the first row.

    schema: of the rows, as the Hub's. images: its columns of pictures. files: how many were written.
    """

    pictures: ClassVar[Literal["none", "any", "all"]]
    """Which of its pictures a row must have to be written."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, images: Sequence[str]) -> None:
        self.folder, self.split, self.schema, self.images = folder, split, schema, images
        self.files = 0

    @classmethod
    @abstractmethod
    def check(cls, schema: pa.Schema, images: Sequence[str], suffixes: Mapping[str, Set[str]]) -> None:
        """Raises `UsageError` where the format cannot hold such rows. suffixes: of pictures, by image column."""

    @abstractmethod
    def write(self, rows: Rows) -> None:
        """Adds rows."""

    @abstractmethod
    def close(self) -> None:
        """Finishes the last file."""

    @abstractmethod
    def abandon(self) -> None:
        """Lets go of a file that is not to be finished."""

    @classmethod
    @abstractmethod
    def data_files(cls, split: str) -> str:
        """The pattern of a split's files, for the front matter of README.md."""

    @classmethod
    @abstractmethod
    def opened(cls, place: str) -> str:
        """Python that opens the export at `place`."""

    @classmethod
    def features(
        cls, columns: list[dict[str, Any]], schema: pa.Schema, suffixes: Mapping[str, Set[str]]
    ) -> list[dict[str, Any]]:
        """The features that the files have, for the front matter; none where the files alone are asked for them.

        columns: the features of the rows. suffixes: of the pictures, by image column.
        """
        return []


def check_pictures(what: str, schema: pa.Schema, images: Sequence[str], suffixes: Mapping[str, Set[str]]) -> None:
    """Raises `UsageError` where a row has not one picture a column, or one that `datasets` takes for none."""
    if not images:
        raise UsageError(f"{what} holds pictures, and this dataset has no image column: use parquet")
    if lists := [name for name in images if pa.types.is_list(schema.field(name).type)]:
        raise UsageError(f"{what} holds one picture a row, and {lists[0]!r} holds lists of them: use parquet")
    for name in images:
        if "avif" in suffixes[name]:
            raise UsageError(f"{what} cannot hold AVIF ({name!r}): give image format webp, jpeg or png, or use parquet")


def name_parts(images: Sequence[str]) -> dict[str, str]:
    """Image column → the word in the names of its files, where there are several: "" for `image`, or the first."""
    main, parts = "image" if "image" in images else images[0], dict[str, str]()
    for number, name in enumerate(images):
        word = re.sub(r"[^a-z0-9_]+", "_", name.lower())
        parts[name] = "" if name == main else word if word not in parts.values() else f"{word}_{number}"
    return parts


def stem(number: int) -> str:
    """What the files of a row are named: its number in the dataset, from 0."""
    return f"{number:09d}"


def suffix(cell: pa.StructScalar) -> str:
    """The file suffix of a picture, without a dot."""
    path: str = cell["path"].as_py()
    return path.rpartition(".")[2]
