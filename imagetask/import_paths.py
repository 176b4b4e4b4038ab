"""What a user's own module holds, by its import path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from imagetask.errors import UsageError


def imported(path: str, what: str, example: str) -> tuple[ModuleType, Any]:
    """The module, and what `module:name` names in it, None where there is no such; the working folder counts.

    what, example: for the message, "task" and "my_module:MyTask". Raises `UsageError`.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise UsageError(f"the {what} {path!r} is no import path: expected {example}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        why = (str(error).splitlines() or [""])[0]
        raise UsageError(f"the {what} {path!r} cannot be imported: {type(error).__name__}: {why}") from error
    return module, getattr(module, name, None)
