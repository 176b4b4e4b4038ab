"""Parameters of a row's own: cells of its columns, which go before what the run asks of every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from imagetask.errors import GenerationError
from imagetask.models.base import ImageRequest

_WHOLE = "a whole number of at least"
_KINDS: Mapping[str, tuple[TypeAdapter[Any], str]] = {
    "seed": (TypeAdapter(Annotated[int, Field(ge=0, lt=2**63)]), f"{_WHOLE} 0, below 2**63"),
    "width": (TypeAdapter(Annotated[int, Field(ge=1)]), f"{_WHOLE} 1 (px)"),
    "height": (TypeAdapter(Annotated[int, Field(ge=1)]), f"{_WHOLE} 1 (px)"),
    "negative_prompt": (TypeAdapter(str), "text"),
    "num_inference_steps": (TypeAdapter(Annotated[int, Field(ge=1)]), f"{_WHOLE} 1"),
    "guidance_scale": (TypeAdapter(Annotated[float, Field(allow_inf_nan=False)]), "a number"),
}
"""Parameter → what its cells must be, and words for that."""

PARAMETERS = tuple(_KINDS)
"""The parameters that every backend's requests have; a backend may take others."""


def with_row_parameters(
    asked: str | ImageRequest | None, row: Mapping[str, Any], columns: Mapping[str, str], defaults: Mapping[str, Any]
) -> str | ImageRequest | None:
    """What is asked for a row, with the parameters that its cells give. columns: parameter → column. defaults: what the
    run asks of every row.

    A null, and an empty cell where a number is expected, says nothing. Raises `GenerationError` of kind
    "invalid_input" for a cell of another kind than the parameter, and for one of width and height without the other.
    """
    found = {name: _value(name, column, row[column]) for name, column in columns.items() if column in row}
    given = {name: value for name, value in found.items() if value is not None}
    if not given or not isinstance(asked, str | ImageRequest):
        return asked
    request = ImageRequest(asked) if isinstance(asked, str) else asked
    named = {name: value for name, value in given.items() if name in _KINDS}
    extra = {name: value for name, value in given.items() if name not in _KINDS}
    request = replace(request, **named, extra={**request.extra, **extra})
    sizes = {name: getattr(request, name) or defaults.get(name) for name in ("width", "height")}
    if named.keys() & sizes.keys() and not all(sizes.values()):
        [missing] = [name for name, value in sizes.items() if not value]
        raise GenerationError("invalid_input", f"the row has no {missing}, and neither has the run: they go together")
    return request


def _value(name: str, column: str, cell: Any) -> Any:
    if cell is None or name not in _KINDS:
        return cell
    kind, expected = _KINDS[name]
    if cell == "" and name != "negative_prompt":
        return None
    try:
        return kind.validate_python(str(cell) if isinstance(cell, bool) else cell)
    except ValidationError as error:
        text = f"the column {column!r} holds {str(cell)[:40]!r} as {name}: expected {expected}"
        raise GenerationError("invalid_input", text) from error
