"""The command line's options: the fields of `RunSettings`, with the help that stands there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from imagetask.errors import UsageError
from imagetask.settings import RunSettings

_MODEL = Group("Model", sort_key=1)
_PICTURE = Group("Picture", sort_key=2)
_RUN = Group("Run", sort_key=3)


def _option(name: str, group: Group, prefix: str = "") -> Parameter:
    field = RunSettings.model_fields[name]
    default = f" Default: {field.default}." if type(field.default) in (int, float) else ""
    return Parameter(help=f"{prefix}{field.description}{default}", group=group, negative=())


Sources = Annotated[
    str,
    Parameter(
        help="CSV, TSV, JSON lines or Parquet, also packed (.gz, .zst): files, globs, hf://datasets/…, s3://…; or - "
        "for standard input."
    ),
]
Out = Annotated[Path, Parameter(help=RunSettings.model_fields["out"].description, group=_RUN)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked beside the source and the folder; None is what was not given."""

    model: Annotated[list[str] | None, _option("model", _MODEL, "Repeatable. ")] = None
    base_url: Annotated[str | None, _option("base_url", _MODEL)] = None
    credentials: Annotated[str | None, _option("credentials", _MODEL)] = None
    task: Annotated[str | None, _option("task", _MODEL)] = None
    prompt_column: Annotated[str | None, _option("prompt_column", _MODEL)] = None
    prompt: Annotated[str | None, _option("prompt", _PICTURE)] = None
    param_column: Annotated[list[str] | None, _option("param_column", _PICTURE, "PARAM=COLUMN; repeatable. ")] = None
    num_generations: Annotated[int | None, _option("num_generations", _PICTURE)] = None
    seed: Annotated[int | None, _option("seed", _PICTURE)] = None
    width: Annotated[int | None, _option("width", _PICTURE)] = None
    height: Annotated[int | None, _option("height", _PICTURE)] = None
    negative_prompt: Annotated[str | None, _option("negative_prompt", _PICTURE)] = None
    num_inference_steps: Annotated[int | None, _option("num_inference_steps", _PICTURE)] = None
    guidance_scale: Annotated[float | None, _option("guidance_scale", _PICTURE)] = None
    param: Annotated[list[str] | None, _option("param", _PICTURE, "KEY=VALUE, JSON or text; repeatable. ")] = None
    rename: Annotated[list[str] | None, _option("rename", _RUN, "OLD=NEW; repeatable. ")] = None
    row_id_column: Annotated[str | None, _option("row_id_column", _RUN)] = None
    limit: Annotated[int | None, _option("limit", _RUN)] = None
    chunk_rows: Annotated[int | None, _option("chunk_rows", _RUN)] = None
    max_concurrency: Annotated[int | None, _option("max_concurrency", _RUN)] = None
    requests_per_minute: Annotated[float | None, _option("requests_per_minute", _RUN)] = None
    timeout: Annotated[float | None, _option("timeout", _RUN)] = None
    exact_size: Annotated[bool | None, _option("exact_size", _PICTURE)] = None
    max_images: Annotated[int | None, _option("max_images", _RUN)] = None
    max_cost: Annotated[float | None, _option("max_cost", _RUN)] = None
    max_failed: Annotated[int | None, _option("max_failed", _RUN)] = None
    max_failed_share: Annotated[float | None, _option("max_failed_share", _RUN)] = None
    max_refused_share: Annotated[float | None, _option("max_refused_share", _RUN)] = None
    store: Annotated[str | None, _option("store", _RUN)] = None
    rebuild: Annotated[bool | None, _option("rebuild", _RUN)] = None
    runner: Annotated[str | None, _option("runner", _RUN)] = None
    dask_address: Annotated[str | None, _option("dask_address", _RUN)] = None
    license: Annotated[str | None, _option("license", _RUN)] = None
    push_to: Annotated[str | None, _option("push_to", _RUN)] = None
    hub_credentials: Annotated[str | None, _option("hub_credentials", _RUN)] = None

    def parameters(self, source: tuple[str, ...], out: Path) -> dict[str, Any]:
        """The flow's parameters: what was given, by name. Raises `UsageError`."""
        if not source:
            raise UsageError("no SOURCE was given: name a CSV, TSV, JSON lines or Parquet file, or a glob")
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in values.items() if value is not None}
        if self.param is not None:
            given["param"] = {key: _json_or_text(value) for key, value in _pairs("param", "KEY=VALUE", self.param)}
        if self.rename is not None:
            given["rename"] = dict(_pairs("rename", "OLD=NEW", self.rename))
        if self.param_column is not None:
            given["param_column"] = dict(_pairs("param-column", "PARAM=COLUMN", self.param_column))
        return {"source": source[0] if len(source) == 1 else list(source), "out": str(out), **given}


def _pairs(option: str, form: str, texts: list[str]) -> Iterator[tuple[str, str]]:
    """Each `KEY=VALUE` as its two halves. form: what messages call it."""
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--{option} {text}: expected {form}")
        yield key, value


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value
