"""What failed in a run, for people: what each kind means, what the next run does, and examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl

from imagetask.errors import ErrorKind
from imagetask.models.base import Generation
from imagetask.models.tally import EXAMPLES
from imagetask.models.treatments import TREATMENTS
from imagetask.parts import finished_chunks, part_path
from imagetask.plan import Chunk
from imagetask.settings import RunSettings

from .parts_shown import caption

MEANINGS: Mapping[ErrorKind, str] = {
    "auth": "The backend does not take the key, or the account may not use this model.",
    "billing": "The account has no money left, or has reached its limit.",
    "account_blocked": "The account is blocked over content: talk to the provider before anything else.",
    "rate_limited": "The backend asked to come back much later.",
    "loading": "The model did not become ready.",
    "server": "The backend failed or could not be reached, also in further attempts.",
    "timeout": "No answer came in time; the call may have been charged.",
    "refused": "The backend does not draw this prompt: its content rules.",
    "blank_image": "A picture came whose pixels are all alike, twice.",
    "corrupt_image": "What came was no whole picture, also in further attempts.",
    "placeholder_image": "The same picture came for three or more different prompts: it stands for none of them.",
    "download": "The finished picture could not be fetched.",
    "config": "The backend does not know the model, or does not take a parameter.",
    "invalid_input": "The prompt is empty, too long, or otherwise not taken.",
    "task": "The task's own code raised an error; the picture is kept.",
    "storage": "The picture could not be written or read: the disk, or the store.",
    "unknown": "Something that has no name here; the message tells.",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One generation that failed. row_id: None where its chunk did not come to its end."""

    row_id: str | None
    prompt: str
    message: str


def next_run(kind: str) -> str:
    """What the next run does with rows that failed so."""
    treatment = TREATMENTS.get(cast(ErrorKind, kind), TREATMENTS["unknown"])
    return "asks again" if treatment.asked_again else "does not ask again, unless the prompt is changed"


def meaning(kind: str) -> str:
    return MEANINGS.get(cast(ErrorKind, kind), MEANINGS["unknown"])


def examples(
    settings: RunSettings, failed: Mapping[str, int], seen: Mapping[str, Sequence[Generation]]
) -> dict[str, list[Example]]:
    """Of each kind in `failed` (kind → how many) up to three rows that failed so.

    They come from the parts, which are read one after the other until there are enough; what no part tells, as after a
    stop, comes from `seen`, the failures of this run.
    """
    found: dict[str, list[Example]] = {kind: [] for kind in failed}
    for chunk, manifest in finished_chunks(settings.layout):
        wanted = [kind for kind in manifest["failed"] if len(found.get(kind, ())) < min(EXAMPLES, failed.get(kind, 0))]
        for kind, example in _of_part(settings, chunk, wanted) if wanted else ():
            if len(found[kind]) < EXAMPLES:
                found[kind].append(example)
        if all(len(found[kind]) >= min(EXAMPLES, count) for kind, count in failed.items()):
            break
    for kind in found:
        told = (Example(None, one.prompt, one.error_message or "") for one in seen.get(kind, ()))
        found[kind] = found[kind] or [*told][:EXAMPLES]
    return found


def _of_part(settings: RunSettings, chunk: Chunk, kinds: Sequence[str]) -> Iterator[tuple[str, Example]]:
    """Failed rows of one part, in their order; a group of generations is taken apart."""
    frame = pl.scan_parquet(part_path(settings.layout, chunk.digest))
    schema = frame.collect_schema()
    frame = frame.select("row_id", caption(settings, schema), "error_kind", "error_message")
    if isinstance(schema["error_kind"], pl.List):
        frame = frame.explode("error_kind", "error_message")
    rows = frame.filter(pl.col("error_kind").is_in(kinds)).group_by("error_kind", maintain_order=True).head(EXAMPLES)
    for kind, row_id, text, message in (
        rows.select("error_kind", "row_id", "caption", "error_message").collect().iter_rows()
    ):
        yield kind, Example(row_id, text, message or "")
