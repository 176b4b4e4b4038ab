"""`imagetask blocks create`: a block with the credentials of a backend, made without opening the UI."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError, UnusedCliTokensError
from rich.console import Console
from rich.text import Text

from imagetask.errors import GenerationError, UsageError
from imagetask.models.connections import checked_key

if TYPE_CHECKING:
    from imagetask.blocks import BackendBlock

_NO_KEY_ARGUMENT = (
    "a key is never given as an argument, where the shell's history and other users would see it: set OPENAI_API_KEY "
    "or HF_TOKEN, or leave it out and type it when asked"
)
_TOO_MANY_WORDS = "after BACKEND and NAME come only options, and a price with a size is put in quotes; "
_MEANS_A_KEY = re.compile(r"key|token|secret|password|credential|auth|bearer", re.IGNORECASE)
_OPTIONS = {"prices": "--price"}

_console = Console(stderr=True)


def _told(error: CycloptsError) -> Text:
    """What is wrong with the command's words; not the words themselves where they may be a key."""
    if isinstance(error, UnusedCliTokensError):
        return Text(f"Error: {_TOO_MANY_WORDS}{_NO_KEY_ARGUMENT}")
    if isinstance(error, UnknownOptionError):
        option = (error.token.keyword or error.token.value).partition("=")[0]
        if _MEANS_A_KEY.search(option):
            return Text(f"Error: {_NO_KEY_ARGUMENT}")
        return Text(f"Error: there is no option {option}; imagetask blocks create --help lists those that there are")
    return Text(f"Error: {error}")


blocks = App(
    name="blocks",
    help="Blocks: credentials, limits and prices of an account, kept by the Prefect server under a name.",
    error_formatter=_told,
)


@blocks.command
def create(
    backend: Annotated[str, Parameter(help="Backend that the account is for: openai or inference-endpoints.")],
    name: Annotated[str, Parameter(help="Name for the block: lowercase letters, digits and dashes.")],
    /,
    *,
    base_url: Annotated[str | None, Parameter(help="URL of the server, where it is not the backend's own.")] = None,
    model: Annotated[str | None, Parameter(help="Model id for runs that name the backend alone.")] = None,
    provider: Annotated[str | None, Parameter(help="Hugging Face: inference provider.")] = None,
    bill_to: Annotated[str | None, Parameter(help="Hugging Face: organization that pays for the calls.")] = None,
    max_concurrency: Annotated[int | None, Parameter(help="Calls of one run under way at once, at most.")] = None,
    requests_per_minute: Annotated[float | None, Parameter(help="Calls of one run in a minute, at most.")] = None,
    price: Annotated[
        list[str] | None,
        Parameter(help='USD an image: MODEL=0.04, or "MODEL 1024x1024=0.04". Repeatable.', negative=()),
    ] = None,
    overwrite: Annotated[bool, Parameter(help="Replace a block of that name.", negative=())] = False,
) -> int:
    """Save a block NAME with the credentials of an account at BACKEND, on the Prefect server.

    The key comes from OPENAI_API_KEY or HF_TOKEN, else it is asked for, and not shown while it is typed.
    Runs then use it with --credentials NAME. The server is the one that PREFECT_API_URL names, else Prefect's own on
    this machine.
    """
    given = {
        "base_url": base_url,
        "model": model,
        "provider": provider,
        "bill_to": bill_to,
        "max_concurrency": max_concurrency,
        "requests_per_minute": requests_per_minute,
        "prices": _prices(price) if price else None,
    }
    _create(backend, name, {field: value for field, value in given.items() if value is not None}, overwrite)
    return 0


def _create(backend: str, name: str, fields: Mapping[str, Any], overwrite: bool) -> None:
    """Checks all that can be checked first, then that the name is free, and only then asks for the key."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from imagetask.blocks import block_class, block_exists, check_block_name, save_block

    from ..embedded_server import start_server

    variable = block_class(backend).key_variable
    check_block_name(name)
    block = _checked(backend, fields)
    in_environment = _key_in_environment(variable)
    if not (in_environment or block.base_url or sys.stdin.isatty()):
        raise UsageError(f"no key: set {variable} for this command, or run it on a terminal, where it asks for the key")
    start_server(_say)()
    if not overwrite and block_exists(backend, name):
        raise UsageError(
            f"there is a block {block.get_block_type_slug()}/{name} already: choose another name, or replace it with "
            "--overwrite"
        )
    if in_environment:
        _say(f"The key is the one in {variable}.")
    key = in_environment or _asked_for(variable, block.base_url)
    save_block(_checked(backend, {**fields, "api_key": key or None}), name)
    _say_how_to_use(backend, name, block)


def _checked(backend: str, fields: Mapping[str, Any]) -> BackendBlock:
    """The block with these fields, not yet saved. Raises `UsageError`, which names the option and shows no secret."""
    from pydantic import ValidationError

    from imagetask.blocks import block_class, what_is_wrong

    try:
        return block_class(backend)(**fields)
    except ValidationError as error:
        field, why = what_is_wrong(error)
        option = _OPTIONS.get(field, f"--{field.replace('_', '-')}")
        raise UsageError(f"{option}: {why}") from None


def _prices(texts: list[str]) -> dict[str, float]:
    """`MODEL=0.04` and `MODEL WIDTHxHEIGHT=0.04` → USD by what stands before the last `=`."""
    prices: dict[str, float] = {}
    for text in texts:
        name, _, usd = text.rpartition("=")
        try:
            prices[name.strip()] = float(usd)
        except ValueError as error:
            raise UsageError(f'--price {text}: expected MODEL=USD, or "MODEL WIDTHxHEIGHT=USD"') from error
    return prices


def _key_in_environment(variable: str) -> str:
    """The key in the backend's variable, "" where there is none. Raises `UsageError` for what is no key."""
    return _fit(os.environ.get(variable), variable)


def _asked_for(variable: str, base_url: str | None) -> str:
    """The key as typed at a prompt that does not show it; "" where the server of `base_url` needs none."""
    prompt = f"Key ({'empty for none; ' if base_url else ''}it is not shown): "
    key = _typed(prompt) if sys.stdin.isatty() else ""
    if not key and not base_url:
        raise UsageError(f"no key was typed: nothing is saved; type it, or set {variable}")
    if not key:
        _say(f"Without a key, for a server of your own; {variable} is not set.")
    return key


def _typed(prompt: str) -> str:
    try:
        return _fit(getpass(prompt), "what was typed")
    except EOFError:
        return ""


def _fit(key: str | None, source: str) -> str:
    try:
        return checked_key(key, source)
    except GenerationError as error:
        raise UsageError(error.message) from error


def _say_how_to_use(backend: str, name: str, block: BackendBlock) -> None:
    model = backend if block.model or block.base_url else f"{backend}:MODEL_ID"
    _say(f"Saved the block {block.get_block_type_slug()}/{name}. Use it by its name:")
    _say(f"  imagetask generate SOURCE --out DIR --model {model} --credentials {name}")
    _say(f"or in a run of the deployment, with the parameters model={model} and credentials={name}.")


def _say(text: str) -> None:
    _console.print(text, highlight=False, markup=False, soft_wrap=True)
