"""A row of a dataset, as Python has it: a mapping that shows itself as a picture in a notebook."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from imagetask.images import Image
from imagetask.shown import row_html


class Row(Mapping[str, Any]):
    """A row, column → value. In image columns a value is an `Image`, or None where there is none; or a list of them.

    number: of the row in its dataset, from 0.
    """

    def __init__(self, values: Mapping[str, Any], image_columns: Collection[str], number: int) -> None:
        self.number = number
        self.image_columns = list(image_columns)
        self._values = {name: as_images(value) if name in image_columns else value for name, value in values.items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Row({self._values!r})"

    def _repr_html_(self) -> str:
        return row_html(self)


def as_images(cell: Any) -> Any:
    """The images of a cell: an `Image`, None, or lists of them, as the cell is nested."""
    if isinstance(cell, list):
        return [as_images(item) for item in cell]
    return None if cell is None or cell["bytes"] is None else Image.from_bytes(cell["bytes"])
