"""A task by its import path, and the digest of its code."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from imagetask.errors import UsageError
from imagetask.import_paths import imported
from imagetask.tasks.base import ImageTask

_read: dict[str, tuple[ModuleSpec | None, bytes]] = {}
"""Module name → the import of it whose file was read, and the file as it was then."""


def load_task(path: str) -> type[ImageTask]:
    """The task class that `my_module:MyTask` names; the working folder counts. Raises `UsageError`."""
    _, task = imported(path, "task", "my_module:MyTask")
    if not (inspect.isclass(task) and issubclass(task, ImageTask)):
        raise UsageError(f"{path!r} is no task: expected a subclass of imagetask.ImageTask")
    if inspect.isabstract(task):
        missing = ", ".join(sorted(task.__abstractmethods__))
        raise UsageError(f"the task {path!r} is not whole: it lacks {missing}")
    code_digest(task)
    return task


@cache
def code_digest(task: type[ImageTask]) -> str:
    """A digest of the modules that define the task and its bases.

    It belongs to the class: where a file is edited after its module was imported, class and digest stay the old ones.
    """
    digest = hashlib.blake2b(digest_size=16)
    for base in task.__mro__:
        if issubclass(base, ImageTask) and (module := sys.modules.get(base.__module__)) is not None:
            digest.update(f"{base.__module__}.{base.__qualname__}\n".encode())
            digest.update(_source(base, module))
    return digest.hexdigest()


def _source(kind: type, module: ModuleType) -> bytes:
    """The file of the class, as it was first seen since its import; the class alone where it was typed into a shell."""
    file = getattr(module, "__file__", None)
    if file is not None and Path(file).is_file():
        spec, text = _read.get(module.__name__, (None, None))
        if text is None or spec is not module.__spec__:  # a reload has a new spec
            text = Path(file).read_bytes()
            _read[module.__name__] = (module.__spec__, text)
        return text
    try:
        return inspect.getsource(kind).encode()
    except (OSError, TypeError) as error:
        raise UsageError(f"the code of the task {kind.__qualname__} cannot be read: put it into a module") from error
