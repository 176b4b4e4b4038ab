"""What goes wrong on purpose: refusals, lost connections and slowness, for the requests that match."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal

Moment = Literal["request", "answer", "body"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request. status: it is refused with this. drop: when its connection is closed."""

    status: int | None = None
    message: str = ""
    retry_after: float | None = None
    drop: Moment | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class _Rule:
    pattern: re.Pattern[str]
    fault: Fault
    times: int | None
    after: int


class Faults:
    """Rules that are set before and while a server runs.

    pattern: a regular expression that is searched in `"METHOD /path"`. times: of the requests that match, how many
    it hits; all where None. after: from which on, of those that match, 0 for the first. Where several rules could hit,
    the first that was set does.
    """

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()

    def fail(
        self,
        pattern: str,
        *,
        status: int = 500,
        times: int | None = 1,
        after: int = 0,
        message: str = "a fault of the tests",
        retry_after: float | None = None,
    ) -> None:
        """Refuses requests, and does nothing of what they ask. retry_after: seconds."""
        self._add(pattern, Fault(status=status, message=message, retry_after=retry_after), times, after)

    def drop(self, pattern: str, *, at: Moment = "request", times: int | None = 1, after: int = 0) -> None:
        """Closes the connection. at: `request` when half of the request's body was read and nothing was done,
        `answer` when all was done and nothing answered, `body` after half of the answer's body."""
        self._add(pattern, Fault(drop=at), times, after)

    def slow(self, pattern: str, seconds: float, *, times: int | None = None, after: int = 0) -> None:
        """Waits before a request is carried out."""
        self._add(pattern, Fault(seconds=seconds), times, after)

    def recover(self) -> None:
        """Takes all faults back."""
        with self._lock:
            self._rules.clear()

    def fault_of(self, method: str, path: str) -> Fault:
        """What happens to this request, which is counted."""
        hit: _Rule | None = None
        with self._lock:
            for rule in self._rules:
                if not rule.pattern.search(f"{method} {path}"):
                    continue
                if rule.after > 0:
                    rule.after -= 1
                elif hit is None and rule.times != 0:
                    hit = rule
            if hit is not None and hit.times is not None:
                hit.times -= 1
        return hit.fault if hit else Fault()

    def _add(self, pattern: str, fault: Fault, times: int | None, after: int) -> None:
        with self._lock:
            self._rules.append(_Rule(re.compile(pattern), fault, times, after))
