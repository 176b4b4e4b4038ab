"""One description of a run: the flow's parameters, `RunSettings` and the command line's options say the same."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from imagetask_flows.check import retry_settings
from imagetask_flows.command_line.options import Options
from imagetask_flows.generate_images import generate_images

from imagetask.errors import UsageError
from imagetask.runs import Run
from imagetask.settings import RunSettings

PARAMETERS = inspect.signature(generate_images.fn).parameters


def test_flow_settings_and_options_have_the_same_names_in_the_same_order() -> None:
    assert list(PARAMETERS) == list(RunSettings.model_fields)
    options = {field.name for field in fields(Options)}
    assert options == RunSettings.model_fields.keys() - {"source", "out"}


def test_saying_nothing_means_the_same_everywhere() -> None:
    plain = RunSettings(source="rows.csv", out=Path("out"))
    of_flow = {name: p.default for name, p in PARAMETERS.items() if p.default not in (p.empty, None)}
    assert RunSettings.checked(source="rows.csv", out="out", **of_flow) == plain
    assert RunSettings.checked(**Options().parameters(("rows.csv",), Path("out"))) == plain


def test_every_parameter_of_the_flow_is_explained() -> None:
    described = generate_images.parameters.properties
    assert described.keys() == RunSettings.model_fields.keys()
    for name, of_parameter in described.items():
        assert of_parameter.get("description"), name
        assert RunSettings.model_fields[name].description, name


def test_settings_come_back_from_json_as_they_were(tmp_path: Path) -> None:
    settings = RunSettings(source=["a.csv", "b.csv"], out=tmp_path, model=["openai:m"], param={"a": [1, {"b": None}]})
    assert RunSettings(**settings.model_dump(mode="json")) == settings
    assert RunSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_generations", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("width", 0, "greater than or equal to 1"),
        ("chunk_rows", 0, "greater than or equal to 1"),
        ("max_concurrency", 0, "greater than or equal to 1"),
        ("requests_per_minute", 0, "greater than 0"),
        ("max_failed", -1, "greater than or equal to 0"),
        ("limit", 0, "greater than or equal to 1"),
        ("model", [], "at least 1"),
        ("model", ["placeholder", "placeholder"], "names a model twice"),
        ("base_url", "ftp://somewhere", "http://"),
        ("base_url", "localhost:8000", "http://"),
        ("dask_address", "tcp://127.0.0.1:8786", "it goes with --runner dask"),
    ],
)
def test_a_value_that_cannot_be_names_its_option(field: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"^--{field.replace('_', '-')}: ") as caught:
        RunSettings.checked(source="rows.csv", out="out", **{field: value})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_retry_in_threads_of_a_run_on_dask_needs_no_scheduler(tmp_path: Path) -> None:
    last = RunSettings.checked(source="rows.csv", out=tmp_path, runner="dask", dask_address="tcp://127.0.0.1:1")
    last.layout.make()
    Run.start(last)
    settings, _ = retry_settings(str(tmp_path), runner="threads")
    assert (settings.runner, settings.dask_address) == ("threads", None)
    assert retry_settings(str(tmp_path))[0].dask_address == "tcp://127.0.0.1:1"


def test_an_unknown_field_is_refused_with_its_name() -> None:
    with pytest.raises(UsageError, match="--num-images"):
        RunSettings.checked(source="rows.csv", out="out", num_images=2)


@pytest.mark.parametrize(
    "param", [{"api_key": "pass5word"}, {"extra_headers": {"Authorization": "pass5word"}}, {"a": [{"b": {"token": 1}}]}]
)
def test_a_secret_in_the_parameters_is_refused_at_any_depth_and_not_repeated(param: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="is a secret: keep it in a block") as caught:
        RunSettings.checked(source="rows.csv", out="out", param=param)
    assert "pass5word" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://me:pass5word@host/v1", "https://host/v1?key=pass5word"])
def test_a_secret_in_the_base_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="keep them in a block") as caught:
        RunSettings.checked(source="rows.csv", out="out", base_url=url)
    assert "pass5word" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://me:pass5word@host/v1", "me:pass5word@host/v1"])
def test_a_secret_in_what_is_no_url_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunSettings.checked(source="rows.csv", out="out", base_url=url)
    assert "pass5word" not in str(caught.value)
