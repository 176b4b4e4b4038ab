"""What must become of a row by the faults that its calls get: FAILURES.md, written down a second time for the tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from imagetask.errors import ErrorKind
from tests.model_server import Call, Chaos, Fault
from tests.model_server.chaos import PASSING
from tests.model_server.faults import Wire

PATIENCE = 5.0
"""Seconds that a call may take in the tests with chaos."""

DOWNLOADS = 4
"""How often a result that was paid for is fetched in all, before another one is paid for."""

KINDS: Mapping[str, ErrorKind] = {
    "server_error": "server",
    "bad_gateway": "server",
    "unavailable": "server",
    "gateway_timeout": "server",
    "reset": "server",
    "hang": "timeout",
    "slow_body": "timeout",
    "refused": "refused",
    "content_policy": "refused",
    "filtered": "refused",
    "empty_data": "refused",
    "blank_image": "blank_image",
    "same_image": "placeholder_image",
    "truncated_image": "corrupt_image",
    "bad_base64": "corrupt_image",
    "html_page": "corrupt_image",
    "svg": "corrupt_image",
    "result_gone": "download",
    "prompt_too_long": "invalid_input",
    "invalid_prompt": "invalid_input",
    "teapot": "unknown",
}
RETRIES: Mapping[str, int] = {
    "server": 4,
    "timeout": 1,
    "blank_image": 1,
    "corrupt_image": 2,
    "download": 1,
    "unknown": 1,
}
ASKED_AGAIN = frozenset({"server", "timeout", "corrupt_image", "placeholder_image", "download", "unknown"})
"""Kinds that the next run asks again; the others it remembers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """kind: None for an image. attempts: as the row tells; calls: as the server counts, with those told to wait.
    timed_out: whether an answer was lost."""

    kind: ErrorKind | None
    attempts: int
    calls: int
    timed_out: bool


def outcome_of(fault_of: Callable[[int], Fault | None], wire: Wire) -> Outcome:
    """What a row comes to. fault_of: the fault of the call before which so many others came; None for none."""
    kinds: Counter[str] = Counter()
    calls = waits = 0
    while True:
        fault = fault_of(calls)
        calls += 1
        if fault is not None and fault.name in PASSING:
            waits += 1
            continue
        kind = kind_of(fault, wire)
        if kind is not None:
            kinds[kind] += 1
        if kind is None or kinds[kind] > RETRIES.get(kind, 0):
            return Outcome(kind, calls - waits, calls, "timeout" in kinds)


def kind_of(fault: Fault | None, wire: Wire) -> ErrorKind | None:
    """The kind of the failure that a fault is; None where an image comes all the same."""
    if fault is None or fault.name in PASSING or (fault.name == "slow_body" and fault.seconds < PATIENCE):
        return None
    if fault.name == "result_gone" and (fault.times < DOWNLOADS or wire == "huggingface"):
        return None
    if fault.name == "empty_data" and wire == "huggingface":
        return "corrupt_image"
    return KINDS[fault.name]


def outcome_by(chaos: Chaos, prompt: str, calls: Sequence[Call], wire: Wire) -> Outcome:
    """What a row must come to by the chaos of its prompt.

    calls: of its prompt, by the ledger. Where the client went away from a call that would have brought a picture, this
    machine was too busy for `PATIENCE`: that is a time-out.
    """

    def fault_of(number: int) -> Fault | None:
        fault = chaos.fault_for(prompt, number)
        passes = fault is not None and fault.name in PASSING
        whole = kind_of(fault, wire) is None and not passes
        return Fault("hang") if whole and number < len(calls) and not calls[number].delivered else fault

    return outcome_of(fault_of, wire)
