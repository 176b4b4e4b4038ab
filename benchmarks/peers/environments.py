"""The environments of the peers: a virtual environment for each, made once, with what it takes to run them today."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Peer:
    """requirements: for pip."""

    name: str
    requirements: tuple[str, ...]


DISTILABEL = Peer("distilabel", ("distilabel[openai,vision]==1.5.3", "requests"))
"""Its image generation imports `requests`, which it does not require; `vision` brings Pillow, which its images need.

With the newest versions of all else (openai 3.54, huggingface-hub 2.4, datasets 5.2, November 2026) it runs.
"""

DATA_DESIGNER = Peer("data-designer", ("data-designer==0.9.6",))


def interpreter(peer: Peer, folder: Path) -> Path:
    """The Python of the peer's environment below `folder`, which is made where it is missing or for other requirements.

    Raises `SystemExit` where pip fails.
    """
    home = folder / peer.name
    python, made = home / "bin" / "python", home / "requirements.txt"
    wanted = "".join(f"{line}\n" for line in peer.requirements)
    if made.is_file() and made.read_text() == wanted:
        return python
    print(f"Installing {' '.join(peer.requirements)} into {home}", flush=True)
    _run(sys.executable, "-m", "venv", "--clear", str(home))
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements)
    made.write_text(wanted)
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
