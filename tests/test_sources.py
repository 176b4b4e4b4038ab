"""Tables of prompts become lazy frames without loss; what is wrong with one is told in a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imagetask.errors import SourceError, StorageError
from imagetask.sources import Source, check_columns, read_errors, scan_source, source_name

PARTI_PROMPTS = Path(__file__).parents[2] / "shared" / "data" / "PartiPrompts.tsv"


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def columns(source: Source, **options: Any) -> dict[str, list[Any]]:
    return scan_source(source, **options).collect().to_dict(as_series=False)


def refusal(source: Any, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        scan_source(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + 2 * len(str(source))
    return message


@pytest.mark.skipif(not PARTI_PROMPTS.exists(), reason="PartiPrompts.tsv is not part of the project")
def test_parti_prompts_keep_all_rows_and_their_bare_quotes() -> None:
    frame = scan_source(PARTI_PROMPTS).collect()
    lines = PARTI_PROMPTS.read_bytes().decode().splitlines()[1:]
    assert frame.height == 1632
    assert frame.columns == ["Prompt", "Category", "Challenge", "Note"]
    assert frame["Prompt"].to_list() == [line.split("\t")[0] for line in lines]
    assert frame["Prompt"].str.starts_with('"').any()


def test_csv_reads_rfc_4180_quoting_with_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    content = '\ufeff"the ""prompt""",note\r\n"a ""red"" cat,\r\nsitting",\r\n"",""\r\nplain,x\r\n'
    assert columns(written(tmp_path, "p.csv", content)) == {
        'the "prompt"': ['a "red" cat,\r\nsitting', "", "plain"],
        "note": [None, "", "x"],
    }


def test_tsv_has_no_quoting_and_tolerates_crlf_and_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, "p.tsv", '\ufeffprompt\tnote\r\n"a cat\t"x"\r\n\tend"\r\n')
    assert columns(path) == {"prompt": ['"a cat', None], "note": ['"x"', 'end"']}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-20", "0", ""], [1, -20, 0, None]),
        (["1.0", "2.5", "-0.25", "1e-7", ""], [1.0, 2.5, -0.25, 1e-7, None]),
        (["1.1", "1.10"], ["1.1", "1.10"]),
        (["1", "2.5"], ["1", "2.5"]),
        (["0.1", "0.10000000000000001"], ["0.1", "0.10000000000000001"]),
        (["-0", "1"], ["-0", "1"]),
        (["inf", "1.0"], ["inf", "1.0"]),
        (["007", "12"], ["007", "12"]),
        (["+5", "6"], ["+5", "6"]),
        ([" 5", "6"], [" 5", "6"]),
        (["9223372036854775807", "1"], [9223372036854775807, 1]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["1e999", "1"], ["1e999", "1"]),
        (["1.", "1"], ["1.", "1"]),
        (["NaN", "1"], ["NaN", "1"]),
        (["true", "false"], ["true", "false"]),
        (["2026-11-23", "2026-11-24"], ["2026-11-23", "2026-11-24"]),
    ],
)
def test_csv_column_becomes_a_number_only_where_nothing_is_lost(
    tmp_path: Path, cells: list[str], expected: list[Any]
) -> None:
    path = written(tmp_path, "p.csv", "value,prompt\n" + "".join(f"{cell},x\n" for cell in cells))
    found = columns(path)["value"]
    assert found == expected
    assert [type(cell) for cell in found] == [type(cell) for cell in expected]


def test_number_is_text_when_a_late_row_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "p.csv", "n,p\n" + "1,x\n" * 5000 + "n/a,x\n")
    assert scan_source(path).collect_schema()["n"] == pl.String


def test_text_columns_stay_text_by_their_old_and_new_names(tmp_path: Path) -> None:
    path = written(tmp_path, "p.csv", "a,b,c\n1,2,3\n")
    frame = scan_source(path, text_columns=["a", "prompt"], rename={"b": "prompt"})
    assert frame.collect().to_dicts() == [{"a": "1", "prompt": "2", "c": 3}]


def test_column_without_any_value_is_text(tmp_path: Path) -> None:
    assert scan_source(written(tmp_path, "p.csv", "note,p\n,x\n,y\n")).collect_schema()["note"] == pl.String


def test_blank_lines_are_no_rows_but_an_empty_cell_of_a_one_column_file_is(tmp_path: Path) -> None:
    assert columns(written(tmp_path, "two.csv", "id,prompt\n1,a\n\n2,\n,\n\n")) == {"id": [1, 2], "prompt": ["a", None]}
    assert columns(written(tmp_path, "one.csv", "prompt\na\n\nb\n")) == {"prompt": ["a", None, "b"]}


def test_json_lines_and_parquet_keep_their_types(tmp_path: Path) -> None:
    rows = '{"prompt": "007", "n": 1}\n' * 2000 + '\n{"n": 2.5, "tags": ["a"]}\n'
    frame = scan_source(written(tmp_path, "p.jsonl", rows)).collect()
    assert frame.schema == {"prompt": pl.String, "n": pl.Float64, "tags": pl.List(pl.String)}
    assert frame.row(-1) == (None, 2.5, ["a"])
    frame.write_parquet(tmp_path / "p.parquet")
    assert scan_source(tmp_path / "p.parquet").collect().equals(frame)


def test_glob_reads_files_in_sorted_order_and_finds_one_type_for_all(tmp_path: Path) -> None:
    written(tmp_path, "b.csv", "n,p\n007,y\n")
    written(tmp_path, "a.csv", "p,n\nx,1\n")
    written(tmp_path, "c.txt", "no")
    assert columns(str(tmp_path / "*.csv")) == {"p": ["x", "y"], "n": ["1", "007"]}


def test_list_of_files_keeps_its_order_and_joins_types(tmp_path: Path) -> None:
    one = written(tmp_path, "1.jsonl", '{"p": "a", "n": null}\n')
    two = written(tmp_path, "2.ndjson", '{"p": "b", "n": 2}\n')
    assert columns([str(two), str(one)]) == {"p": ["b", "a"], "n": [2, None]}


@pytest.mark.parametrize("name", ["a[1].csv", "a[1].jsonl", "a[1].parquet"])
def test_file_whose_name_looks_like_a_glob_is_read_itself(tmp_path: Path, name: str) -> None:
    for file, value in ((name, "right"), (name.replace("[1]", "1"), "wrong")):
        frame = pl.DataFrame({"p": [value]})
        if name.endswith(".parquet"):
            frame.write_parquet(tmp_path / file)
        else:
            written(tmp_path, file, f"p\n{value}\n" if name.endswith(".csv") else f'{{"p": "{value}"}}\n')
    assert columns(tmp_path / name) == {"p": ["right"]}


def test_rows_and_frames_from_python_are_taken_as_they_are() -> None:
    expected = {"prompt": ["a", None], "n": [None, 2]}
    rows: list[dict[str, Any]] = [{"prompt": "a"}, {"n": 2}]
    assert columns(rows) == expected
    assert columns(pl.DataFrame(expected)) == expected
    assert columns(pl.LazyFrame(expected)) == expected


def test_rename_changes_names_and_refuses_unknown_and_taken_ones() -> None:
    frame = pl.DataFrame({"text": ["a"], "seed": [1]})
    assert columns(frame, rename={"text": "seed", "seed": "text"}) == {"seed": ["a"], "text": [1]}
    assert "has no column 'txt'; it has 'text', 'seed'; did you mean 'text'" in refusal(frame, rename={"txt": "a"})
    assert "two columns 'seed' after renaming" in refusal(frame, rename={"text": "seed"})


def test_source_names_are_fit_for_messages() -> None:
    assert source_name("prompts.csv") == "prompts.csv"
    assert source_name(["prompts.csv"]) == "prompts.csv"
    assert source_name(["a.csv", "b.csv", "c.csv"]) == "a.csv and 2 more files"
    assert source_name(pl.DataFrame({"a": range(12)})) == "a frame of 12 rows"
    assert source_name(pl.LazyFrame({"a": [1]})) == "a lazy frame"
    assert source_name([{"a": 1}, {"a": 2}]) == "a list of 2 rows"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "", "p.csv is empty (0 bytes)"),
        ("p.jsonl", "", "p.jsonl is empty (0 bytes)"),
        ("p.csv", "\n\n", "p.csv has no header"),
        ("p.csv", "prompt,note\n", "has a header and no rows"),
        ("p.tsv", "prompt\tnote\n\n", "has a header and no rows"),
        ("p.txt", "a cat", "known are .csv, .tsv, .jsonl, .ndjson, .parquet"),
        ("p.csv", "a,b,a\n1,2,3\n", "p.csv has more than one column 'a'"),
        ("p.tsv", "a\ta\n1\t2\n", "p.tsv has more than one column 'a'"),
        ("p.csv", b"p,n\nx,1\ncaf\xe9,2\n", "p.csv, line 3: the byte 0xE9 is not UTF-8; convert the file: iconv -f"),
        ("p.csv", b"caf\xe9,n\nx,1\n", "p.csv, line 1: the byte 0xE9 is not UTF-8"),
        ("p.tsv", b"p\tn\ncaf\xe9\t2\n", "p.tsv, line 2: the byte 0xE9 is not UTF-8"),
        ("p.jsonl", b'{"p": "a"}\n{"p": "caf\xe9"}\n', "p.jsonl, line 2: the byte 0xE9 is not UTF-8"),
        ("p.csv", "p,n\nx,1\n".encode("utf-16"), "the text is UTF-16, not UTF-8; convert it: iconv -f UTF-16"),
        ("p.csv", 'p,n\n"x\ny",1\na,b,c\n', "p.csv, line 4: the row has 3 cells, the header has 2"),
        ("p.csv", 'p,n\n"x\ny",1\n\nz\n', "p.csv, line 5: the row has 1 cell, the header has 2"),
        ("p.tsv", "p\tn\nx\t1\na\tb\tc\n", "p.tsv, line 3: the row has 3 cells, the header has 2"),
        ("p.tsv", "p\tn\na cat\non a mat\t1\n", "p.tsv, line 2: the row has 1 cell, the header has 2"),
        ("p.csv", 'p,n\nx,1\n"open,2\ny,3\n', "p.csv, line 3: a quote opens a cell and is never closed"),
        (
            "p.csv",
            'p,n\nx,1\n"a"b,2\ny,3\n',
            "p.csv, line 3: a quote opens a cell and is never closed, or text follows",
        ),
        ("p.csv", 'p,n\nx,1\n5" tall,2\ny,3\n', "p.csv, line 3: a quote stands in a cell that is not quoted"),
        ("p.jsonl", '{"p": "a"}\n\n{"p": "b"\n{"p": "c"}\n', "p.jsonl, line 3: no whole JSON object"),
        ("p.jsonl", '{"p": "a"}\n{"p": "b', "p.jsonl, line 2: no whole JSON object"),
        ("p.jsonl", '{"p": NaN}\n', "p.jsonl, line 1: no whole JSON object (NaN is no JSON, write null)"),
        ("p.jsonl", '[{"p": "a"},\n{"p": "b"}]\n', "p.jsonl, line 1: no whole JSON object"),
        ("p.jsonl", '{"p": "a"}\n["b"]\n', "p.jsonl, line 2: a JSON list, not an object"),
        ("p.jsonl", '\ufeff{"p": "a"}\n', "p.jsonl, line 1: the file starts with a byte-order mark"),
        ("p.jsonl", "{}\n", "objects without a single key"),
        ("p.jsonl", "\n\n", "p.jsonl, there is no row in it"),
        ("p.parquet", b"hello, this is no Parquet", "p.parquet is not Parquet"),
        ("p.parquet", b"PAR1 and then the disk was full", "p.parquet is cut short"),
        ("p.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "p.parquet cannot be read"),
    ],
)
def test_bad_file_is_told_in_a_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    assert message in refusal(written(tmp_path, name, content))


def test_bad_line_in_one_of_several_files_names_that_file(tmp_path: Path) -> None:
    written(tmp_path, "a.csv", "p,n\nx,1\n")
    written(tmp_path, "b.csv", "p,n\nx,1,2\n")
    assert "b.csv, line 2: the row has 3 cells" in refusal(str(tmp_path / "*.csv"))


def test_missing_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    path = written(tmp_path, "prompts.csv", "p\nx\n")
    assert f"there is no file {tmp_path / 'promts.csv'}; did you mean '{path}'?" in refusal(tmp_path / "promts.csv")
    assert "check the path" in refusal(tmp_path / "no" / "x.csv")


def test_folder_url_and_empty_glob_say_what_to_give(tmp_path: Path) -> None:
    written(tmp_path, "x.jsonl", '{"p": "a"}\n')
    assert f"is a folder; name its files by a glob, for example '{tmp_path}/*.jsonl'" in refusal(tmp_path)
    assert "no file matches the glob" in refusal(str(tmp_path / "*.csv"))
    assert "https://… is no URL of a source" in refusal("https://example.org/p.csv")


def test_files_of_several_formats_or_columns_or_types_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path, "1.csv", "p,n\nx,1\n")
    two = written(tmp_path, "2.csv", "p,m\nx,1\n")
    rows = written(tmp_path, "3.jsonl", '{"p": "a"}\n')
    nested = written(tmp_path, "4.jsonl", '{"p": {"a": 1}}\n')
    assert f"mixes CSV ({one}) and JSON lines ({rows})" in refusal([one, rows])
    assert f"{two} has the columns 'p', 'm', {one} has 'p', 'n'; give files that agree on 'm', 'n'" in refusal(
        [one, two]
    )
    assert "column 'p' is Struct" in refusal([rows, nested])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pl.DataFrame({"p": []}), "a frame of 0 rows has no rows"),
        ([], "empty list"),
        ([{}], "has no columns"),
        ([{"p": "a"}, "b"], "a list of 2 rows holds more than dicts"),
        ([{"p": [1]}, {"p": {"x": 1}}], "a list of 2 rows makes no table"),
        ([{1: "a"}], "a list of 1 rows makes no table"),
        ([{"p": object()}], "holds Python objects in 'p'"),
        (5, "not int"),
    ],
)
def test_bad_rows_from_python_are_told_in_a_sentence(source: Any, message: str) -> None:
    assert message in refusal(source)


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"p": []}, schema={"p": pl.String}).write_parquet(tmp_path / "p.parquet")
    assert "p.parquet has no rows" in refusal(tmp_path / "p.parquet")


def test_missing_column_is_told_with_the_columns_there_are_and_the_nearest() -> None:
    frame = pl.LazyFrame({"Prompt": ["a"], "Category": ["b"]})
    check_columns(frame, ["Prompt"], "p.tsv")
    with pytest.raises(SourceError) as caught:
        check_columns(frame, ["prompt"], "p.tsv", "--prompt-column")
    assert str(caught.value) == (
        "p.tsv has no column 'prompt'; it has 'Prompt', 'Category'; did you mean 'Prompt'? --prompt-column Prompt"
    )
    with pytest.raises(SourceError, match=r"no column 'x', 'y'; it has 'Prompt', 'Category'$"):
        check_columns(frame.collect_schema(), ["x", "Prompt", "y"], "p.tsv")


def test_damage_met_while_rows_are_read_names_the_source(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pl.DataFrame({"p": [str(n) for n in range(5000)]}).write_parquet(path)
    frame = scan_source(path)
    data = bytearray(path.read_bytes())
    data[4:3000] = b"\xff" * 2996
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"p\.parquet cannot be read: ") as caught, read_errors("p.parquet"):
        frame.collect()
    assert "\n" not in str(caught.value)


def test_file_that_vanishes_before_it_is_read_is_a_source_error(tmp_path: Path) -> None:
    path = written(tmp_path, "p.csv", "p\nx\n")
    frame = scan_source(path)
    path.unlink()
    with pytest.raises(SourceError, match=r"^p\.csv cannot be read: No such file"), read_errors("p.csv"):
        frame.collect()


def test_full_disk_while_rows_are_read_is_not_blamed_on_the_source() -> None:
    with pytest.raises(StorageError, match="No space left"), read_errors("p.csv"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
