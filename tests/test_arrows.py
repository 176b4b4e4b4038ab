"""Arrows point one way, Prefect is not needed but by blocks and flows, and a user's own `flows/` is left alone."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import imagetask_flows
import pytest

import imagetask
from tests.command_line import DONE, environment
from tests.command_line import imagetask as run_command
from tests.model_server import ModelServer

LIBRARY = Path(imagetask.__file__).parent
FLOWS = Path(imagetask_flows.__file__).parent

ROOMS: list[set[str]] = [
    {"blocks", "dataset", "placeholders"},
    {"exports", "report", "push"},
    {"quality", "runs"},
    {"retrying"},
    {"card"},
    {"chunks", "shards"},
    {"parts"},
    {"plan"},
    {"settings", "sources", "columns"},
    {"tasks", "templates", "source_urls"},
    {"models"},
    {"store"},
    {"layout", "drawing", "hub"},
    {"images", "import_paths"},
    {"errors", "crash_points", "redact"},
]
"""The order in README's "How it works", from left to right; a module imports to its right only."""

INSIDE = {
    "snapshot": "plan",
    "published": "layout",
    "markdown": "card",
    "dataset_rows": "dataset",
    "shown": "dataset",
    "stored_records": "store",
    "lost_images": "shards",
    "folder_objects": "store",
    "object_stores": "store",
    "retry_settings": "settings",
    "cutting": "shards",
    "tried_instead": "chunks",
}
"""Module → the room that it is a part of."""

CIRCLE = ("imagetask.models.base", "imagetask.models.managed")
"""The one import that goes back, inside a function: a bare model's `generate_outputs` makes a ManagedModel."""


def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = ("imagetask", *path.relative_to(LIBRARY).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """The modules of ours that a module imports, at its top or in a function; not those only for type checkers."""
    found = set()
    for node in executed(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not followed here"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & modules().keys() or {node.module or ""}
    return {module for module in found if module.split(".")[0] in ("imagetask", "imagetask_flows", "flows")} - {name}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from executed(child)


def room(module: str) -> int:
    """The place of a module in `ROOMS`; -1 for the package itself, which names all that is public."""
    name = module.split(".")[1] if "." in module else ""
    name = INSIDE.get(name, name)
    return next((number for number, names in enumerate(ROOMS) if name in names), -1)


def test_every_module_has_its_place_in_the_order() -> None:
    assert [name for name in modules() if name != "imagetask" and room(name) < 0] == []
    assert {name for names in ROOMS for name in names} <= {name.split(".")[1] for name in modules() if "." in name}


def test_every_package_is_among_those_that_are_installed() -> None:
    root = LIBRARY.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [file for name in ("imagetask", "flows") for file in (root / name).rglob("__init__.py")]
    folders = {file.parent.relative_to(root) for file in found}
    packages = {".".join(folder.parts).replace("flows", "imagetask_flows", 1) for folder in folders}
    assert packages == {*listed} - {"imagetask_deployments"}


@pytest.mark.parametrize("name", [name for name in modules() if name != "imagetask"])
def test_no_module_imports_one_to_its_left(name: str) -> None:
    own = name.split(".")[1]
    for imported in imports(name, modules()[name]):
        assert imported.startswith("imagetask."), f"{name} imports {imported}"
        same_room = INSIDE.get(imported.split(".")[1], imported.split(".")[1]) == INSIDE.get(own, own)
        assert same_room or room(imported) > room(name), f"{name} imports {imported}, which is not to its right"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imports(name, path) for name, path in modules().items()}
    assert CIRCLE[1] in graph[CIRCLE[0]], "the exception is gone: take it out of this test"
    graph[CIRCLE[0]].discard(CIRCLE[1])
    assert set(TopologicalSorter(graph).static_order()) >= graph.keys()


def test_only_blocks_imports_prefect() -> None:
    users = [name for name, path in modules().items() if "prefect" in roots(path)]
    assert users == ["imagetask.blocks"]
    assert [name for name, path in modules().items() if "imagetask.blocks" in imports(name, path)] == []


def roots(path: Path) -> set[str]:
    """The top-level packages that a module imports anywhere."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    of = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in plain | of}


WITHOUT_PREFECT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prefect", "imagetask_flows"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    importlib.import_module(name)
try:
    importlib.import_module("imagetask.blocks")
except ModuleNotFoundError as error:
    print("absent:", error.name)
import imagetask
for name in imagetask.__all__:
    getattr(imagetask, name)
"""


def test_the_library_imports_where_prefect_cannot_be() -> None:
    names = [name for name in modules() if name != "imagetask.blocks"]
    command = [sys.executable, "-c", WITHOUT_PREFECT, *names]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["absent:", "prefect"]


def test_works_beside_a_users_own_flows(tmp_path: Path, model_server: ModelServer, server_url: dict[str, str]) -> None:
    work = tmp_path / "work"
    (work / "flows").mkdir(parents=True)
    (work / "flows" / "__init__.py").write_text("OWNER = 'the user'\n")
    (work / "flows" / "cli.py").write_text("raise RuntimeError('this is the wrong cli')\n")
    (work / "flows" / "shout.py").write_text(
        "from imagetask import ImageGeneration\n\n"
        "class Shout(ImageGeneration):\n"
        "    def format_input(self, input):\n"
        "        return input['prompt'].upper()\n"
    )
    (work / "rows.csv").write_text("prompt\na cat\na dog\n")
    env = {**server_url, "PYTHONPATH": "."}
    model = ["--model", "openai:m", "--base-url", model_server.openai_url, "--task", "flows.shout:Shout"]
    ended = run_command("generate", "rows.csv", "--out", "out", *model, cwd=work, env=env)
    assert ended.code == DONE, ended.text
    assert sorted(model_server.prompts) == ["A CAT", "A DOG"]

    script = "import flows, imagetask, imagetask_flows; print(flows.OWNER, imagetask.ImageDataset('out'))"
    command = [sys.executable, "-c", f"from imagetask_flows import generate; {script}"]
    told = subprocess.run(command, cwd=work, env=environment(work, **env), capture_output=True, text=True, check=False)
    assert told.stdout.startswith("the user ImageDataset('out', rows=2"), told.stderr
