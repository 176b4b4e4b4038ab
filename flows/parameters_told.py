"""What a flow's parameters are for, in its docstring: there Prefect looks for it, for its own run form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])


def descriptions_of(model: type[BaseModel]) -> dict[str, str]:
    """Field → its description."""
    return {name: field.description or "" for name, field in model.model_fields.items()}


def with_parameters_told(descriptions: Mapping[str, str]) -> Callable[[F], F]:
    """Adds to a function's docstring what its parameters are for, in their order; those without a description not."""

    def told(function: F) -> F:
        names = [name for name in inspect.signature(function).parameters if name in descriptions]
        lines = (f"    {name}: {descriptions[name]}" for name in names)
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
        return function

    return told
