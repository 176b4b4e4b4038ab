"""Tables of any content: what is read is what was written, or one sentence says what is wrong with the file."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imagetask.errors import SourceError
from imagetask.sources import read_errors, scan_source
from tests.fuzzing import examples, json_values, sentence, whole_text

Cells = list[list[str | None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


def read(path: Path, text_columns: Sequence[str] = ()) -> pl.DataFrame | str:
    """The rows; or the sentence that refuses the file, which names it, and is one line."""
    try:
        with read_errors(str(path)):
            return scan_source(path, text_columns=text_columns).collect()
    except SourceError as error:
        message = str(error)
        assert str(path) in message
        assert "\n" not in message.replace(str(path), "")
        return message


def tables(cells: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[list[str], Cells]]:
    """Header and rows, of one to four columns; a name is not empty, and holds no NUL."""
    names = cells.filter(lambda name: bool(name) and "\0" not in name and not name.startswith("\ufeff"))

    def of_width(width: int) -> st.SearchStrategy[tuple[list[str], Cells]]:
        row = st.lists(st.none() | cells, min_size=width, max_size=width)
        header = st.lists(names, min_size=width, max_size=width, unique=True)
        return st.tuples(header, st.lists(row, min_size=1, max_size=6))

    return st.integers(1, 4).flatmap(of_width)


def quoted(cell: str | None, sparing: bool) -> str:
    if cell is None:
        return ""
    if sparing and cell and not set(cell) & set('",\r\n'):
        return cell
    return '"' + cell.replace('"', '""') + '"'


@examples(200)
@given(tables(whole_text), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans(), st.booleans())
def test_csv_that_was_written_right_is_read_as_it_was_written(
    folder: Path, table: tuple[list[str], Cells], end: str, mark: bool, sparing: bool, last_end: bool
) -> None:
    names, rows = table
    whole: Cells = [[*names], *rows]
    lines = [",".join(quoted(cell, sparing) for cell in row) for row in whole]
    assume(last_end or rows[-1] != [None])
    path = folder / "written.csv"
    path.write_bytes(b"\xef\xbb\xbf" * mark + (end.join(lines) + end * last_end).encode())
    found = read(path, names)
    expected = [tuple(row) for row in rows if len(names) == 1 or any(cell is not None for cell in row)]
    if isinstance(found, str):
        assert all(cell is None for row in rows for cell in row), found
        return
    assert found.columns == names
    assert found.rows() == expected


@examples(200)
@given(tables(whole_text.filter(lambda cell: not set(cell) & set("\t\r\n"))), st.sampled_from(["\n", "\r\n"]))
def test_tsv_that_was_written_right_is_read_as_it_was_written(
    folder: Path, table: tuple[list[str], Cells], end: str
) -> None:
    names, rows = table
    whole: Cells = [[*names], *rows]
    path = folder / "written.tsv"
    path.write_bytes("".join("\t".join(cell or "" for cell in row) + end for row in whole).encode())
    found = read(path, names)
    expected = [tuple(cell or None for cell in row) for row in rows if len(names) == 1 or any(row)]
    if isinstance(found, str):
        assert not any(cell for row in rows for cell in row), found
        return
    assert found.columns == names
    assert found.rows() == expected


_BROKEN = st.lists(
    st.tuples(
        st.integers(0, 50),
        st.integers(0, 2),
        st.sampled_from([b'"', b",", b"\t", b"\n", b"\r", b"\0", b"\xff", b'""', b"\r\n", b"a", b"\xef\xbb\xbf", b" "]),
    ),
    max_size=4,
)
"""Changes of bytes: where, how many are cut out, what is put in."""


def broken(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in changes:
        data = data[:at] + put + data[at + cut :]
    return data


def filled(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """The two cells of rows that have something in one; empty and null are alike, and an empty third is none."""
    return [tuple(cell or None for cell in (*row[:2], *filter(None, row[2:]))) for row in rows if any(row)]


@examples(200)
@given(
    st.sampled_from(
        [
            b'p,q\n1,2\n"a, b","x ""y"""\n\nz,\n',
            b'p,q\r\n"a\r\nb",c\r\n"d\ne",f\r\n',
            b"p,q\na b,\xc3\xa9\n",
        ]
    ),
    _BROKEN,
)
def test_broken_csv_is_refused_or_read_as_pythons_own_reader_reads_it(
    folder: Path, data: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    path = folder / "broken.csv"
    path.write_bytes(broken(data, changes))
    header = path.read_bytes().lstrip(b"\xef\xbb\xbf").decode("utf-8", "replace").split("\n")[0]
    found = read(path, ["p", "q", *header.rstrip("\r").split(",")])
    if isinstance(found, str):
        return
    text = path.read_bytes().decode("utf-8-sig")
    names, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    assert found.columns == names
    assert filled(found.cast(pl.String).rows()) == filled(rows)


@examples(200)
@given(_BROKEN)
def test_broken_tsv_is_refused_or_read_line_by_line(folder: Path, changes: list[tuple[int, int, bytes]]) -> None:
    path = folder / "broken.tsv"
    path.write_bytes(broken(b'p\tq\n1\t2\n"a\t"b\n\nz\t\n\xc3\xa9\tx\n', changes))
    found = read(path)
    if isinstance(found, str):
        return
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    names, *rows = [cells for line in lines if any(cells := line.removesuffix("\r").split("\t")) or len(cells) > 1]
    assert found.columns == names
    assert filled(found.cast(pl.String).rows()) == filled(rows)


def same(read: Any, written: Any) -> bool:
    """Whether a cell is what the JSON said: what is left out is null, and a plain value beside text is its text."""
    if isinstance(read, dict):
        if written is None:
            return all(same(item, None) for item in read.values())
        if not isinstance(written, dict) or not set(written) <= set(read):
            return False
        return all(same(item, written.get(name)) for name, item in read.items())
    if isinstance(read, list):
        return isinstance(written, list) and len(read) == len(written) and all(map(same, read, written))
    if isinstance(read, str) and isinstance(written, bool | int | float):
        return read in ("true", "false") if isinstance(written, bool) else float(read) == float(written)
    if isinstance(read, bool) or isinstance(written, bool):
        return read is written
    return bool(read == written)


@examples(200)
@given(
    st.lists(st.dictionaries(st.sampled_from(["prompt", "q", "", "seed"]), json_values, max_size=3), min_size=1),
    st.booleans(),
)
def test_json_lines_are_read_as_they_were_written_or_refused(
    folder: Path, rows: list[dict[str, Any]], ascii_only: bool
) -> None:
    path = folder / "written.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), encoding="utf-8")
    found = read(path)
    if not isinstance(found, str):
        assert len(found) == len(rows)
        assert all(map(same, found.to_dicts(), rows)), found


@examples(200)
@given(st.lists(st.dictionaries(st.sampled_from(["prompt", "q"]), whole_text | st.none()), min_size=1))
def test_json_lines_of_text_are_never_refused(folder: Path, rows: list[dict[str, str | None]]) -> None:
    assume(any(rows))
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read(path)
    assert not isinstance(found, str), found
    assert found.to_dicts() == [{name: row.get(name) for name in found.columns} for row in rows]


@examples(200)
@given(st.lists(st.dictionaries(st.sampled_from(["prompt", "q"]), json_values, min_size=1), min_size=1))
def test_rows_from_python_are_taken_as_they_are_or_refused(rows: list[dict[str, Any]]) -> None:
    try:
        found = scan_source(rows).collect()
    except SourceError as error:
        sentence(error)
        return
    assert all(map(same, found.to_dicts(), rows)), found


_FRAME = pl.DataFrame({"prompt": ["a cat", "b" * 50, None] * 4, "n": range(12), "l": [[1, 2]] * 12})


@examples(200)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=3))
def test_damaged_parquet_ends_in_rows_or_in_a_sentence(folder: Path, changes: list[tuple[int, int, bytes]]) -> None:
    buffer = io.BytesIO()
    _FRAME.write_parquet(buffer)
    path = folder / "damaged.parquet"
    path.write_bytes(broken(buffer.getvalue(), changes))
    found = read(path)
    assert isinstance(found, str | pl.DataFrame)


@examples(60)
@given(st.floats(0, 0.999))
def test_parquet_that_is_cut_short_anywhere_is_refused(folder: Path, share: float) -> None:
    buffer = io.BytesIO()
    _FRAME.write_parquet(buffer)
    path = folder / "cut.parquet"
    path.write_bytes(buffer.getvalue()[: max(1, int(len(buffer.getvalue()) * share))])
    assert isinstance(read(path), str)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"p": "a\\ud800b"}\n', "line 1: column 'p' holds half of a surrogate pair"),
        ("p.jsonl", b'{"p": ["a", {"x": "\\udfff"}]}\n', "line 1: column 'p' holds"),
        ("p.jsonl", b'{"p": 1}\n{"p": 1, "p": 2}\n', "line 2: no whole JSON object (the name 'p' is there twice)"),
        ("p.jsonl", b'{"p": true}\n{"p": 1}\n', "line 1: column 'p' holds true or false among whole numbers"),
        ("p.jsonl", b'{"p": "x"}\n{"p": {"a": 1}}\n', "line 2: column 'p' holds an object among text; give a column"),
        ("p.jsonl", b'{"p": [1]}\n{"p": {"a": 1}}\n', "line 2: column 'p' holds an object, and in line 1 a list"),
        ("p.jsonl", b'{"p": 0.5}\n{"p": 9007199254740993}\n', "line 2: column 'p' holds the number 9007199254740993"),
        ("p.jsonl", b'{"p": ' + b"9" * 50 + b"}\n", "line 1: no whole JSON object (a number of more than 64 bits"),
        ("p.jsonl", b'{"p": 1e999}\n', "line 1: no whole JSON object (the number 1e999 is too large)"),
        ("p.jsonl", b'{"p": ' + b"[" * 100_000, "line 1: no whole JSON object (maximum recursion depth"),
        (
            "p.jsonl",
            gzip.compress(b'{"p": "a"}\n', mtime=0),
            "the bytes are gzip, not text; name the file so",
        ),
        (
            "p.csv",
            gzip.compress(b"p\nabc\n", mtime=0)[:15],
            "the bytes are gzip, not text; name the file so",
        ),
        ("p.csv", "p,q\n1,2\n".encode("utf-32"), "the text is UTF-32, not UTF-8; convert it: iconv -f UTF-32"),
        ("p.csv", "prompt\n1\n".encode("utf-16-le"), "line 1: a column's name holds a NUL; save the file as UTF-8"),
        (
            "p.tsv",
            b"p\tq\n\r\t\n1\t2\n",
            "line 2: it ends with a carriage return alone; end each line with a line feed",
        ),
        ("p.tsv", b"p\tq\r1\t2\r", "line 1: it ends with a carriage return alone"),
        ("p.csv", b"p,q\n1,2\r3,4\n", "line 2: it ends with a carriage return alone"),
    ],
)
def test_file_that_would_be_altered_is_refused_with_its_line(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    path = folder / name
    path.write_bytes(content)
    found = read(path)
    assert isinstance(found, str)
    assert message in found


def test_carriage_return_inside_a_quoted_cell_is_a_character(folder: Path) -> None:
    path = folder / "returns.csv"
    path.write_bytes(b'p,q\n"a\rb","\n\rc"\n')
    found = read(path)
    assert not isinstance(found, str), found
    assert found.rows() == [("a\rb", "\n\rc")]


def test_prompt_of_a_megabyte_is_read_whole_from_every_format(folder: Path) -> None:
    prompt = ("ein 猫 " * 150_000)[:1_000_000]
    frame = pl.DataFrame({"prompt": [prompt, "short"]})
    frame.write_csv(folder / "long.csv")
    frame.write_csv(folder / "long.tsv", separator="\t")
    frame.write_ndjson(folder / "long.jsonl")
    frame.write_parquet(folder / "long.parquet")
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        found = read(folder / f"long.{suffix}")
        assert not isinstance(found, str), found
        assert found["prompt"].to_list() == [prompt, "short"], suffix
