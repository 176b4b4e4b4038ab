"""The command line, as a person uses it: each command in a process of its own."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import polars as pl
import pytest
from imagetask_flows.cli import app, command_of
from PIL import Image as PILImage

from imagetask import ImageDataset
from imagetask.settings import RunSettings
from tests.command_line import DONE, SOME_FAILED, STOPPED, WRONG_USAGE, Ended, imagetask
from tests.model_server import ModelServer

GOOD = "prompt,note\na red bicycle,1\na blue boat,2\n"
TASKS = """
from imagetask import ImageTask

class NotATask:
    pass

class Unfinished(ImageTask):
    @property
    def inputs(self):
        return ["prompt"]

    @property
    def outputs(self):
        return ["image", "model_name"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with good and bad sources, and with tasks."""
    work = tmp_path / "work"
    (work / "elsewhere").mkdir(parents=True)
    (work / "good.csv").write_text(GOOD)
    (work / "columns.csv").write_text("text,note\na red bicycle,1\n")
    (work / "clash.csv").write_text("prompt,status\na red bicycle,old\n")
    (work / "empty.csv").write_text("")
    (work / "header.csv").write_text("prompt,note\n")
    (work / "latin.csv").write_bytes("prompt\na cat\na caf\xe9\n".encode("latin-1"))
    pl.DataFrame({"prompt": []}, schema={"prompt": pl.String}).write_parquet(work / "header.parquet")
    (work / "elsewhere" / "thesis.txt").write_text("the only copy")
    (work / "file").write_text("the only copy")
    (work / "my_tasks.py").write_text(TASKS)
    (work / "broken.py").write_text("1 / 0\n")
    return work


def assert_one_clear_sentence(ended: Ended, code: int, *says: str) -> None:
    assert ended.code == code, ended.text
    assert "Traceback" not in ended.text, ended.text
    told = [line for line in ended.text.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1, ended.text
    for words in says:
        assert words in told[0]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


WRONG = {
    "a missing file": (["nowhere.csv"], ["nowhere.csv"]),
    "a missing column": (["columns.csv"], ["'prompt'", "'text', 'note'"]),
    "an empty file": (["empty.csv"], ["empty.csv", "0 bytes"]),
    "a file with only a header": (["header.csv"], ["header.csv", "no rows"]),
    "a table of no rows": (["header.parquet"], ["header.parquet", "no rows"]),
    "bad UTF-8": (["latin.csv"], ["latin.csv", "line 3", "0xE9", "iconv"]),
    "a column with the name of one of ours": (["clash.csv"], ["'status'", "--rename status=source_status"]),
    "a name with brackets in it": (["[red]no[/blue].csv"], ["[red]no[/blue].csv"]),
    "an unknown backend": (["good.csv", "--model", "dalle:3"], ["'dalle'", "openai", "placeholder"]),
    "OpenAI without a model": (["good.csv", "--model", "openai"], ["openai:gpt-image-2"]),
    "a URL that is none": (["good.csv", "--base-url", "localhost:8000"], ["--base-url", "http://"]),
    "a parameter without a value": (["good.csv", "--param", "quality"], ["--param quality", "KEY=VALUE"]),
    "no generations": (["good.csv", "--num-generations", "0"], ["--num-generations"]),
    "a task that is not there": (["good.csv", "--task", "nowhere:Mine"], ["'nowhere:Mine'", "cannot be imported"]),
    "a task that is none": (["good.csv", "--task", "my_tasks:NotATask"], ["NotATask'", "imagetask.ImageTask"]),
    "a task that is not whole": (["good.csv", "--task", "my_tasks:Unfinished"], ["format_input", "format_output"]),
    "a task whose module raises": (["good.csv", "--task", "broken:Mine"], ["'broken:Mine'", "ZeroDivisionError"]),
    "an output folder that holds something else": (["good.csv", "--out", "elsewhere"], ["elsewhere", "empty folder"]),
    "an output folder that is a file": (["good.csv", "--out", "file"], ["file", "is a file"]),
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_told_in_one_sentence_and_nothing_is_touched(
    words: tuple[list[str], list[str]], folder: Path
) -> None:
    before = files_below(folder)
    out = [] if "--out" in words[0] else ["--out", "out"]
    ended = imagetask("generate", *words[0], *out, cwd=folder)
    assert_one_clear_sentence(ended, WRONG_USAGE, *words[1])
    assert files_below(folder) == before
    assert not (folder / "out").exists()
    assert "Prefect" not in ended.text, "it is seen before a server is started"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["good.csv"], "--out"),
        (["good.csv", "--out", "out", "--colour", "red"], "there is no option --colour; imagetask generate --help"),
        (["good.csv", "--out", "out", "--modle=x"], "there is no option --modle: did you mean --model? imagetask"),
        (["good.csv", "--out", "out", "--seed", "five"], "five"),
        (["--out", "out"], "SOURCE"),
    ],
)
def test_wrong_options_are_named(words: list[str], says: str, folder: Path) -> None:
    ended = imagetask("generate", *words, cwd=folder)
    assert ended.code == WRONG_USAGE
    assert says in ended.text
    assert "Traceback" not in ended.text
    assert not (folder / "out").exists()


def test_misspelt_command_is_told_with_the_one_that_was_meant(folder: Path) -> None:
    assert_one_clear_sentence(
        imagetask("genrate", "good.csv", cwd=folder), WRONG_USAGE, "no such command genrate: did you mean generate? "
    )


def test_help_lists_the_commands_and_every_setting(folder: Path) -> None:
    top, generate = imagetask("--help", cwd=folder), imagetask("generate", "--help", cwd=folder)
    assert top.code == generate.code == DONE
    for name in ("generate", "preview", "status"):
        assert name in top.text
    for name in RunSettings.model_fields.keys() - {"source"}:
        assert f"--{name.replace('_', '-')} " in generate.text
    assert "SOURCE" in generate.text
    assert "3 finished with failed rows" in generate.text


def test_what_stops_a_run_is_told_with_what_to_do(folder: Path, server_url: dict[str, str]) -> None:
    run = ["generate", "good.csv", "--out", "out"]
    no_key = imagetask(*run, "--model", "openai:gpt-image-2", cwd=folder, env=server_url)
    assert_one_clear_sentence(no_key, STOPPED, "OPENAI_API_KEY", "credentials")
    no_server = imagetask(
        *run, "--model", "openai:m", "--base-url", "http://127.0.0.1:9/v1", cwd=folder, env=server_url
    )
    assert_one_clear_sentence(no_server, STOPPED, "127.0.0.1:9", "cannot be reached")
    assert "the same command goes on" in no_server.text
    no_block = imagetask(*run, "--model", "openai:m", "--credentials", "mine", cwd=folder, env=server_url)
    assert_one_clear_sentence(
        no_block, WRONG_USAGE, "openai-image-credentials/mine", "imagetask blocks create openai mine"
    )
    told = imagetask("status", "out", cwd=folder)
    assert "stopped" in told.text
    assert "go on:" in told.text
    assert "Traceback" not in told.text


def test_a_first_try_with_preview_generate_and_status(
    folder: Path, model_server: ModelServer, server_url: dict[str, str]
) -> None:
    """Null and empty prompts are failed rows, no row is lost, and what the preview made is not asked for again."""
    rows = ["a red bicycle,1", ",2", "a blue boat,3", '"",4', "   ,5", "a green train,6"]
    (folder / "rows.csv").write_text("prompt,note\n" + "".join(f"{row}\n" for row in rows))
    model = ["--model", "openai:m", "--base-url", model_server.openai_url]

    before = imagetask("status", "out", cwd=folder)
    assert_one_clear_sentence(before, WRONG_USAGE, "no run was started")
    assert not (folder / "out").exists()

    preview = imagetask("preview", "rows.csv", "--rows", "3", "--out", "out", *model, cwd=folder)
    assert preview.code == SOME_FAILED, preview.text
    assert "invalid_input: the prompt is null" in preview.text
    assert "6 rows, 6 calls" in preview.text
    assert sorted(model_server.prompts) == ["a blue boat", "a red bicycle"]
    with PILImage.open(folder / "out" / "contact-sheet.png") as sheet:
        assert sheet.width > 64
        assert sheet.format == "PNG"

    ended = imagetask("generate", "rows.csv", "--out", "out", *model, cwd=folder, env=server_url)
    assert ended.code == SOME_FAILED, ended.text
    assert "3 invalid_input" in ended.text
    assert "ImageDataset('out')" in ended.text
    assert sorted(model_server.prompts) == ["a blue boat", "a green train", "a red bicycle"]
    dataset = ImageDataset(folder / "out").scan().collect()
    assert dataset["note"].to_list() == [1, 2, 3, 4, 5, 6]
    assert dataset["status"].to_list() == ["done", "failed", "done", "failed", "failed", "done"]
    assert dataset["error_message"].to_list()[1] == "the prompt is null"
    assert dataset["error_message"].to_list()[4] == "the prompt is empty"
    for cell, prompt in zip(dataset["image"], dataset["prompt"], strict=True):
        if cell is not None:
            PILImage.open(io.BytesIO(cell["bytes"])).load()
            assert cell["bytes"] in {model_server.image_bytes(c.sha256 or "") for c in model_server.calls_for(prompt)}

    after = imagetask("status", "out", cwd=folder)
    assert "finished" in after.text
    assert "3 of 6" in after.text
    assert "3 invalid_input" in after.text


def test_the_command_that_goes_on_says_what_was_asked(tmp_path: Path) -> None:
    settings = RunSettings(
        source=["a b.csv", "c.csv"],
        out=tmp_path / "my cats",
        model=["openai:m", "placeholder"],
        base_url="http://127.0.0.1:9/v1",
        rename={"status": "old status"},
        negative_prompt="-blur",
        seed=7,
        guidance_scale=-1.5,
        max_failed=0,
        param={
            "quality": "low",
            "size": "5",
            "yes": "true",
            "n": 3,
            "on": True,
            "nested": {"a": ["b c"]},
            "none": None,
        },
    )
    assert parsed(command_of(settings)) == settings
    plain = RunSettings(source="a.csv", out=tmp_path)
    assert parsed(command_of(plain)) == plain


def parsed(line: str) -> RunSettings:
    """The settings that a command of `command_of` asks for."""
    words = shlex.split(line)
    assert words[:2] == ["imagetask", "generate"]
    _, bound, _ = app.parse_args(words[1:])
    bound.apply_defaults()
    given = bound.arguments
    options = given["options"]
    return RunSettings.checked(**options.parameters(given["source"], given["out"]))
