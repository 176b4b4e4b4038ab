"""README.md of an export: its front matter lets `datasets` open the folder as it is."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from imagetask.card.columns import columns_table
from imagetask.card.front import SplitInfo, front_matter, front_text, read_earlier
from imagetask.exports.encoding import Encoding
from imagetask.exports.rows import ScoredRows
from imagetask.exports.writing import SplitWriter
from imagetask.layout import Layout
from imagetask.markdown import text


def readme(
    layout: Layout,
    writer: type[SplitWriter],
    rows: ScoredRows,
    suffixes: Mapping[str, Set[str]],
    counts: Mapping[str, int],
    encoding: Encoding,
) -> str:
    """How to open the export, and what its columns mean; the licence is that of the dataset's own card.

    suffixes: of the pictures in each image column. counts: rows of each split; one without rows is not named.
    """
    parts = [
        front_text(_front(layout, writer, rows, suffixes, counts)).rstrip(),
        f"# {text(layout.root.name)}",
        f"Exported with imagetask: {', '.join(f'{name} {count:,} rows' for name, count in counts.items())}.",
        f"```python\nimport datasets\n\n{writer.opened('PATH_OF_THIS_FOLDER')}\n```",
        *([f"Pictures are {encoding}; the columns that score them tell of those that came."] if encoding else []),
        columns_table(rows.schema),
    ]
    return "\n\n".join(parts) + "\n"


def _front(
    layout: Layout,
    writer: type[SplitWriter],
    rows: ScoredRows,
    suffixes: Mapping[str, Set[str]],
    counts: Mapping[str, int],
) -> dict[str, Any]:
    card = layout.card.read_text(encoding="utf-8", errors="replace") if layout.card.is_file() else None
    license = read_earlier(card).front.get("license")
    files = [{"split": name, "path": writer.data_files(name)} for name, count in counts.items() if count]
    split = SplitInfo("default", "", rows.schema, sum(counts.values()), 0)
    front = front_matter([split], {}, license)
    front["configs"] = [{"config_name": "default", "data_files": files}]
    features = writer.features(front.pop("dataset_info")[0]["features"], rows.schema, suffixes)
    return {**front, "dataset_info": {"features": features}} if features else front
