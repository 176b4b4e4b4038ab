"""How a model server behaves: how fast it is, how many calls it lets in, and what goes wrong for whom."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from tests.model_server.chaos import Chaos
from tests.model_server.faults import Fault, as_fault
from tests.model_server.pictures import ImageFormat

Match = str | Callable[[str], bool] | None
Latency = float | Callable[[str], float]
Answers = Literal["auto", "b64_json", "url"]


class Rule:
    """Faults for the calls whose prompt matches, in their order; for each prompt, or `shared` by all that match."""

    def __init__(self, match: Match, faults: Iterable[Fault], then: Fault, shared: bool) -> None:
        self._match = match
        self._faults = tuple(faults)
        self._then = then
        self._shared = shared
        self._seen: Counter[str] = Counter()

    def next_for(self, prompt: str) -> Fault | None:
        """The fault of this call, which is counted; None where the rule lets it through."""
        if isinstance(self._match, str) and self._match not in prompt:
            return None
        if callable(self._match) and not self._match(prompt):
            return None
        prompt = "" if self._shared else prompt
        number = self._seen[prompt]
        self._seen[prompt] += 1
        fault = self._faults[number] if number < len(self._faults) else self._then
        return None if fault.name == "ok" else fault


class Behaviour:
    """All that can be set on a model server, before and while it runs.

    latency: seconds a picture takes, or a function of its prompt. format: of pictures, where the call does not ask.
    answers: how the OpenAI wire gives pictures; "auto" as the call asks, else base64. require_key: 401 for any other.
    rejects: names in the body (or its parameters) that are answered with 400, unknown parameter.
    repeatable: equal calls (model, prompt, seed) get equal pictures; else each call gets one of its own.
    """

    def __init__(
        self,
        *,
        latency: Latency = 0.0,
        format: ImageFormat = "png",
        answers: Answers = "auto",
        require_key: str | None = None,
        rejects: Iterable[str] = (),
    ) -> None:
        self.latency = latency
        self.format = format
        self.answers = answers
        self.require_key = require_key
        self.rejects = frozenset(rejects)
        self.repeatable = False
        self._rules: list[Rule] = []
        self.chaos(None)
        self._at_once: int | None = None
        self._per_second: float | None = None
        self._retry_after: float | str = ""
        self._recent: deque[float] = deque()

    def fail(
        self, match: Match, *faults: Fault | str, then: Fault | str = "ok", forever: bool = False, shared: bool = False
    ) -> None:
        """Makes the calls whose prompt has `match` in it (or for which it is true; None: all) fail.

        Of each prompt the first such call gets the first fault, the second the second, …; after the last one `then`,
        or the last again where `forever`. With `shared` calls are counted over all prompts that match. Where several
        rules match, the first that was set and has a fault left counts.
        """
        given = [as_fault(fault) for fault in faults]
        self._rules.append(Rule(match, given, given[-1] if forever else as_fault(then), shared))

    def recover(self) -> None:
        """Takes all faults back."""
        self._rules = []
        self.chaos(None)

    def chaos(self, chaos: Chaos | None) -> None:
        """Makes calls fail by chance, but for those that a rule of `fail` is for; None: no more."""
        self._chaos = chaos
        self._seen: Counter[str] = Counter()

    def admit(self, at_once: int | None, retry_after: float | str = "") -> None:
        """Lets at most `at_once` calls in at a time; the others get 429, with Retry-After (s) where it is given."""
        self._at_once, self._retry_after = at_once, retry_after

    def rate(self, per_second: float | None, retry_after: float | str = "") -> None:
        """Lets at most `per_second` calls in within any second; the others get 429."""
        self._per_second, self._retry_after = per_second, retry_after

    def behave(self, settings: Mapping[str, Any]) -> None:
        """Sets what a JSON object says: attributes by name, `fail`, `admit`, `rate` and `chaos` by their arguments,
        `recover`.

        Example: `{"latency": 0.1, "admit": {"at_once": 8}, "fail": [{"match": "cat", "faults": ["reset"]}]}`.
        """
        if settings.get("recover"):
            self.recover()
        for name in ("latency", "format", "answers", "require_key", "repeatable"):
            if name in settings:
                setattr(self, name, settings[name])
        if "rejects" in settings:
            self.rejects = frozenset(settings["rejects"])
        for name in ("admit", "rate"):
            if name in settings:
                getattr(self, name)(**settings[name])
        if "chaos" in settings:
            self.chaos(Chaos.of(settings["chaos"]) if settings["chaos"] else None)
        for rule in settings.get("fail", ()):
            options = {name: rule[name] for name in ("forever", "shared") if name in rule}
            then = as_fault(rule.get("then", "ok"))
            self.fail(rule["match"], *map(as_fault, rule["faults"]), then=then, **options)

    def fault_for(self, prompt: str, key: str, body: Mapping[str, Any]) -> Fault | None:
        """What goes wrong with a call that was let in; None for nothing. Calls that rules are for are counted."""
        if self.require_key is not None and key != self.require_key:
            return Fault("unauthorized")
        parameters = body.get("parameters")
        sent = {*body, *(parameters if isinstance(parameters, dict) else ())}
        if unknown := sorted(sent & self.rejects):
            return Fault("unknown_parameter", param=unknown[0])
        ruled = next((fault for rule in self._rules if (fault := rule.next_for(prompt))), None)
        return ruled or self._chaotic(prompt)

    def _chaotic(self, prompt: str) -> Fault | None:
        if self._chaos is None:
            return None
        number = self._seen[prompt]
        self._seen[prompt] += 1
        return self._chaos.fault_for(prompt, number)

    def rejection(self, in_flight: int) -> Fault | None:
        """A 429 where another call beside `in_flight`, or beside those of the last second, is one too many."""
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        too_many = self._at_once is not None and in_flight >= self._at_once
        too_fast = self._per_second is not None and len(self._recent) >= self._per_second
        if too_many or too_fast:
            return Fault("rate_limited", retry_after=self._retry_after)
        self._recent.append(now)
        return None

    def latency_for(self, prompt: str) -> float:
        """Seconds that a picture of this prompt takes."""
        return self.latency(prompt) if callable(self.latency) else self.latency
