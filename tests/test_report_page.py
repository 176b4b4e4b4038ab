"""The report in a real browser: what a person sees of a dataset, without any network, with few rows and with many.

Screenshots go to the folder that IMAGETASK_SCREENSHOTS names, to be looked at.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from imagetask import DatasetError
from imagetask.columns import IMAGE, frame_to_hub_table
from imagetask.layout import Layout, alone_in
from imagetask.report import cards, read_page, write_report
from imagetask.report.page import page_pieces
from tests.command_line import DONE, WRONG_USAGE, imagetask
from tests.small_datasets import make_dataset
from tests.timed import timed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

in_browser = pytest.importorskip("playwright.sync_api")
expect = in_browser.expect

pytestmark = pytest.mark.browser

LONG = "a fox in the snow, " + "very detailed, " * 200 + "at dawn"
HOSTILE = [
    "</script><script>window.harmed = 1</script>",
    '<img src="http://127.0.0.1:9/a.png" onerror="window.harmed = 1"><b>bold</b>',
    "<!--<script>",
    "&lt;b&gt; &amp; \"quotes\" and 'quotes' ${window.harmed = 1} \u2028 \\u003c",
    "قطة بيضاء على نافذة",
    "🦊 in the snow \u202e reversed",
]
BEGAN = datetime(2026, 11, 3, 9, tzinfo=UTC)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that asks for nothing but the file that is opened in it, and whose scripts raise nothing."""
    asked: list[str] = []
    wrong: list[str] = []
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url.partition("#")[0]))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        yield page
    asked = [url for url in asked if not url.startswith("data:image/webp;base64,")]
    assert [url for url in asked if not re.fullmatch(r"file://.*/report\.html", url)] == []
    assert wrong == []


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of two generations for each row, of which one row failed."""
    prompts = ["a white cat", LONG, None, *HOSTILE]
    rows = [{"prompt": prompt, "style": f"style {number}"} for number, prompt in enumerate(prompts)]
    out = tmp_path_factory.mktemp("reports") / "animals"
    return make_dataset(out, rows, num_generations=2).report()


def shot(page: Page, name: str) -> None:
    """A picture of what is seen, for a person."""
    if folder := os.environ.get("IMAGETASK_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_report(page: Page, report: Path, place: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{report.as_uri()}{place}")


def cards_shown(page: Page) -> list[str]:
    texts: list[str] = page.locator(".card .prompt").all_inner_texts()
    return texts


def picture(number: int, side: int = 48) -> bytes:
    """A picture that differs from those of other numbers."""
    noise = hashlib.shake_256(str(number).encode()).digest(side * side // 4)
    drawn = PILImage.frombytes("L", (side // 2, side // 2), noise).convert("RGB").resize((side, side))
    file = io.BytesIO()
    PILImage.blend(drawn, PILImage.new("RGB", drawn.size, (number * 37 % 256, 90, 140)), 0.5).save(file, "WEBP")
    return file.getvalue()


def told_of(number: int, data: bytes | None, **more: Any) -> dict[str, Any]:
    """A row as a run writes it, beside the columns of its source. data: the picture, or None where it failed."""
    row = {
        "row_id": f"row-{number}",
        "image": data and {"bytes": data, "path": f"{hashlib.sha256(data).hexdigest()[:16]}.webp"},
        "model_name": "painter",
        "status": "done" if data else "failed",
        "error_kind": None if data else "refused",
        "error_message": None if data else "it shows a trademark",
        "attempts": 1,
        "seed": 2**40 + number,
        "generation": 0,
        "cost": 0.04 if data else 0.0,
        "cost_source": "price table",
        "latency": 1 + number % 7,
        "image_size": "48x48" if data else None,
        "asked_prompt": f"animal number {number} in a meadow at dawn, oil on canvas",
        "parameters": json.dumps({"width": 48, "guidance_scale": 7.5}),
        "provider": "together" if number % 3 else "replicate",
        "image_format": "WEBP" if data else None,
        "image_bytes": data and len(data),
        "image_sha256": data and hashlib.sha256(data).hexdigest(),
        "created_at": BEGAN + timedelta(seconds=number),
    }
    return {**row, **more}


def written(root: Path, rows: list[dict[str, Any]], images: Any = IMAGE) -> Layout:
    """A dataset of these rows, as a run leaves it. images: the type of its column `image`."""
    layout = Layout(root)
    layout.make()
    frame = pl.DataFrame(rows, schema_overrides={"image": images}, infer_schema_length=None)
    pq.write_table(frame_to_hub_table(frame, ["image"]), layout.data / "train-00000.parquet", row_group_size=1000)
    return layout


def test_the_gallery_shows_every_picture_and_why_there_is_none(animals: Path, page: Page) -> None:
    open_report(page, animals)
    expect(page.get_by_role("heading", name="animals")).to_be_visible()
    expect(page.get_by_text("16 images generated by placeholder, in 18 rows.")).to_be_visible()
    expect(page.locator(".card")).to_have_count(18)
    expect(page.locator(".card img")).to_have_count(16)
    widths = page.locator(".card img").evaluate_all(
        "all => Promise.all(all.map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert widths == [16] * 16
    failed = page.locator(".card", has_text="invalid_input")
    expect(failed).to_have_count(2)
    expect(failed.first).to_contain_text("the prompt is null")
    shot(page, "report-gallery")


def test_prompts_of_every_kind_are_text_and_nothing_else(animals: Path, page: Page) -> None:
    open_report(page, animals)
    assert page.locator(".card .prompt").all_text_contents()[6::2] == HOSTILE
    page.locator(".card").nth(6).click()
    for prompt in HOSTILE:
        assert page.locator("dialog .prompt").text_content() == prompt
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
    assert page.evaluate("window.harmed") is None
    assert page.locator(".card b, dialog b, .card script, dialog script").count() == 0
    assert page.locator("img:not([src^='data:image/webp'])").count() == 0


def test_a_card_opens_with_its_whole_prompt_and_all_that_is_known_of_it(animals: Path, page: Page) -> None:
    open_report(page, animals)
    page.locator(".card").nth(2).click()
    detail = page.get_by_role("dialog")
    expect(detail.locator(".prompt")).to_have_text(LONG)
    for text in ("width: 16", "placeholder", "style 1", "UTC", "JPEG", "colourfulness"):
        expect(detail.get_by_text(text).first).to_be_visible()
    expect(page).to_have_url(re.compile("#row-2$"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("#row-4$"))
    expect(detail.get_by_text("the prompt is null").first).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile("#row-3$"))
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#row-3"
    page.keyboard.press("Enter")
    expect(detail).to_be_visible()
    open_report(page, animals, "#row-0")
    expect(detail.locator(".prompt")).to_have_text("a white cat")


def test_all_models_and_generations_of_a_row_stand_side_by_side(page: Page, tmp_path: Path) -> None:
    rows = [
        told_of(number, picture(10 * number + place), model_name=model, generation=generation, seed=place)
        for number in range(3)
        for place, (model, generation) in enumerate([("painter", 0), ("painter", 1), ("drawer", 0), ("drawer", 1)])
    ]
    report = write_report(written(tmp_path / "pairs", rows))
    open_report(page, report, "#row-5")
    shown = page.locator("dialog .sibling")
    expect(shown).to_have_count(4)
    expect(shown.locator("img")).to_have_count(4)
    assert [text.split(" · ")[:3] for text in shown.all_inner_texts()] == [
        ["painter", "1 of 2", "seed 0"],
        ["painter", "2 of 2", "seed 1"],
        ["drawer", "1 of 2", "seed 2"],
        ["drawer", "2 of 2", "seed 3"],
    ]
    expect(shown.nth(1)).to_have_attribute("aria-pressed", "true")
    shown.nth(2).click()
    expect(page).to_have_url(re.compile("#row-6$"))
    expect(shown.nth(2)).to_have_attribute("aria-pressed", "true")
    shot(page, "report-side-by-side")


def test_each_picture_of_a_row_that_holds_several_has_its_card(page: Page, tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        each = [told_of(number, picture(2 * number)), told_of(number, None if number == 3 else picture(2 * number + 1))]
        lists = {name: [one[name] for one in each] for name in each[0] if name not in ("row_id", "status")}
        rows.append({"prompt": f"animal {number}", "row_id": each[0]["row_id"], "status": "done", **lists})
    report = write_report(written(tmp_path / "grouped", rows, pl.List(IMAGE)))
    open_report(page, report)
    expect(page.locator(".card")).to_have_count(8)
    expect(page.locator(".card img")).to_have_count(7)
    expect(page.locator(".card").nth(7)).to_contain_text("it shows a trademark")
    open_report(page, report, "#row-2.1")
    expect(page.locator("dialog .sibling img")).to_have_count(2)
    expect(page.locator("dialog").get_by_text(str(2**40 + 2), exact=True)).to_be_visible()


def test_cards_are_filtered_searched_and_sorted(page: Page, tmp_path: Path) -> None:
    blank = io.BytesIO()
    PILImage.new("RGB", (48, 48), "white").save(blank, "WEBP")
    rows = [told_of(number, None if number % 10 == 9 else picture(number)) for number in range(150)]
    rows[4] = told_of(4, blank.getvalue(), model_name="drawer")
    rows[5] = told_of(5, picture(3))
    rows[7] = told_of(7, None, status="pending", error_kind=None, error_message=None)
    report = write_report(written(tmp_path / "many", rows))
    open_report(page, report)
    count, form = page.locator("#count"), page.locator("#form")
    expect(count).to_have_text("1–60 of 150")
    expect(page.locator(".card .pending")).to_have_count(1)
    for label, found in {"failed": 15, "pending": 1, "replicate": 50, "drawer": 1, "refused": 15}.items():
        form.get_by_label(label).check()
        expect(count).to_have_text(f"1–{found} of {found} (150 in all)")
        form.get_by_label(label).uncheck()
    for label, option, found in (("Blank", "Blank ones only", 1), ("Doubles", "Doubles only", 1)):
        form.get_by_label(label).select_option(option)
        expect(count).to_have_text(f"1–{found} of {found} (150 in all)")
        form.get_by_label(label).select_option("All")
    least = form.get_by_label("Colourfulness: at least")
    least.evaluate("slider => { slider.value = 150; slider.dispatchEvent(new Event('input')); }")
    expect(count).to_have_text(re.compile(r"of 3\d \(150 in all\)"))
    form.get_by_role("button", name="Clear all").click()
    expect(count).to_have_text("1–60 of 150")
    form.get_by_role("searchbox").fill("NUMBER 77 meadow")
    expect(count).to_have_text("1–1 of 1 (150 in all)")
    assert cards_shown(page) == ["animal number 77 in a meadow at dawn, oil on canvas"]
    form.get_by_role("searchbox").fill("no such animal")
    expect(count).to_have_text("None of 150 passes the filters")
    form.get_by_role("button", name="Clear all").click()
    page.get_by_label("Sort by").select_option("Latency (s)")
    page.locator("#direction").click()
    expect(page.locator(".card .note").first).to_contain_text("Latency (s) 7")
    page.get_by_role("button", name="Later").click()
    expect(count).to_have_text("61–120 of 150")


def test_the_plots_are_there_for_what_there_is_to_draw(page: Page, tmp_path: Path) -> None:
    rows = [
        told_of(number, None if number % 20 == 7 else picture(number), model_name=("painter", "drawer")[number % 2])
        for number in range(120)
    ]
    report = write_report(written(tmp_path / "drawn", rows))
    open_report(page, report, "#figures")
    titles = page.locator("figure h2").all_inner_texts()
    assert titles[:5] == ["Throughput", "Failures by kind", "Latency", "Sharpness", "Colourfulness"]
    assert len(titles) == 7
    expect(page.locator("figure svg").first).to_be_visible()
    for svg in page.locator("figure svg").all():
        assert svg.locator(".mark, .line").count() > 0
    expect(page.get_by_text("$4.56").first).to_be_visible()
    shot(page, "report-figures")


@timed
def test_a_page_of_ten_thousand_rows_is_painted_in_two_seconds_and_answers(page: Page, tmp_path: Path) -> None:
    data = [picture(number) for number in range(40)]
    rows = [told_of(number, None if number % 50 == 49 else data[number % 40]) for number in range(10_000)]
    layout = written(tmp_path / "large", rows)
    small = [picture(number, 128) for number in range(40)]
    report = layout.root / "report.html"
    with report.open("wb") as file:  # some 5 KB each, as real ones of 192 px have
        each = (None if number % 50 == 49 else one for number, one in enumerate(islice(cycle(small), 10_000)))
        file.writelines(page_pieces(read_page(layout), each))
    assert 40_000_000 < report.stat().st_size < 200_000_000
    open_report(page, report)
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 2000
    expect(page.locator(".card img")).to_have_count(59)
    expect(page.locator("#count")).to_have_text("1–60 of 10,000")
    began = time.monotonic()
    page.get_by_role("searchbox").fill("number 9876 ")
    expect(page.locator(".card img")).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Page", exact=True).fill("167")
    page.get_by_label("Page", exact=True).press("Enter")
    expect(page.locator("#count")).to_have_text("9,961–10,000 of 10,000")
    expect(page.locator(".card img")).to_have_count(39)
    assert time.monotonic() - began < 4
    print(f"first paint {painted:.0f} ms, {report.stat().st_size / 1e6:.0f} MB")


def test_more_than_fits_is_shown_as_an_even_choice_which_the_page_tells_of(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "MOST_PICTURES", 20)
    monkeypatch.setattr(cards, "MOST_OTHERS", 5)
    rows = [told_of(number, None if number % 4 == 3 else picture(number)) for number in range(80)]
    open_report(page, write_report(written(tmp_path / "large", rows)))
    expect(page.get_by_text("This page shows 25 of 80, chosen at even distances.")).to_be_visible()
    expect(page.locator(".card img")).to_have_count(20)
    places = page.locator(".card").evaluate_all("all => all.map(card => Number(card.hash.slice(5)))")
    assert places == sorted(places)
    assert len(places) == 25
    assert max(after - before for before, after in zip([0, *places], [*places, 79], strict=True)) < 12
    expect(page.get_by_text("60 images generated by painter")).to_be_visible()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Browser, animals: Path) -> None:
    size = {"width": 360, "height": 740}
    with browser.new_context(viewport=size, is_mobile=True, has_touch=True, color_scheme="dark") as context:  # type: ignore[arg-type]
        page = context.new_page()
        for place in ("", "#figures", "#row-2", "#row-8"):
            open_report(page, animals, place)
            expect(page.locator("body")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            shot(page, f"report-phone{place.replace('#', '-')}")
        detail = page.get_by_role("dialog").bounding_box()
        assert detail is not None
        assert (detail["width"], detail["height"]) == (360, 740)
        page.get_by_role("button", name="Close").tap()
        page.locator("#filters summary").tap()
        expect(page.get_by_role("searchbox")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_command_says_where_the_page_is_and_keeps_the_one_there_was_when_it_cannot_write(tmp_path: Path) -> None:
    layout = written(tmp_path / "animals", [told_of(number, picture(number)) for number in range(4)])
    ended = imagetask("report", "animals", cwd=tmp_path)
    assert (ended.code, "animals/report.html" in ended.text) == (DONE, True), ended.text
    ended = imagetask("report", "animals", "--to", "pages/animals.html", cwd=tmp_path)
    assert (ended.code, "pages/animals.html" in ended.text) == (DONE, True), ended.text
    ended = imagetask("report", "animals", "--to", "pages", cwd=tmp_path)
    assert (ended.code, "give a file" in ended.text) == (WRONG_USAGE, True), ended.text
    page = (layout.root / "report.html").read_bytes()
    assert page == (tmp_path / "pages" / "animals.html").read_bytes()
    assert str(tmp_path).encode() not in page

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_report(layout, told=interrupt)
    with alone_in(layout), pytest.raises(DatasetError, match="another run is writing"):
        write_report(layout)
    with pytest.raises(DatasetError):
        write_report(Layout(tmp_path / "pages"))
    assert (layout.root / "report.html").read_bytes() == page
    assert sorted(path.name for path in layout.root.iterdir()) == ["_imagetask", "data", "quality", "report.html"]
