"""The report of a run: what came of it, why rows failed, how to go on; safe to show whatever prompts hold."""

from __future__ import annotations

import base64
import io
import re
import shlex
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from imagetask_flows.outcome import ended_early, finished
from imagetask_flows.watching.contact_sheets import dataset_sheet
from imagetask_flows.watching.failures_told import MEANINGS, examples
from imagetask_flows.watching.report import publish_report
from markdown_it import MarkdownIt
from PIL import Image as PILImage
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings

from imagetask import Image, ImageGeneration
from imagetask.dataset import build_dataset
from imagetask.errors import RunStopped
from imagetask.markdown import block, code, pairs, text
from imagetask.models.treatments import TREATMENTS
from imagetask.parts import finished_chunks, part_path
from imagetask.store import GenerationStore
from tests.model_server import ModelServer
from tests.watched_runs import WatchedRun, artifacts_of, in_flow_run, watched_run

NASTY = [
    "a goat | a pipe",
    "![a goat](http://example.org/goat.png)",
    "<img src=x onerror=alert('goat')> <b>bold</b> &amp;",
    "**bold** _goat_ `code` ``more`` [link](http://example.org) ~~no~~ $x$",
    "# goat\n\n- one\n- two\n\n```sh\nrm goat\n```",
    "- a goat",
    "1. goat",
    "> goat \\ \\| back",
    "half of a goat \ud83d \x00 \u202e end",
]
NO_SERVER = "http://127.0.0.1:9/api"


def rendered(markdown: str) -> str:
    """HTML, as a page would show it that takes HTML as it comes."""
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


def shown(html: str) -> str:
    """The text that a reader sees."""
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()


@pytest.mark.parametrize("nasty", NASTY)
def test_a_prompt_is_shown_as_text_wherever_it_stands(nasty: str) -> None:
    line = " ".join(nasty.split())
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    paragraph, item = rendered(text(nasty)), rendered(f"- “{text(nasty)}”: refused")
    cells = rendered(pairs({"prompt": text(nasty), "next": "row"}))
    assert (shown(paragraph), shown(item)) == (line, f"“{line}”: refused")
    assert line in shown(cells)
    assert set(re.findall(r"<(\w+)", paragraph)) == {"p"}
    assert set(re.findall(r"<(\w+)", item)) == {"ul", "li"}
    assert Counter(re.findall(r"<(th|td)\b", cells)) == {"th": 2, "td": 2}


@pytest.mark.parametrize("nasty", [*NASTY, "`", "``` three ```", " spaces "])
def test_code_stays_code(nasty: str) -> None:
    assert rendered(f"so: {code(nasty)}, then").count("<code>") == 1
    assert rendered(block(nasty.encode("utf-8", "replace").decode())).count("<pre>") == 1


def test_every_kind_of_failure_has_a_meaning() -> None:
    assert MEANINGS.keys() == TREATMENTS.keys()


Options = dict[str, Any]


@pytest.fixture
def openai(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Options:
    """The options of a run that asks the model server."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody-0815")
    return {"model": "openai:m", "base_url": model_server.openai_url}


def report_of(small: WatchedRun) -> str:
    return small.settings.layout.report.read_text()


def section(report: str, heading: str) -> str:
    found = re.search(rf"^##+ {heading}.*?$(.*?)(?=^##|\Z)", report, re.MULTILINE | re.DOTALL)
    assert found is not None, report
    return found[1]


@pytest.mark.prefect_server
def test_a_finished_run_is_reported_with_failures_calls_and_how_to_open_it(
    prefect_server: None, tmp_path: Path, model_server: ModelServer, openai: Options
) -> None:
    model_server.fail("goat", "refused", forever=True)
    prompts = [*NASTY[:-1], "a fox", "an owl", "a crow", None]

    def work(run: str) -> tuple[str, str]:
        options = {**openai, "chunk_rows": 5}
        with watched_run(tmp_path / "goats", prompts, run, **options) as small:
            small.answer()
            small.progress.end_chunks(small.counts)
            told = {"model": small.settings.model, "seed": 0}
            manifests = [m for _, m in finished_chunks(small.settings.layout)]
            build_dataset(small.settings.layout, manifests, GenerationStore(small.settings.store_url), told)
            publish_report(small.settings, small.progress, finished(small.counts, small.settings))
            return run, report_of(small)

    run, report = in_flow_run(work)
    assert report.startswith("# goats: Completed with failures\n\n**3 of 12 images · 9 failed")
    assert "9 (8 refused, 1 invalid\\_input)" in section(report, "Rows")
    refused = section(report, "refused: 8")
    assert "does not ask again" in refused
    assert shown(rendered(refused)).count("Your request was rejected") == 3
    assert re.search(r"\(`[0-9a-f]{16}`\)$", refused, re.MULTILINE), "the row can be found by its id"
    assert "the prompt is null" in section(report, r"invalid\\_input: 1")
    assert "11, of which 3 brought an image" in section(report, "Calls")
    assert re.search(r"median \d+\.\d\d s, p95 \d+\.\d\d s, longest \d+\.\d\d s", report)
    assert "- `chunk_rows`: `5`" in section(report, "Settings")
    assert f"ImageDataset({str(tmp_path / 'goats')!r})" in section(report, "Open the dataset")
    assert "What to do" not in report
    assert "sk-of-nobody" not in report

    [posted] = artifacts_of(run).values()
    [data] = re.findall(r"!\[[^\]]+\]\(data:image/jpeg;base64,([^)]+)\)", str(posted.data))
    sheet = tmp_path / "goats" / "_imagetask" / "report.jpg"
    assert base64.b64decode(data) == sheet.read_bytes()
    assert PILImage.open(io.BytesIO(base64.b64decode(data))).width > 400, "three tiles in a row"
    assert re.sub(r"\(data:[^)]+\)", "(report.jpg)", str(posted.data)) == report


def test_a_stopped_run_is_reported_with_what_to_mend_and_the_command_that_goes_on(
    tmp_path: Path, model_server: ModelServer, openai: Options
) -> None:
    model_server.fail("goat", "refused")
    model_server.fail("crow", "server_error", forever=True)
    model_server.fail("fox", "insufficient_quota")
    prompts = ["a goat", "an owl", "a crow", "a fox"]
    options = {**openai, "chunk_rows": 2, "negative_prompt": "a 'sign'"}
    with watched_run(tmp_path / "zoo", prompts, str(uuid4()), **options) as small:
        small.answer(0)
        with pytest.raises(RunStopped) as stopped:
            small.answer(1)
        with temporary_settings({PREFECT_API_URL: NO_SERVER}):
            publish_report(small.settings, small.progress, ended_early(stopped.value))
        report = report_of(small)
    assert report.startswith("# zoo: Stopped: billing\n")
    assert "quota" in section(report, "What to do")
    assert "Once this is mended" in section(report, "What to do")
    [command] = re.findall(r"```sh\n(.*?)\n```", report, re.DOTALL)
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:3] == ["imagetask", "generate", str(tmp_path / "zoo.parquet")]
    assert words[words.index("--negative-prompt") + 1] == "a 'sign'"
    assert "“a goat”" in section(report, "refused: 1")
    assert "Open the dataset" not in report, "there is none yet"


def test_a_run_that_was_stopped_in_its_first_chunk_shows_its_newest_images_and_first_failures(
    tmp_path: Path, model_server: ModelServer, openai: Options
) -> None:
    model_server.fail("goat", "refused")
    model_server.fail("fox", "insufficient_quota")
    model_server.latency = lambda prompt: 0.5 if "fox" in prompt else 0.0
    with watched_run(tmp_path / "zoo", ["a goat", "an owl", "a fox"], str(uuid4()), **openai) as small:
        with pytest.raises(RunStopped) as stopped:
            small.answer()
        with temporary_settings({PREFECT_API_URL: NO_SERVER}):
            publish_report(small.settings, small.progress, ended_early(stopped.value))
        report = report_of(small)
        assert small.settings.layout.report_picture.is_file()
    assert "**1 of 3 images · 1 failed" in report
    assert "“a goat”: HTTP 400" in section(report, "refused: 1")


def test_examples_of_grouped_generations_name_their_row(tmp_path: Path, model_server: ModelServer) -> None:
    model_server.fail("goat", "ok", "refused", "refused", forever=True)
    options = {"model": "inference-endpoints:m", "base_url": model_server.model_url("m"), "num_generations": 3}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", "hf_ofNobody0815")
        with watched_run(
            tmp_path / "zoo", ["a fox", "a goat"], str(uuid4()), task="tests.custom_tasks:Grouped", **options
        ) as small:
            small.answer()
            found = examples(small.settings, small.counts.failed, {})
    assert {kind: [one.prompt for one in each] for kind, each in found.items()} == {"refused": ["a goat", "a goat"]}
    assert all(one.row_id for one in found["refused"])


def test_examples_stay_a_few_however_many_rows_failed(
    tmp_path: Path, model_server: ModelServer, openai: Options
) -> None:
    model_server.fail("goat", "refused", forever=True)
    prompts = ["a fox"] * 5 + [f"goat {number}" for number in range(40)]
    with watched_run(tmp_path / "zoo", prompts, str(uuid4()), **openai, chunk_rows=10) as small:
        small.answer()
        found = examples(small.settings, small.counts.failed, {})
    assert [one.prompt for one in found["refused"]] == ["goat 0", "goat 1", "goat 2"]


def test_a_run_that_asked_for_nothing_says_so(tmp_path: Path) -> None:
    with watched_run(tmp_path / "zoo", ["a fox"], str(uuid4()), width=32, height=32) as small:
        small.answer()
    with watched_run(tmp_path / "zoo", ["a fox"], str(uuid4()), width=32, height=32) as again:
        [(_, manifest)] = finished_chunks(again.settings.layout)
        again.progress.add_cached(manifest)
        with temporary_settings({PREFECT_API_URL: NO_SERVER}):
            publish_report(again.settings, again.progress, finished(again.counts, again.settings))
        report = report_of(again)
    assert "None: all that was asked for was there already." in report
    assert "| **reused** | 1 |" in report
    assert again.settings.layout.report_picture.is_file(), "of the parts, since no call was made"


@pytest.mark.parametrize(
    ("error", "name", "why"),
    [
        (RunStopped("interrupted", "it was cancelled on the Prefect server"), "Cancelled", "cancelled on the Prefect"),
        (TerminationSignal(signal=15), "Interrupted", "its worker was stopped"),
    ],
)
def test_a_cancelled_run_is_told_so_and_how_to_go_on_and_has_nothing_to_mend(
    tmp_path: Path, error: BaseException, name: str, why: str
) -> None:
    with watched_run(tmp_path / "zoo", ["a fox", "an owl"], str(uuid4()), chunk_rows=1, width=32) as small:
        small.answer(0)
        with temporary_settings({PREFECT_API_URL: NO_SERVER}):
            publish_report(small.settings, small.progress, ended_early(error))
        report = report_of(small)
    assert report.startswith(f"# zoo: {name}\n")
    told = section(report, "How to go on")
    assert why in told
    assert "What came in is kept" in told
    assert "imagetask generate" in told
    assert "mended" not in report
    assert "What to do" not in report


def test_failures_of_one_kind_in_finished_and_in_unfinished_chunks_are_added_up(
    tmp_path: Path, model_server: ModelServer, openai: Options
) -> None:
    model_server.fail("goat", "refused")
    model_server.fail("fox", "insufficient_quota")
    model_server.latency = lambda prompt: 1.0 if "fox" in prompt else 0.0
    prompts = ["a goat", "an owl", "a goat in fog", "a fox"]
    options = {**openai, "chunk_rows": 2, "max_concurrency": 2}
    with watched_run(tmp_path / "zoo", prompts, str(uuid4()), **options) as small:
        small.answer(0)
        with pytest.raises(RunStopped) as stopped:
            small.answer(1)
        assert small.counts.failed == {"refused": 1}, "of the finished chunk"
        with temporary_settings({PREFECT_API_URL: NO_SERVER}):
            publish_report(small.settings, small.progress, ended_early(stopped.value))
        report = report_of(small)
    assert "**1 of 4 images · 2 failed" in report
    assert section(report, "refused: 2").count("“a goat") == 1, "an example of a part goes before those of the calls"


class Halves(ImageGeneration):
    """The two halves of each picture; of all generations of a row a list of such pairs."""

    group_generations: bool = True

    def format_output(self, output: Image, input: dict[str, Any]) -> dict[str, Any]:
        picture = output.to_pil()
        width, height = picture.size
        return {"image": [picture.crop((0, 0, width // 2, height)), picture.crop((width // 2, 0, width, height))]}


def test_pictures_in_lists_of_lists_are_shown(tmp_path: Path) -> None:
    options = {"task": "tests.test_report:Halves", "num_generations": 2, "width": 64, "height": 64}
    with watched_run(tmp_path / "zoo", ["a fox", None, "an owl"], str(uuid4()), **options) as small:
        small.answer()
        sheet = dataset_sheet(small.settings)
    assert sheet is not None
    assert PILImage.open(io.BytesIO(sheet)).width > 300, "two tiles in a row"


def test_whatever_goes_wrong_with_the_report_raises_nothing_and_the_rest_of_it_is_there(
    tmp_path: Path, model_server: ModelServer, caplog: pytest.LogCaptureFixture, openai: Options
) -> None:
    model_server.fail("goat", "refused")
    with watched_run(tmp_path / "zoo", ["a fox", "a goat"], str(uuid4()), **openai) as small:
        small.answer()
        part = part_path(small.settings.layout, small.plan.chunks[0].digest)
        part.write_bytes(b"?" * part.stat().st_size)
        ending = finished(small.counts, small.settings)
        with temporary_settings({PREFECT_API_URL: NO_SERVER}):
            publish_report(small.settings, small.progress, ending)
        report = report_of(small)
        assert small.settings.layout.report_picture.is_file(), "of the newest images"
        small.progress.counts = None
        part.with_suffix(".json").write_text(f'{{"part_bytes": {part.stat().st_size}}}')
        publish_report(small.settings, small.progress, ending)
    assert "**1 of 2 images · 1 failed" in report
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("is not complete: it has no examples: ComputeError: " in line for line in told), told
    assert any("is not complete: it was not posted: ConnectError: " in line for line in told), told
    assert any("is not complete: it could not be made: " in line for line in told), told


@pytest.mark.prefect_server
def test_a_report_that_the_disk_does_not_take_is_posted_all_the_same(prefect_server: None, tmp_path: Path) -> None:
    def work(run: str) -> str:
        with watched_run(tmp_path / "zoo", ["a fox"], run, width=32, height=32) as small:
            small.answer()
            small.settings.layout.report.mkdir()
            small.settings.layout.report_picture.mkdir()
            publish_report(small.settings, small.progress, finished(small.counts, small.settings))
        return run

    posted = str(artifacts_of(in_flow_run(work))["report-zoo"].data)
    assert posted.startswith("# zoo: Completed\n\n**1 of 1 images")
    assert "![Contact sheet: some of the images](data:image/jpeg;base64," in posted
