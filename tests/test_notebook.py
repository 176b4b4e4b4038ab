"""The example notebook: its cells run as they are, and what is kept of their outputs is what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "look_at_a_dataset.ipynb"
PICTURE = 'src="data:image/jpeg;base64,'


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]


def shown(notebook: Any) -> list[list[list[str]]]:
    """For each cell of code, the kinds of what each of its outputs is."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[sorted(output.get("data", {"stream": ""})) for output in cell.outputs] for cell in cells]


def pictures(notebook: Any) -> int:
    html = [
        output.get("data", {}).get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    return sum(text.count(PICTURE) for text in html)


@pytest.mark.prefect_server
def test_every_cell_runs_and_shows_what_the_kept_outputs_show(
    tmp_path: Path, server_url: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**server_url, "IPYTHONDIR": str(tmp_path / "ipython")}.items():
        monkeypatch.setenv(name, value)
    work = tmp_path / "work"
    work.mkdir()
    notebook = read()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(work)}}).execute()
    assert shown(notebook) == shown(read())
    assert pictures(notebook) == pictures(read()) >= 9


def test_kept_outputs_are_small_whole_and_tell_nothing_of_the_machine() -> None:
    text, cells = NOTEBOOK.read_text(), [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(text) < 400_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type in ("execute_result", "display_data") for cell in cells for output in cell.outputs)
    places = [str(Path.home()), str(NOTEBOOK.parents[1]), "/tmp/", "/home/", "/Users/", "/root/", "site-packages"]
    assert [place for place in places if place in text] == []
