"""The parameters of a deployed run: as JSON schema, and as they are sent.

The schema is the run form of the UI, and what the server checks before a run exists: Prefect's own lacks the limits of
the values, and lets names pass that are no parameter, so that the run crashes later.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.utilities.callables import ParameterSchema

from imagetask.models import BACKENDS
from imagetask.settings import BLOCK_NAME, HUB_NAME, LICENSE_ID, SECRET_NAME, RunSettings, without_null
from imagetask.templates import TEMPLATE

_ABSOLUTE = r"^(?!.*://)(/|~(/|$)|[A-Za-z]:[\\/])"
_URL = r"^hf://datasets/[^?]+$|^(s3|gs|az)://[^/@?]+/[^?]*$"
_HOST = r"(\[[0-9A-Fa-f:.]+\](:[0-9]*)?|[^/@?\[\]]+)"
_PATTERNS = {
    "source": rf"{_ABSOLUTE}|{_URL}",
    "out": _ABSOLUTE,
    "model": rf"^({'|'.join(BACKENDS)})(:.+)?$",
    "base_url": rf"^https?://{_HOST}(/[^?]*)?$",
    "credentials": BLOCK_NAME,
    "hub_credentials": BLOCK_NAME,
    "prompt": rf"^{TEMPLATE}$",
    "push_to": rf"^{HUB_NAME}$",
    "license": rf"^{LICENSE_ID}$",
    "task": r"^[^:]+:[^:]+$",
    "dask_address": r"^(tcp://|tls://)?[^\s/@?]+:[0-9]+$",
    "store": rf"{_ABSOLUTE}|^[a-z0-9]+://[^/@?]*(/[^?]*)?$",
}
"""Parameter → what its text must match. Relative paths would count from the folder of whatever worker takes the run."""

_DEEP = 3
"""So many levels below those of `param` itself are checked before there is a run; `RunSettings` checks all."""

_LEADS = {
    "source": "Absolute paths on the worker's machine, or URLs. ",
    "out": "An absolute path on the worker's machine. ",
}


class StrictParameters(ParameterSchema):
    """The schema of a flow's parameters, outside of which nothing is accepted."""

    additionalProperties: bool = False


def strict_parameters(flow: Flow[..., Any]) -> StrictParameters:
    """The schema of the flow's parameters, in its order, with the descriptions and limits of `RunSettings`."""
    described = RunSettings.model_json_schema()["properties"]
    signature = inspect.signature(flow.fn)
    properties = {
        name: _property(name, dict(described[name]), parameter, position)
        for position, (name, parameter) in enumerate(signature.parameters.items())
    }
    required = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty]
    return StrictParameters(
        title="Parameters",
        type="object",
        properties=properties,
        required=required,
        definitions={},
        additionalProperties=False,
    )


def _property(name: str, schema: dict[str, Any], parameter: inspect.Parameter, position: int) -> dict[str, Any]:
    """A parameter that need not be given is left out, not null."""
    without_null(schema)
    schema.pop("format", None)
    if name in ("source", "model"):
        several = {"uniqueItems": True} if name == "model" else {}
        schema = {"description": schema["description"], "anyOf": _one_or_several(_PATTERNS[name], several)}
    elif name in _PATTERNS:
        schema["pattern"] = _PATTERNS[name]
    elif name == "param_column":
        schema["propertyNames"] = {"not": {"anyOf": [{"const": "prompt"}, {"pattern": SECRET_NAME}]}}
    elif name == "param":
        schema |= _no_secret_names(_DEEP)
    schema["description"] = _LEADS.get(name, "") + schema["description"]
    schema.pop("default", None)
    if parameter.default not in (parameter.empty, None):
        schema["default"] = parameter.default
    return {**schema, "title": name, "position": position}


def _one_or_several(pattern: str, several: dict[str, Any]) -> list[dict[str, Any]]:
    text = {"type": "string", "pattern": pattern}
    return [text, {"type": "array", "items": text, "minItems": 1, **several}]


def _no_secret_names(deep: int) -> dict[str, Any]:
    """What a value must be that names no secret, nor do the values so many levels below it."""
    below = {"additionalProperties": _no_secret_names(deep - 1), "items": _no_secret_names(deep - 1)} if deep else {}
    return {"propertyNames": {"not": {"pattern": SECRET_NAME}}, **below}


def sent_parameters(settings: RunSettings) -> dict[str, Any]:
    """What the settings were given, as JSON for another process: paths absolute, nothing that was left out."""
    given = settings.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    source = given["source"]
    given["source"] = _absolute(source) if isinstance(source, str) else [_absolute(item) for item in source]
    if len(given.get("model", ())) == 1:
        [given["model"]] = given["model"]
    return given


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
