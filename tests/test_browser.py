"""Prefect's own UI in a real browser: what a person sees of a run, of its form, and of a block.

Screenshots go to the folder that IMAGETASK_SCREENSHOTS names, to be looked at.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from PIL import Image as PILImage

from tests.machine import KEY, PRICED, Machine
from tests.model_server import ModelServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

in_browser = pytest.importorskip("playwright.sync_api")
expect = in_browser.expect

pytestmark = [pytest.mark.prefect_server, pytest.mark.browser]

ROWS, AT_ONCE, AT_FIRST = 150, 4, 60


@pytest.fixture
def page(browser: Browser, machine: Machine) -> Iterator[Page]:
    home = machine.url.removesuffix("/api")
    with browser.new_context(base_url=home, viewport={"width": 1400, "height": 1000}) as context:
        yield context.new_page()


def shot(page: Page, name: str) -> None:
    """A picture of the whole page, for a person."""
    folder = os.environ.get("IMAGETASK_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1000)  # the UI fades pages in
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def artifact(machine: Machine, run: str, kind: str) -> dict[str, Any]:
    """The run's artifact of a kind, as soon as it is there."""

    def found() -> dict[str, Any]:
        wanted = {"artifacts": {"flow_run_id": {"any_": [run]}}}
        of_run: list[dict[str, Any]] = machine.ask("artifacts/filter", wanted)
        return next((one for one in of_run if str(one["key"]).startswith(f"{kind}-")), {})

    return machine.wait_until(found, f"the run has no artifact {kind}")


def rendered(page: Page) -> PILImage.Image:
    """The picture of an artifact's page, as the browser shows it."""
    picture = page.get_by_role("img", name="Contact sheet")
    expect(picture).to_be_visible(timeout=20_000)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") >= 200
    return PILImage.open(io.BytesIO(picture.screenshot())).convert("RGB")


def colours(picture: PILImage.Image) -> int:
    return len(picture.resize((64, 64), PILImage.Resampling.NEAREST).getcolors(64 * 64) or [])


def held_after(count: int, looked_at: threading.Event) -> Callable[[str], float]:
    """The seconds that each picture takes: after so many, as long as the pages have not been looked at, very many."""
    asked = 0

    def latency(_: str) -> float:
        nonlocal asked
        asked += 1
        return 15.0 if asked > count and not looked_at.is_set() else 0.2

    return latency


def test_a_run_can_be_watched_while_it_goes_on_and_read_when_it_is_over(
    machine: Machine, models: ModelServer, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = threading.Event()
    monkeypatch.setattr(models, "latency", held_after(AT_FIRST, looked_at))
    source = tmp_path / "animals.csv"
    pl.DataFrame({"prompt": [f"animal number {number} in a meadow" for number in range(ROWS)]}).write_csv(source)
    models.fail("animal number 3 in a meadow", "refused")
    deployment = machine.ask("deployments/name/generate-images/on-demand")["id"]
    parameters = {
        "source": str(source),
        "out": str(tmp_path / "animals"),
        "model": f"openai:{PRICED}",
        "credentials": "openai",
        "max_concurrency": AT_ONCE,
        "chunk_rows": 40,
    }
    run = str(machine.ask(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])
    machine.wait_until(
        lambda: sum("animal" in call.prompt for call in models.calls) > AT_FIRST, "it did not come so far"
    )

    page.goto(f"/runs/flow-run/{run}")
    expect(page.get_by_text("animals · openai:painter").first).to_be_visible(timeout=20_000)
    expect(page.get_by_text("dataset:animals").first).to_be_visible()
    shot(page, "run")
    page.goto(f"/artifacts/artifact/{artifact(machine, run, 'progress')['id']}")
    expect(page.get_by_text("Running").first).to_be_visible(timeout=20_000)
    shot(page, "progress")
    page.goto(f"/artifacts/artifact/{artifact(machine, run, 'images')['id']}")
    assert colours(rendered(page)) > 20
    before = page.get_by_text("newest of").inner_text()
    shot(page, "images")
    assert machine.ask(f"flow_runs/{run}")["state"]["type"] == "RUNNING"

    looked_at.set()
    assert machine.ended(run) == "Completed with failures"
    page.reload()
    assert colours(rendered(page)) > 20
    assert page.get_by_text("newest of").inner_text() != before, "it did not grow"
    page.goto(f"/artifacts/artifact/{artifact(machine, run, 'report')['id']}")
    for text in ("Completed with failures", "refused: 1", "animal number 3 in a meadow", "load_dataset", "5.96 USD"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=20_000)
    rendered(page)
    shot(page, "report")
    page.goto(f"/runs/flow-run/{run}?tab=TaskRuns")
    expect(page.get_by_text("openai:painter rows 0 to 40").first).to_be_visible(timeout=20_000)
    shot(page, "run-ended")


def test_the_run_form_says_what_each_parameter_is(machine: Machine, page: Page) -> None:
    deployment = machine.ask("deployments/name/generate-images/on-demand")["id"]
    page.goto(f"/deployments/deployment/{deployment}/run")
    for text in ("Folder of the dataset", "Name of a saved block", "Calls under way at once"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=20_000)
    shot(page, "run-form")
    page.get_by_text("Further parameters of the backend").scroll_into_view_if_needed()
    shot(page, "run-form-further-down")


def test_the_block_form_explains_itself_and_a_saved_block_does_not_show_its_key(machine: Machine, page: Page) -> None:
    page.goto("/blocks/catalog/openai-image-credentials/create")
    for text in ("Key or token of the account", "URL of the server"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=20_000)
    shot(page, "block-form")
    [block] = machine.ask("block_documents/filter", {"block_documents": {"name": {"any_": ["openai"]}}})
    page.goto(f"/blocks/block/{block['id']}")
    expect(page.get_by_text("openai").first).to_be_visible(timeout=20_000)
    shot(page, "block")
    assert KEY not in page.content()
