"""What the commands say on the terminal: their lines, what is wrong with their words, and what an interrupt leaves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args, get_origin

from cyclopts import CoercionError, CycloptsError, UnknownCommandError, UnknownOptionError, UnusedCliTokensError
from rich.console import Console

DONE, STOPPED, WRONG_USAGE, SOME_FAILED, SOME_PENDING = 0, 1, 2, 3, 4
"""Exit codes: all rows done; stopped before the end; wrong usage; finished with failed rows; a budget was reached."""

NO_KEY_ARGUMENT = (
    "a key is never given as an argument, where the shell's history and other users would see it: set OPENAI_API_KEY "
    "or HF_TOKEN, or leave it out and type it when asked"
)
_MEANS_A_KEY = re.compile(r"key|token|secret|password|credential|auth|bearer", re.IGNORECASE)
_NO_KEY = re.compile(r"[A-Za-z]{1,12}|[-+.,0-9]+")
"""A word that may be repeated: of letters alone, or a number."""
_ALIKE = 0.75
"""How like a word is to the one that was meant, as difflib counts: at its 0.6 --colour would mean --out."""
_EXPECTED = {bool: "no value", int: "a whole number", float: "a number"}

console = Console(stderr=True)


def quiet() -> None:
    """Prefect's own log lines are for its server, and it sends nothing home. To be called before it is imported."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


def say(text: str) -> None:
    """One line, as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def wrong_words(error: CycloptsError) -> str:
    """What is wrong with a command's words; not the words themselves where they may be a key."""
    command = " ".join(("imagetask", *(error.command_chain or ())))
    if isinstance(error, UnknownOptionError):
        names = [name for argument in error.argument_collection or () if argument.parse for name in argument.names]
        return _no_option(error.token.keyword or error.token.value, command, names)
    if isinstance(error, UnknownCommandError):
        word, names = (error.unused_tokens or [""])[0], list(error.app or ())
        if word.startswith("-"):
            return _no_option(word, command, names)
        shown = f" {word}" if _NO_KEY.fullmatch(word) else ""
        return f"there is no such command{shown}{_hint(word, names, command)}"
    if isinstance(error, UnusedCliTokensError):
        return f"there are more words than {command} takes: put those that belong together in quotes; {NO_KEY_ARGUMENT}"
    if isinstance(error, CoercionError) and error.token is not None:
        shown = f", not {error.token.value}" if _NO_KEY.fullmatch(error.token.value) else ""
        return f"{_named(error)}: {_expected(error.target_type)}{shown}"
    return str(error)


def _no_option(word: str, command: str, names: Iterable[str]) -> str:
    option = word.partition("=")[0] if word.startswith("--") else word[:2]
    if _MEANS_A_KEY.search(option):
        return NO_KEY_ARGUMENT
    return f"there is no option {option}{_hint(option, names, command)}"


def _hint(word: str, names: Iterable[str], command: str) -> str:
    from difflib import get_close_matches  # `--help` starts without it

    near = get_close_matches(word, list(names), n=1, cutoff=_ALIKE)
    return (f": did you mean {near[0]}?" if near else ";") + f" {command} --help lists those that there are"


def _named(error: CoercionError) -> str:
    assert error.token is not None
    return error.token.keyword or (error.argument.name if error.argument else "a word")


def _expected(kind: object) -> str:
    if choices := next((get_args(each) for each in (kind, *get_args(kind)) if get_origin(each) is Literal), None):
        return f"expected {', '.join(map(str, choices[:-1]))} or {choices[-1]}"
    one = next((each for each in (kind, *get_args(kind)) if each in _EXPECTED), None)
    return f"expected {_EXPECTED[one]}" if isinstance(one, type) else "it is not of the kind that is expected"


@contextmanager
def if_interrupted(text: str) -> Iterator[None]:
    """Ctrl-C within says what is true then."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(text) from error
