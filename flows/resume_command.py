"""The command of a run, as a person would type it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagetask.retry_settings import Retry
from imagetask.settings import RunSettings


def command_of(
    settings: RunSettings, started_in: str | None = None, retry: Retry | None = None, *, larger: bool = False
) -> str:
    """The command that goes on with a run; where it was started in another folder than this, from there.

    retry: what the run tried again, where it did no more. larger: the budget was reached, and has to be.
    A worker's run has absolute paths only, and its folder is gone.
    """
    budget = {name: getattr(settings, name) for name in ("max_images", "max_cost")} if larger else {}
    more = {name: f"MORE_THAN_{value:g}" for name, value in budget.items() if value is not None}
    if retry is not None:
        words = [
            "imagetask",
            "retry",
            str(settings.out),
            *_options(retry.model_dump(mode="json", exclude_defaults=True)),
        ]
    else:
        sources = [settings.source] if isinstance(settings.source, str) else settings.source
        given = settings.model_dump(mode="json", exclude_defaults=True, exclude={"source", "out", "rebuild"})
        words = ["imagetask", "generate", *sources, "--out", str(settings.out), *_options(given | more)]
    command = shlex.join(words)
    elsewhere = started_in is not None and Path(started_in) != Path.cwd() and Path(started_in).is_dir()
    return f"cd {shlex.quote(str(started_in))} && {command}" if elsewhere else command


def _options(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict):
            as_text: Callable[[Any], str] = _json_or_text if name == "param" else str
            values = [f"{key}={as_text(item)}" for key, item in value.items()]
        else:
            values = [str(item) for item in (value if isinstance(value, list) else [value])]
        option = f"--{name.replace('_', '-')}"
        for text in values:
            yield from [f"{option}={text}"] if text[:1] == "-" else [option, text]


def _json_or_text(value: Any) -> str:
    """A parameter as it is given on the command line: text as it is, where it is not read as something else."""
    if isinstance(value, str):
        with suppress(ValueError):
            json.loads(value)
            return json.dumps(value)
        return value
    return json.dumps(value)
