"""The search for a secret that must be nowhere: in files, databases, texts and exceptions, in any form it may take."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import re
import secrets
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import polars as pl

Place = Path | str | bytes | BaseException | logging.LogRecord
"""Where to look: a folder or a file; a text; an exception with all that stands behind it; a record of a log."""

_SQLITE, _GZIP, _PARQUET = b"SQLite format 3\x00", b"\x1f\x8b", b"PAR1"
_SIDE_FILES = ("-wal", "-shm", "-journal")


def new_key(prefix: str = "canary/") -> str:
    """A key like no provider's, so that no pattern knows it; with letters that URLs and base64 write otherwise."""
    return f"{prefix}{secrets.token_hex(12)}+{secrets.token_hex(4)}"


def found(secret: str, *places: Place) -> list[str]:
    """The places in which the secret is, in any form: paths of files (and what in them), the beginning of texts."""
    return [name for place in places for name, text in texts_of(place) if is_in(secret, text)]


def is_in(secret: str, text: bytes) -> bool:
    """Whether the text has the secret in any of its forms, also broken over several lines."""
    if any(form in text for form in forms(secret)):
        return True
    joined = re.sub(rb"\s+|\\[nr]", b"", text) if len(text) < 5_000_000 else text
    return len(joined) < len(text) and any(form in joined for form in forms(secret))


@lru_cache
def forms(secret: str) -> tuple[bytes, ...]:
    """What a secret may look like: plain, reversed, in a URL, in JSON, in hex, in base64 at any offset, in UTF-16."""
    plain = secret.encode()
    escaped = json.dumps(secret)[1:-1]
    every = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    texts = [secret, secret[::-1], escaped, escaped.replace("/", "\\/"), every, every.upper().replace("\\U", "\\u")]
    for safe in ("", "/"):
        texts += [quote(secret, safe=safe), quote(secret, safe=safe).lower(), quote(quote(secret, safe=safe), safe="")]
    texts += ["".join(f"%{byte:02{case}}" for byte in plain) for case in "xX"]
    texts += [plain.hex(), plain.hex().upper(), plain.hex(" "), plain.hex(":")]
    found = [text.encode() for text in texts]
    found += [secret.encode("utf-16-le"), secret.encode("utf-16-be")]
    return tuple(dict.fromkeys((*found, *_base64_forms(plain))))


def _base64_forms(plain: bytes) -> Iterator[bytes]:
    """At each of the three offsets, without the letters that depend on what stands before and after."""
    for before in range(3):
        text = base64.b64encode(b"x" * before + plain)
        certain = text[4 if before else 0 : -4]
        yield certain
        yield certain.translate(bytes.maketrans(b"+/", b"-_"))
        yield quote(certain.decode(), safe="").encode()


def texts_of(place: Place) -> Iterator[tuple[str, bytes]]:
    """Every text of a place with a name for it; what is packed in a file (Parquet, gzip, SQLite) is unpacked too."""
    if isinstance(place, Path):
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            yield str(path), str(path).encode()
            if path.is_file():
                yield from _texts_of_file(path)
    elif isinstance(place, BaseException):
        for text in _texts_of_exception(place):
            yield f"{type(place).__name__}: {text[:60]}", text.encode("utf-8", "surrogatepass")
    elif isinstance(place, logging.LogRecord):
        more = "".join(traceback.format_exception(*place.exc_info)) if place.exc_info else ""
        yield f"log of {place.name}", f"{place.getMessage()}\n{place.__dict__!r}\n{more}".encode()
    else:
        data = place.encode("utf-8", "surrogatepass") if isinstance(place, str) else place
        yield f"text: {data[:60]!r}", data


def _texts_of_file(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return  # a file of a database that is in use may go at any time
    yield str(path), data
    if data.startswith(_PARQUET) and data.endswith(_PARQUET):
        yield f"{path}: columns", _columns(path)
    elif data.startswith(_GZIP):
        yield f"{path}: unpacked", gzip.decompress(data)
    elif data.startswith(_SQLITE) and not path.name.endswith(_SIDE_FILES):
        yield from _tables(path)


def _columns(path: Path) -> bytes:
    """All columns but the bytes of pictures, which are not packed in a file."""
    frame = pl.read_parquet(path)
    kept = [name for name, dtype in frame.schema.items() if "Binary" not in str(dtype)]
    return frame.select(kept).write_ndjson().encode()


def _tables(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every row of every table: in the file itself a long text is cut up over pages."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)) as database:
        database.text_factory = bytes
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            for row in database.execute(f'SELECT * FROM "{name.decode()}"'):
                yield f"{path}: {name.decode()}", b"\n".join(_as_bytes(value) for value in row)


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _texts_of_exception(error: BaseException) -> Iterator[str]:
    """What is shown of it, and what each exception behind it, that a traceback shows, says of itself."""
    yield "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        yield from (str(link), repr(link), repr(link.args), *getattr(link, "__notes__", ()))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
