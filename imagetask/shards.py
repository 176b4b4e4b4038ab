"""Parts → shards: the image columns filled with the provider's own bytes, as Parquet that shows as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from imagetask.columns import frame_to_hub_table, hub_schema, image_struct
from imagetask.errors import StorageError, TaskError
from imagetask.layout import FORMAT_VERSION, Layout, read_json, write_json
from imagetask.store import GenerationStore

SHARD_BYTES = 500_000_000
_READERS = 8


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group to be: rows of one part. content: digest of the part."""

    part: Path
    content: str
    start: int
    rows: int
    num_bytes: int


def write_shards(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], store: GenerationStore
) -> list[dict[str, Any]]:
    """Writes the parts, in order, as shards of about 500 MB; shards whose parts have not changed stay as they are.

    Gives an entry for each shard: file, digest, rows, bytes. In memory is one row group at a time.
    """
    images = sorted({name for manifest in manifests for name in manifest["images"]})
    schema = _common_schema([layout.parts / f"{m['digest']}.parquet" for m in manifests])
    known = {entry["file"]: entry for entry in (read_json(layout.shards) or {}).get("shards", [])}
    entries = []
    for number, groups in enumerate(_assigned(_groups(layout, manifests))):
        path = layout.data / f"train-{number:05d}.parquet"
        digest = _digest(groups, schema)
        entry = known.get(path.name)
        if entry is None or entry["digest"] != digest or not _is_whole(path, entry):
            _write_shard(layout, path, groups, schema, images, store)
            rows = sum(group.rows for group in groups)
            entry = {"file": path.name, "digest": digest, "rows": rows, "bytes": path.stat().st_size}
        entries.append(entry)
    for path in layout.data.glob("*.parquet"):
        if path.name not in {entry["file"] for entry in entries}:
            path.unlink()
    write_json(layout.shards, {"version": FORMAT_VERSION, "images": images, "shards": entries})
    return entries


def _is_whole(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"]


def _groups(layout: Layout, manifests: Sequence[Mapping[str, Any]]) -> Iterator[_Group]:
    for manifest in manifests:
        start = 0
        for rows, num_bytes in manifest["row_groups"]:
            yield _Group(layout.parts / f"{manifest['digest']}.parquet", manifest["content"], start, rows, num_bytes)
            start += rows


def _assigned(groups: Iterator[_Group]) -> Iterator[list[_Group]]:
    shard: list[_Group] = []
    for group in groups:
        if shard and sum(g.num_bytes for g in shard) + group.num_bytes > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(group)
    if shard:
        yield shard


def _digest(groups: Sequence[_Group], schema: pl.Schema) -> str:
    text = f"{FORMAT_VERSION} {schema} " + " ".join(f"{g.content}:{g.start}:{g.rows}" for g in groups)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _common_schema(parts: Sequence[Path]) -> pl.Schema:
    """The columns of all parts, in order of appearance, each of a type that holds all of its values."""
    empty = [pl.read_parquet(path, n_rows=0) for path in dict.fromkeys(parts)]
    try:
        return pl.concat(empty, how="diagonal_relaxed").schema
    except pl.exceptions.PolarsError as error:
        raise TaskError(f"the parts do not fit together, a column has several types: {error}") from error


def _write_shard(
    layout: Layout,
    path: Path,
    groups: Sequence[_Group],
    schema: pl.Schema,
    images: Sequence[str],
    store: GenerationStore,
) -> None:
    temporary = layout.state / f".{path.name}"
    writer: pq.ParquetWriter | None = None
    try:
        with ThreadPoolExecutor(_READERS) as readers:
            for group in groups:
                table = _filled(group, schema, images, store, readers)
                writer = writer or _writer(temporary, table.schema)
                writer.write_table(table, row_group_size=group.rows)
        assert writer is not None
        writer.close()
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Encoded images are not compressed again; content-defined chunks let the Hub store what is new alone."""
    plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
    return pq.ParquetWriter(
        path,
        schema,
        compression=dict.fromkeys(plain, "zstd"),
        use_dictionary=plain,
        write_page_index=True,
        use_content_defined_chunking={"min_chunk_size": 256 * 1024, "max_chunk_size": 1024 * 1024, "norm_level": 0},
    )


def _filled(
    group: _Group, schema: pl.Schema, images: Sequence[str], store: GenerationStore, readers: ThreadPoolExecutor
) -> pa.Table:
    """The rows of a group with their pictures, as the Hub's image columns."""
    frame = pl.scan_parquet(group.part).slice(group.start, group.rows).collect()
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    frame = frame.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    rest = frame_to_hub_table(frame.drop(images), [])
    arrays, fields = [], []
    for name in schema:
        if name in images:
            arrays.append(_pictures(frame[name], store, readers))
            fields.append(pa.field(name, arrays[-1].type))
        else:
            arrays.append(rest[name])
            fields.append(rest.schema.field(name))
    return pa.Table.from_arrays(arrays, schema=hub_schema(pa.schema(fields), images))


def _pictures(paths: pl.Series, store: GenerationStore, readers: ThreadPoolExecutor) -> pa.Array:
    if isinstance(paths.dtype, pl.List):
        inner = _pictures(paths.explode(keep_nulls=False, empty_as_null=False), store, readers)
        lengths = paths.list.len().fill_null(0).cum_sum()
        offsets = pl.Series([0, *lengths.to_list()], dtype=pl.Int32).to_arrow()
        return pa.ListArray.from_arrays(offsets, inner, mask=paths.is_null().to_arrow())
    cells = paths.to_list()
    data = list(readers.map(lambda path: None if path is None else store.read(path), cells))
    return image_struct(data, [None if path is None else path.rpartition("/")[2] for path in cells])
