"""The command `imagetask`, run in a process of its own, as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DONE, STOPPED, WRONG_USAGE, SOME_FAILED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that ended: its exit code, and all that it wrote to its terminal."""

    code: int
    text: str


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a command that is run in `folder`: without keys, with a Prefect home of its own beside it."""
    keys = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "PREFECT_API_URL", "IMAGETASK_STORE", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in keys}
    home = folder.with_name(f"{folder.name}-prefect")
    return {**inherited, "PREFECT_HOME": str(home), "COLUMNS": "200", "HF_HUB_OFFLINE": "0", **more}


def command(*words: str | Path) -> list[str]:
    """The words of an `imagetask` command, as the shell would find it."""
    return [str(Path(sysconfig.get_path("scripts")) / "imagetask"), *map(str, words)]


def imagetask(*words: str | Path, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 180) -> Ended:
    """Runs `imagetask WORDS` in `cwd` to its end. env: what is set beside `environment`."""
    ended = subprocess.run(
        command(*words),
        cwd=cwd,
        env=environment(cwd, **(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode())
