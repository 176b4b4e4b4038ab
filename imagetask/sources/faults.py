"""What is wrong in a text file of rows, and in which line: looked for only where reading it failed."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from imagetask.sources.column_types import Fit, fitting, is_whole_text

_QUOTING = 'write a quote inside a cell as "" and put the cell in quotes'
_ONE_OBJECT = "write one JSON object per line"


def encoding_fault(file: Path) -> str | None:
    with file.open("rb") as raw:
        for number, line in enumerate(raw, 1):
            if number == 1 and (fault := _first_bytes_fault(file, line[:4])):
                return fault
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f"0x{line[error.start]:02X}"
                return f"line {number}: the byte {byte} is not UTF-8; convert the file: {_iconv(file, 'WINDOWS-1252')}"
    return None


_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
}


def _first_bytes_fault(file: Path, head: bytes) -> str | None:
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            suffix = {"gzip": ".gz", "Zstandard": ".zst"}.get(name)
            what = f"name the file so, with {suffix} at its end" if suffix else "unpack the file first"
            return f"line 1: the bytes are {name}, not text; {what}"
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return f"line 1: the text is UTF-32, not UTF-8; convert it: {_iconv(file, 'UTF-32')}"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"line 1: the text is UTF-16, not UTF-8; convert it: {_iconv(file, 'UTF-16')}"
    if b"\0" in head[:2]:
        kind = "UTF-16BE" if head.startswith(b"\0") else "UTF-16LE"
        return f"line 1: the text is {kind}, not UTF-8; convert it: {_iconv(file, kind)}"
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


_STRAY_RETURN = re.compile(rb"\r(?!\n)")


def _pieces(file: Path) -> Iterator[bytes]:
    """The bytes of a file: a large one, mapped, would count as memory of the process."""
    with file.open("rb") as raw:
        while piece := raw.read(1_000_000):
            yield piece


def _stray_return(file: Path) -> int:
    """The line of the first carriage return without a line feed after it; 0 where there is none."""
    line, held = 1, b""
    for piece in _pieces(file):
        text = held + piece
        held = text[-1:] if text.endswith(b"\r") else b""
        text = text.removesuffix(b"\r")
        if found := _STRAY_RETURN.search(text):
            return line + text[: found.start()].count(b"\n")
        line += text.count(b"\n")
    return line if held else 0


def return_fault(file: Path, kind: str) -> str | None:
    """The first line that ends with a carriage return alone, which Polars takes for a part of a cell, or for nothing.

    In a quoted cell of a CSV file it is a character as others are. Raises `UnicodeDecodeError`.
    """
    line = _stray_return(file)
    if line and kind == "CSV":
        ended = (record.line for record in _csv_records(file) if record.text.endswith("\r"))
        line = next(ended, 0)
    return f"line {line}: it ends with a carriage return alone; end each line with a line feed" if line else None


def quote_fault(file: Path) -> str | None:
    """The first record of a CSV file whose quotes are broken, of which Polars reads some in a way of its own."""
    if not any(b'"' in piece for piece in _pieces(file)):
        return None
    return next((fault for record in _csv_records(file) if (fault := _quotes(record))), None)


def _quotes(record: _Record) -> str | None:
    if record.cells is None:
        return f"line {record.line}: a quote opens a cell and is never closed, or text follows it; {_QUOTING}"
    if record.text.count('"') % 2:
        return f"line {record.line}: a quote stands in a cell that is not quoted; {_QUOTING}"
    return None


def _cells_fault(records: Iterator[_Record]) -> str | None:
    """The first record that has broken quotes, or another number of cells than the header."""
    width = 0
    for record in records:
        if fault := _quotes(record):
            return fault
        line, cells, text = record
        assert cells is not None
        width = width or len(cells)
        if cells and len(cells) != width:
            way = "quote cells that hold commas" if text else "put no tab and no line break inside a cell"
            count = f"{len(cells)} cell{'s' if len(cells) > 1 else ''}"
            return f"line {line}: the row has {count}, the header has {width}; {way}, and keep empty cells at the end"
    return None


def _json_fault(file: Path) -> str | None:
    """What is wrong where Polars could not read the file."""
    return json_fault(file, None)


def json_fault(file: Path, schema: Mapping[str, Any] | None) -> str | None:
    """The first line that is no JSON object, has a name twice, or that `schema` (Polars' own) would alter.

    Without a schema: the first line in which a column is an object or a list, and was something else before.
    """
    fits = {name: fitting(dtype) for name, dtype in (schema or {}).items()}
    seen: dict[str, tuple[str, int]] = {}
    rows = 0
    with file.open("rb") as raw:
        for number, line in enumerate(raw, 1):
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                return "line 1: the file starts with a byte-order mark; save it as UTF-8 without one"
            try:
                row = _DECODER.decode(line.decode().strip()) if line.strip() else {}
            except UnicodeDecodeError:
                return encoding_fault(file)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                return f"line {number}: no whole JSON object ({reason}); {_ONE_OBJECT}"
            if not isinstance(row, dict):
                return f"line {number}: a JSON {type(row).__name__}, not an object; {_ONE_OBJECT}"
            if fault := _misfit(row, fits) if schema is not None else _mixed(row, seen, number):
                return f"line {number}: {fault}"
            rows += bool(line.strip())
    return None if rows else f"there is no row in it; {_ONE_OBJECT}"


def _misfit(row: Mapping[str, Any], fits: Mapping[str, Fit]) -> str | None:
    for name, value in row.items():
        if value is not None and (reason := fits[name](value)):
            return f"column {name!r} holds {reason}"
    return None


def _mixed(row: Mapping[str, Any], seen: dict[str, tuple[str, int]], number: int) -> str | None:
    for name, value in row.items():
        if value is None:
            continue
        if not is_whole_text(json.dumps(value, ensure_ascii=False)):
            return f"column {name!r} holds half of a surrogate pair, which no text may hold; write the whole character"
        kind = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a plain value"
        before, line = seen.setdefault(name, (kind, number))
        if before != kind:
            return f"column {name!r} holds {kind}, and in line {line} {before}; give a column one type"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is there twice")
    return row


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _whole(text: str) -> int:
    number = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"a number of more than 64 bits, {text[:40]}: write it as text")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON, write null")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_whole, parse_constant=_no_constant, strict=False
)


FAULTS: Mapping[str, Callable[[Path], str | None]] = {
    "CSV": lambda file: _cells_fault(_csv_records(file)),
    "TSV": lambda file: _cells_fault(_tsv_records(file)),
    "JSON lines": _json_fault,
}
