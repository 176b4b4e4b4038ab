"""What is wrong in a text file of rows, and in which line: looked for only where reading it failed."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

_QUOTING = 'write a quote inside a cell as "" and put the cell in quotes'
_ONE_OBJECT = "write one JSON object per line"


def encoding_fault(file: Path) -> str | None:
    with file.open("rb") as raw:
        for number, line in enumerate(raw, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                return f"line 1: the text is UTF-16, not UTF-8; convert it: {_iconv(file, 'UTF-16')}"
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02X}"
                return f"line {number}: the byte {byte} is not UTF-8; convert the file: {_iconv(file, 'WINDOWS-1252')}"
    return None


def _iconv(file: Path, encoding: str) -> str:
    new = file.with_name(f"{file.stem}-utf8{file.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(file))} > {shlex.quote(str(new))}"


class _Record(NamedTuple):
    """line: number of its first line, from 1. cells: None where its quotes are broken. text: as it is in the file."""

    line: int
    cells: list[str] | None
    text: str


def _csv_records(file: Path) -> Iterator[_Record]:
    taken: list[str] = []
    line = 1
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(_noted(text, taken), strict=True)
            for cells in reader:
                yield _Record(line, cells, "".join(taken))
                line += len(taken)
                taken.clear()
    except csv.Error:
        yield _Record(line, None, "".join(taken))
    finally:
        csv.field_size_limit(limit)


def _noted(lines: Iterable[str], taken: list[str]) -> Iterator[str]:
    for line in lines:
        taken.append(line)
        yield line


def _tsv_records(file: Path) -> Iterator[_Record]:
    with file.open(newline="\n", encoding="utf-8-sig") as text:
        for number, line in enumerate(text, 1):
            bare = line.rstrip("\r\n")
            yield _Record(number, bare.split("\t") if bare else [], "")


RECORDS: Mapping[str, Callable[[Path], Iterator[_Record]]] = {"CSV": _csv_records, "TSV": _tsv_records}


def _cells_fault(records: Iterator[_Record]) -> str | None:
    """The first record that has broken quotes, or another number of cells than the header."""
    width = 0
    for line, cells, text in records:
        if cells is None:
            return f"line {line}: a quote opens a cell and is never closed, or text follows it; {_QUOTING}"
        if text.count('"') % 2:
            return f"line {line}: a quote stands in a cell that is not quoted; {_QUOTING}"
        width = width or len(cells)
        if cells and len(cells) != width:
            way = "quote cells that hold commas" if text else "put no tab and no line break inside a cell"
            count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
            return f"line {line}: the row has {count}, the header has {width}; {way}, and keep empty cells at the end"
    return None


def _json_fault(file: Path) -> str | None:
    rows = 0
    with file.open("rb") as raw:
        for number, line in enumerate(raw, 1):
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                return "line 1: the file starts with a byte-order mark; save it as UTF-8 without one"
            try:
                row = json.loads(line, parse_constant=_no_constant) if line.strip() else {}
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                return f"line {number}: no whole JSON object ({reason}); {_ONE_OBJECT}"
            if not isinstance(row, dict):
                return f"line {number}: a JSON {type(row).__name__}, not an object; {_ONE_OBJECT}"
            rows += bool(line.strip())
    return None if rows else f"there is no row in it; {_ONE_OBJECT}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON, write null")


FAULTS: Mapping[str, Callable[[Path], str | None]] = {
    "CSV": lambda file: _cells_fault(_csv_records(file)),
    "TSV": lambda file: _cells_fault(_tsv_records(file)),
    "JSON lines": _json_fault,
}
