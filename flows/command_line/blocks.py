"""`imagetask blocks create`: a block with the credentials of a backend, made without opening the UI."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from getpass import getpass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from imagetask.errors import GenerationError, UsageError

from .terminal import DONE, if_interrupted, quiet, say

if TYPE_CHECKING:
    from imagetask.blocks import BackendBlock

_OPTIONS = {"prices": "--price"}


blocks = App(
    name="blocks",
    help="Blocks: credentials, limits and prices of an account, kept by the Prefect server under a name.",
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
        Parameter(
            help='USD an image: MODEL=0.04, or "MODEL 1024x1024=0.04"; or USD a million tokens: '
            '"MODEL input tokens=5", "MODEL output tokens=40". Repeatable.',
            negative=(),
        ),
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
    return DONE


def _create(backend: str, name: str, fields: Mapping[str, Any], overwrite: bool) -> None:
    """Checks all that can be checked first, then that the name is free, and only then asks for the key."""
    quiet()
    from imagetask.blocks import block_class, block_exists, block_is_there, check_block_name, save_block

    from ..embedded_server import start_server

    variable = block_class(backend).key_variable
    check_block_name(name)
    block = _checked(backend, fields)
    in_environment = _key_in_environment(variable)
    if not (in_environment or block.base_url or sys.stdin.isatty()):
        raise UsageError(f"no key: set {variable} for this command, or run it on a terminal, where it asks for the key")
    with if_interrupted("Interrupted. Nothing is saved."):
        start_server(say)()
        if not overwrite and block_exists(backend, name):
            raise block_is_there(backend, name)
        if in_environment:
            say(f"The key is the one in {variable}.")
        key = in_environment or _asked_for(variable, block.base_url)
    save_block(_checked(backend, {**fields, "api_key": key or None}), name, overwrite=overwrite)
    _say_how_to_use(backend, name, block)


def _checked(backend: str, fields: Mapping[str, Any]) -> BackendBlock:
    """The block with these fields, not yet saved. Raises `UsageError`, which names the option and shows no secret."""
    from pydantic import ValidationError

    from imagetask.blocks import block_class, wrong_field

    try:
        return block_class(backend)(**fields)
    except ValidationError as error:
        field, why = wrong_field(error)
        option = _OPTIONS.get(field, f"--{field.replace('_', '-')}")
        raise UsageError(f"{option}: {why}") from None


def _prices(texts: list[str]) -> dict[str, float]:
    """`MODEL=0.04`, `MODEL WIDTHxHEIGHT=0.04`, `MODEL output tokens=40` → USD by what stands before the last `=`."""
    prices: dict[str, float] = {}
    for text in texts:
        name, _, usd = text.rpartition("=")
        try:
            prices[name.strip()] = float(usd)
        except ValueError as error:
            forms = '"MODEL WIDTHxHEIGHT=USD", "MODEL input tokens=USD" or "MODEL output tokens=USD"'
            raise UsageError(f"--price {text}: expected MODEL=USD, {forms}") from error
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
        say(f"Without a key, for a server of your own; {variable} is not set.")
    return key


def _typed(prompt: str) -> str:
    try:
        return _fit(getpass(prompt), "what was typed")
    except EOFError:
        return ""


def _fit(key: str | None, source: str) -> str:
    from imagetask.models.connections import checked_key

    try:
        return checked_key(key, source)
    except GenerationError as error:
        raise UsageError(error.message) from error


def _say_how_to_use(backend: str, name: str, block: BackendBlock) -> None:
    model = backend if block.model or block.base_url else f"{backend}:MODEL_ID"
    say(f"Saved the block {block.get_block_type_slug()}/{name}. Use it by its name:")
    say(f"  imagetask generate SOURCE --out DIR --model {model} --credentials {name}")
    say(f"or in a run of the deployment, with the parameters model={model} and credentials={name}.")
