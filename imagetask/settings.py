"""RunSettings: one validated description of a run. No secret is in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from imagetask.errors import UsageError
from imagetask.models import BACKENDS, MAX_CONCURRENCY, split_model
from imagetask.source_urls import check_source_url
from imagetask.templates import TEMPLATE

if TYPE_CHECKING:
    from imagetask.layout import Layout

_SECRET_WORDS = ("api[-_]?key", "token", "secret", "password", "authorization")
_IN_ANY_CASE = [re.sub("[a-z]", lambda letter: f"[{letter[0].upper()}{letter[0]}]", word) for word in _SECRET_WORDS]
SECRET_NAME = rf"(^|[-_])({'|'.join(_IN_ANY_CASE)})$"
"""What the names in `param` must not match. JSON schema, which knows no flag for the case, takes it as it is."""
BLOCK_NAME = "^[a-z0-9-]+$"
"""What the name of a block matches: keys have other letters too."""
HUB_NAME = r"[\w-][\w.-]*/[\w.-]+"
"""What the name of a dataset on the Hub matches."""
LICENSE_ID = r"[a-z0-9][a-z0-9.+-]*"
"""What the Hub's ids of licences match."""
Runner = Literal["threads", "dask"]
DEFAULT_TASK = "imagetask.tasks:ImageGeneration"


def _names(value: Any) -> Iterator[str]:
    """The names in a JSON value, at any depth."""
    if isinstance(value, Mapping):
        yield from map(str, value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)


def _expanded(path: Path) -> Path:
    """The path, with the home folder for `~`. Raises `ValueError` where there is none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"'{path}': there is no home folder {path.parts[0]}") from error


def what_is_wrong(error: ValidationError) -> tuple[str, str]:
    """The first field that is wrong, "" where it is no single one; and why, "" where there is no such field.

    No value is repeated, but where a validator's own message does so.
    """
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return field, ""
    why = first["msg"].removeprefix("Value error, ").removeprefix(f"{field} ")
    return field, why.replace("Input should be", "must be")


def without_null(schema: dict[str, Any]) -> None:
    """Makes of the JSON schema of a value that may be null that of the value: of a choice Prefect's forms make tabs."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        del schema["anyOf"]
        schema.update(choices[0])


_URL_LIKE = re.compile(r"[A-Za-z][A-Za-z0-9]+:/")
"""How a URL begins, also one that a `Path` was made of; a drive of Windows is one letter."""


class RunSettings(BaseModel):
    """What a run is asked. The fields are the flow's parameters and the command line's options.

    An error repeats no value of an unknown field, nor one of `param`, `credentials` or a URL: it may be a secret.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source: str | list[str] = Field(
        description="CSV, TSV, JSON lines or Parquet, also packed (.gz, .zst): a file, a glob, hf://datasets/…, "
        "s3://…, gs://… or az://…, or a list of these."
    )
    out: Path = Field(description="Folder of the dataset; a folder of an earlier run is gone on with.")
    model: list[str] = Field(
        default=["placeholder"],
        min_length=1,
        description="BACKEND:MODEL_ID, or BACKEND alone; of several, each row is asked of each. Default: placeholder. "
        f"Backends: {', '.join(BACKENDS)}.",
    )
    base_url: str | None = Field(default=None, description="URL of the server, where it is not the backend's own.")
    credentials: str | None = Field(default=None, description="Name of a saved block of the backend.")
    task: str = Field(default=DEFAULT_TASK, description="Import path of an ImageTask, as in my_module:MyTask.")
    prompt_column: str | None = Field(default=None, description="Column that holds the prompts; default: prompt.")
    prompt: str | None = Field(
        default=None, description='Template of the prompt over columns, as in "a {style} painting of {subject}".'
    )
    param_column: dict[str, str] = Field(
        default_factory=dict,
        description="Parameters of each row, parameter: column; the columns seed, width, height, negative_prompt, "
        "num_inference_steps and guidance_scale need not be named.",
    )
    row_id_column: str | None = Field(
        default=None, description="Column that holds the ids of the rows; default: ids are made of what is asked."
    )
    rename: dict[str, str] = Field(default_factory=dict, description="Columns of the source to rename, old: new.")
    num_generations: int | None = Field(
        default=None, ge=1, description="Different images for each row; default: the task's, 1."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the run; every generation's seed comes from it.")
    width: int | None = Field(default=None, ge=1, description="Width in px.")
    height: int | None = Field(default=None, ge=1, description="Height in px.")
    negative_prompt: str | None = Field(default=None, description="What the images should not show.")
    num_inference_steps: int | None = Field(default=None, ge=1, description="Denoising steps.")
    guidance_scale: float | None = Field(default=None, description="How closely to follow the prompt.")
    param: dict[str, Any] = Field(default_factory=dict, description="Further parameters of the backend.")
    chunk_rows: int | None = Field(default=None, ge=1, description="Rows of one chunk; a folder remembers it.")
    max_concurrency: int = Field(default=MAX_CONCURRENCY, ge=1, description="Calls under way at once, at most.")
    requests_per_minute: float | None = Field(default=None, gt=0, description="Calls a minute, at most.")
    timeout: float | None = Field(
        default=None,
        gt=0,
        description="Seconds that one call may take; default: 300 with openai, 120 with inference-endpoints.",
    )
    max_images: int | None = Field(
        default=None, ge=1, description="Images that the dataset may cost, over all runs; rows not reached are pending."
    )
    max_cost: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="USD that the dataset may cost, over all runs; needs the block's prices.",
    )
    max_failed: int | None = Field(default=None, ge=0, description="More failed rows than this stop the run.")
    max_failed_share: float = Field(
        default=0.5, ge=0, le=1, description="A larger share of failed rows among 100 in a row stops the run."
    )
    max_refused_share: float = Field(
        default=0.5, ge=0, le=1, description="A larger share of refused rows among 100 in a row stops the run."
    )
    exact_size: bool = Field(default=False, description="An image of another size than was asked for is no good one.")
    limit: int | None = Field(default=None, ge=1, description="Only the first rows of the source.")
    store: str | None = Field(
        default=None,
        description="Where generations are kept: a folder, s3://…, gs://… or az://…; default: the dataset's own.",
    )
    rebuild: bool = Field(default=False, description="Make every part of the dataset anew, from the store.")
    runner: Runner = Field(
        default="threads", description="Where chunks run: threads of the run's own process, or the workers of Dask."
    )
    dask_address: str | None = Field(
        default=None, description="Address of the Dask scheduler, as in tcp://HOST:8786; with the runner dask."
    )
    license: str | None = Field(
        default=None, description="Licence of the dataset, for its card: an id of the Hub's, as in cc-by-4.0."
    )
    push_to: str | None = Field(
        default=None,
        description="Dataset on the Hub, OWNER/NAME, to push the finished dataset to; private where it is new.",
    )
    hub_credentials: str | None = Field(
        default=None,
        description="Name of a saved block with a Hub token, for hf:// sources and for push_to; default: HF_TOKEN.",
    )

    @field_validator("model", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _known_backends(cls, value: list[str]) -> list[str]:
        for model in value:
            split_model(model)
        if len(set(value)) < len(value):
            raise ValueError("names a model twice")
        return value

    @field_validator("base_url")
    @classmethod
    def _no_secret_in_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("it is no URL: expected http://… or https://…")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds credentials or a query: keep them in a block, and give its name as credentials")
        return value

    @field_validator("out", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        if _URL_LIKE.match(str(value)):
            raise ValueError("is a folder for the dataset; only the store may be an object store")
        return _expanded(value).absolute()

    @field_validator("store")
    @classmethod
    def _absolute_store(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if "://" in value:
            from imagetask.store import check_store_url

            scheme, _, place = value.partition("://")
            value = f"{scheme.lower()}://{place}"
            check_store_url(value)
            return value
        if not value or _URL_LIKE.match(value):
            raise ValueError("expected a folder, or s3://BUCKET/PREFIX, gs://… or az://…")
        return str(_expanded(Path(value)).absolute())

    @field_validator("dask_address")
    @classmethod
    def _only_an_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(tcp://|tls://)?[^\s/@?]+:\d+", value):
            raise ValueError("expected the address of a Dask scheduler, as in tcp://HOST:8786")
        return value

    @field_validator("source")
    @classmethod
    def _files_or_known_urls(cls, value: str | list[str]) -> str | list[str]:
        for item in [value] if isinstance(value, str) else value:
            if "://" in item:
                check_source_url(item)
            else:
                _expanded(Path(item))
        return value

    @field_validator("prompt")
    @classmethod
    def _a_template(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(TEMPLATE, value):
            raise ValueError(
                'expected columns in braces, as in "a {style} painting of {subject}"; write {{ and }} for braces'
            )
        return value

    @field_validator("param_column")
    @classmethod
    def _no_prompt_column(cls, value: dict[str, str]) -> dict[str, str]:
        if secret := next((name for name in value if re.search(SECRET_NAME, name)), None):
            raise ValueError(f"{secret!r} is a secret: keep it in a block, and give its name as credentials")
        if "prompt" in value:
            raise ValueError("the prompt is no parameter: name its column with --prompt-column")
        return value

    @field_validator("push_to")
    @classmethod
    def _owner_and_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(HUB_NAME, value):
            raise ValueError("expected a dataset on the Hub, as in OWNER/NAME")
        return value

    @field_validator("license")
    @classmethod
    def _id_of_a_license(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(LICENSE_ID, value):
            raise ValueError("expected the id of a licence as the Hub has it, as in cc-by-4.0 or other")
        return value

    @field_validator("credentials", "hub_credentials")
    @classmethod
    def _name_of_a_block(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(BLOCK_NAME, value):
            raise ValueError(
                "expected the name of a saved block, of lowercase letters, digits and dashes; a key is kept in a block"
            )
        return value

    @field_validator("param")
    @classmethod
    def _no_secret_parameters(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in _names(value):
            if re.search(SECRET_NAME, name):
                raise ValueError(f"{name!r} is a secret: keep it in a block, and give its name as credentials")
        return value

    @classmethod
    def checked(cls, **fields: Any) -> RunSettings:
        """The settings, or a `UsageError` of one sentence that names the option."""
        try:
            settings = cls(**fields)
        except ValidationError as error:
            field, why = what_is_wrong(error)
            why = why or f"there is no such option; there are {', '.join(cls.model_fields)}"
            raise UsageError(f"--{(field or 'settings').replace('_', '-')}: {why}") from None
        if settings.prompt is not None and settings.prompt_column is not None:
            raise UsageError("--prompt makes the column of prompts, --prompt-column names one: give one of the two")
        if settings.runner == "dask" and settings.dask_address is None:
            raise UsageError("--runner dask: name its scheduler with --dask-address, as in tcp://HOST:8786")
        if settings.runner != "dask" and settings.dask_address is not None:
            raise UsageError("--dask-address: it goes with --runner dask")
        return settings

    @property
    def layout(self) -> Layout:
        from imagetask.layout import Layout

        return Layout(self.out)

    @property
    def store_url(self) -> str:
        """Where generations are kept: `store`, else IMAGETASK_STORE, else a folder in the dataset's own."""
        return self.store or os.environ.get("IMAGETASK_STORE") or str(self.layout.store)

    def generation_kwargs(self) -> dict[str, Any]:
        """The parameters for every request; the run's seed is not among them."""
        names = ("width", "height", "negative_prompt", "num_inference_steps", "guidance_scale")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**given, **self.param}
