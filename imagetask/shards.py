"""Parts → shards: the image columns filled with the provider's own bytes, as Parquet that shows as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from imagetask.columns import column_to_images, frame_to_hub_table, hub_schema, image_columns, image_struct
from imagetask.crash_points import reach
from imagetask.cutting import RowGroup, cut_dataset
from imagetask.errors import DatasetError, LostImage, StorageError, TaskError, UsageError
from imagetask.layout import FORMAT_VERSION, Layout, read_json, write_json
from imagetask.lost_images import take_back_parts
from imagetask.parts import part_path
from imagetask.store import GenerationStore

SHARD_BYTES = 500_000_000
_READERS, _REMOTE_READERS = 4, 32
_PIECE_ROWS, _PIECE_BYTES = 100, 1_000_000
"""Pictures are read and copied into Arrow's memory piece by piece, so that a row group is never held twice."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of all shards. images: hold store paths in the parts; transformed: text or bytes of pictures."""

    schema: pl.Schema
    images: Sequence[str]
    transformed: Sequence[str]


def write_shards(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], store: GenerationStore
) -> list[dict[str, Any]]:
    """Writes the parts, in order, as shards of about 500 MB; shards whose parts have not changed stay as they are.

    Columns that were transformed in the dataset before become pictures again. Gives an entry for each shard: file,
    digest, rows, bytes, chunks. What was published keeps its file and its rows; what came later is in others. In memory
    is one row group at a time. Shards change together, after the last is written:
    an error leaves the dataset as it was. Parts whose images the store has lost are taken back: the next run makes
    them anew. Raises `ImageError`, `StorageError`, `TaskError`.
    """
    try:
        return _written_shards(layout, manifests, store)
    except LostImage as error:
        lost = take_back_parts(layout, manifests, store)
        raise StorageError(f"{error}; {lost} such in all: run the same command again to make them anew") from error


def _written_shards(
    layout: Layout, manifests: Sequence[Mapping[str, Any]], store: GenerationStore
) -> list[dict[str, Any]]:
    reach("shards: to be written")
    images = sorted({name for manifest in manifests for name in manifest["images"]})
    schema = _common_schema([part_path(layout, m["digest"]) for m in manifests])
    record = read_json(layout.shards) or {}
    transformed = [name for name in record.get("transformed", []) if name in schema and name not in images]
    columns = _Columns(schema, images, transformed)
    known = {entry["file"]: entry for entry in record.get("shards", [])}
    entries, first_row = [], 0
    with _Temporaries(layout) as temporaries, _readers(store) as readers:
        for shard in cut_dataset(layout, manifests, list(known.values()), SHARD_BYTES):
            name, rows, digest = shard.file, sum(group.rows for group in shard.groups), _digest(shard.groups, schema)
            entry = known.get(name)
            if entry is None or entry["digest"] != digest or not _is_whole(layout.data / name, entry):
                num_bytes = temporaries.write(name, _filled_groups(shard.groups, columns, store, readers, first_row))
                entry = {"file": name, "digest": digest, "rows": rows, "bytes": num_bytes}
            entries.append({**entry, "chunks": shard.chunks})
            first_row += rows
        temporaries.put_in_place({"images": images, "transformed": transformed, "shards": entries})
    return entries


def transform_shards(layout: Layout, names: Sequence[str]) -> None:
    """Makes pictures of further columns of all shards, one row group in memory at a time; the next run keeps them so.

    An error leaves the dataset as it was. Raises `DatasetError` where the folder has no record of its shards,
    `UsageError` for a missing column, `ImageError`, naming column and row, for a cell that is no image.
    """
    record = read_json(layout.shards)
    files = shard_files(layout)
    if record is None:
        raise DatasetError(f"{layout.root} does not tell of its shards: transform a frame of it instead")
    schema = pq.read_schema(files[0])
    if missing := [name for name in names if name not in schema.names]:
        raise UsageError(f"{layout.root} has no column {missing[0]!r}; it has {', '.join(schema.names)}")
    new = [name for name in dict.fromkeys(names) if name not in image_columns(schema)]
    if not new:
        return
    first_row = 0
    entries = []
    with _Temporaries(layout) as temporaries:
        for file, entry in zip(files, record["shards"], strict=True):
            num_bytes = temporaries.write(file.name, _transformed_groups(file, new, first_row))
            entries.append({**entry, "bytes": num_bytes})
            first_row += entry["rows"]
        temporaries.put_in_place({**record, "transformed": [*record["transformed"], *new], "shards": entries})


def shard_files(layout: Layout) -> list[Path]:
    """The shards of a dataset, in order: those that its record names, or all where it has none.

    Raises `DatasetError` where there are none, one is missing, or a killed run left new ones beside old ones.
    """
    record = read_json(layout.shards)
    if record is None:
        files = sorted(layout.data.glob("*.parquet"))
    else:
        if any(entry.get("gone") or not entry.get("digest") for entry in record["shards"]):
            raise DatasetError(f"{layout.root} was left while its shards were put in place: run the same command again")
        files = [layout.data / entry["file"] for entry in record["shards"]]
    if not files:
        raise DatasetError(f"{layout.root} holds no finished dataset: expected {layout.data.name}/*.parquet")
    if missing := [file.name for file in files if not file.is_file()]:
        raise DatasetError(f"{layout.root} lacks {layout.data.name}/{missing[0]}: run the same command again")
    return files


class _Temporaries:
    """Shards written beside the dataset, which take their places together, or not at all."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._written: dict[str, Path] = {}

    def __enter__(self) -> _Temporaries:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._written.values():
            path.unlink(missing_ok=True)

    def write(self, name: str, tables: Iterable[pa.Table]) -> int:
        """Writes a shard, a row group for each table; gives its bytes. Raises `StorageError`."""
        path = self._written[name] = self._layout.state / f".{name}"
        writer: pq.ParquetWriter | None = None
        try:
            for table in tables:
                writer = writer or shard_writer(path, table.schema)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                reach("shard: group written")
                del table
                pa.default_memory_pool().release_unused()
            assert writer is not None
            writer.close()
            reach("shard: written")
            return path.stat().st_size
        except OSError as error:
            raise StorageError(f"could not write {path}: {error.strerror or error}") from error

    def put_in_place(self, record: Mapping[str, Any]) -> None:
        """Moves the shards into the dataset, removes those of ours that the record no longer names, and keeps it.

        A process killed meanwhile leaves a record in which the moved shards have no digest: the next run makes them.
        """
        layout, current = self._layout, {entry["file"] for entry in record["shards"]}
        old = (read_json(layout.shards) or {}).get("shards", [])
        gone = [{**entry, "gone": True} for entry in old if entry["file"] not in current]
        moving = [{**entry, "digest": ""} if entry["file"] in self._written else entry for entry in record["shards"]]
        record = {"version": FORMAT_VERSION, **record}
        write_json(layout.shards, {**record, "shards": [*moving, *gone]})
        reach("shards: to be moved")
        try:
            for name, path in self._written.items():
                path.replace(layout.data / name)
                reach("shard: moved")
            for entry in gone:
                (layout.data / entry["file"]).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"could not write {layout.data}: {error.strerror or error}") from error
        reach("shards: moved")
        write_json(layout.shards, record)
        reach("shards: in place")


def _is_whole(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"]


def _digest(groups: Sequence[RowGroup], schema: pl.Schema) -> str:
    text = f"{FORMAT_VERSION} {schema} " + " ".join(f"{g.content}:{g.start}:{g.rows}" for g in groups)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _common_schema(parts: Sequence[Path]) -> pl.Schema:
    """The columns of all parts, in order of appearance, each of a type that holds all of its values."""
    schemas = {tuple(pl.read_parquet_schema(path).items()): None for path in parts}
    try:
        return pl.concat([pl.DataFrame(schema=dict(schema)) for schema in schemas], how="diagonal_relaxed").schema
    except pl.exceptions.PolarsError as error:
        raise TaskError(f"the parts do not fit together, a column has several types: {error}") from error


def shard_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
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


def _readers(store: GenerationStore) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REMOTE_READERS if store.remote else _READERS)


def _filled_groups(
    groups: Sequence[RowGroup], columns: _Columns, store: GenerationStore, readers: ThreadPoolExecutor, first_row: int
) -> Iterator[pa.Table]:
    """The table of each group; while one is written, the pictures of the next are read, and of no other."""
    begun: _Begun | None = None
    for group in groups:
        following = _Begun(group, columns, store, readers)
        if begun is not None:
            yield begun.table(first_row)
            first_row += begun.rows
        begun = following
    if begun is not None:
        yield begun.table(first_row)


class _Begun:
    """A row group whose pictures are being read."""

    def __init__(self, group: RowGroup, columns: _Columns, store: GenerationStore, readers: ThreadPoolExecutor) -> None:
        schema = columns.schema
        frame = pl.scan_parquet(group.part).slice(group.start, group.rows).collect()
        missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
        frame = frame.with_columns(missing).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
        self.rows = group.rows
        self._columns, self._frame = columns, frame
        small = max(1, min(_PIECE_ROWS, group.rows * _PIECE_BYTES // max(1, group.num_bytes)))
        rows = 1 if store.remote else small  # a piece is read one picture after the other
        self._pictures = {name: _read(frame[name], rows, store, readers) for name in columns.images}

    def table(self, first_row: int) -> pa.Table:
        """The rows with their pictures, as the Hub's image columns. first_row: in the dataset."""
        columns, frame = self._columns, self._frame
        images = [column_to_images(frame[name], first_row=first_row) for name in columns.transformed]
        table = frame_to_hub_table(frame.drop(columns.images).with_columns(images), columns.transformed)
        pictures = {name: pa.chunked_array(list(pieces)) for name, pieces in self._pictures.items()}
        return _with_pictures(table, pictures, list(columns.schema))


def _transformed_groups(file: Path, names: Sequence[str], first_row: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(file) as source:
        for number in range(source.num_row_groups):
            yield _transformed(source.read_row_group(number), names, first_row)
            first_row += source.metadata.row_group(number).num_rows


def _transformed(table: pa.Table, names: Sequence[str], first_row: int) -> pa.Table:
    """A row group of a shard, with pictures in the columns `names`."""
    frame = pl.DataFrame(pl.from_arrow(table.select(list(names))))
    images = frame.select(column_to_images(frame[name], first_row=first_row) for name in names)
    pictures = frame_to_hub_table(images, names)
    return _with_pictures(table, {name: pictures[name] for name in names}, table.schema.names)


def _with_pictures(table: pa.Table, pictures: Mapping[str, pa.ChunkedArray], order: Sequence[str]) -> pa.Table:
    """The table with `pictures` in its image columns, beside those that it has, under its `hub_schema`."""
    columns = {name: pictures[name] if name in pictures else table[name] for name in order}
    images = {*image_columns(table.schema), *pictures}
    schema = hub_schema(pa.schema([(name, column.type) for name, column in columns.items()]), images)
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def _read(paths: pl.Series, piece_rows: int, store: GenerationStore, readers: ThreadPoolExecutor) -> Iterator[pa.Array]:
    """The pictures behind store paths, or lists of them, piece by piece, in order; their reading begins at once."""
    starts = range(0, len(paths), piece_rows)
    return readers.map(lambda start: _piece(paths.slice(start, piece_rows), store), starts)


def _piece(paths: pl.Series, store: GenerationStore) -> pa.Array:
    if isinstance(paths.dtype, pl.List):
        inner = _piece(paths.explode(keep_nulls=False, empty_as_null=False), store)
        lengths = paths.list.len().fill_null(0).cum_sum()
        offsets = pl.Series([0, *lengths.to_list()], dtype=pl.Int32).to_arrow()
        return pa.ListArray.from_arrays(offsets, inner, mask=paths.is_null().to_arrow())
    cells = paths.to_list()
    data = [None if path is None else store.read(path) for path in cells]
    return image_struct(data, [path and path.rpartition("/")[2] for path in cells])
