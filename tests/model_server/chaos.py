"""Faults by chance: the same for the same seed, prompt and number of the call, in whatever order calls come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.model_server.faults import Fault, as_fault

PASSING = frozenset({"rate_limited", "rate_limited_text", "loading", "scaled_to_zero"})
"""Faults that ask to wait: they pass, so that no prompt is told so for ever."""

MIX: tuple[Fault, ...] = (
    Fault("server_error"),
    Fault("bad_gateway"),
    Fault("unavailable"),
    Fault("gateway_timeout"),
    Fault("reset"),
    Fault("reset", after_bytes=200),
    Fault("hang"),
    Fault("hang", after_bytes=200),
    Fault("slow_body", seconds=0.2),
    Fault("slow_body", seconds=60.0),
    Fault("refused"),
    Fault("content_policy"),
    Fault("filtered"),
    Fault("filtered", flavour="nsfw"),
    Fault("filtered", flavour="finish_reason"),
    Fault("empty_data"),
    Fault("blank_image"),
    Fault("same_image"),
    Fault("truncated_image"),
    Fault("bad_base64"),
    Fault("html_page"),
    Fault("svg"),
    Fault("result_gone", times=1),
    Fault("result_gone", times=4),
    Fault("prompt_too_long"),
    Fault("invalid_prompt"),
    Fault("teapot"),
    Fault("rate_limited"),
    Fault("rate_limited_text"),
    Fault("loading", retry_after=0.05),
)
"""Every fault that fails a row or makes it wait; none that stops a run."""


@dataclass(frozen=True, slots=True)
class Chaos:
    """Which fault each call of a prompt gets.

    rate: share of the calls that fail (0 to 1). lasting: share of the prompts whose first call fails that fail in the
    same way for ever. faults: each as likely as the others.
    """

    rate: float
    seed: int = 0
    lasting: float = 0.0
    faults: tuple[Fault, ...] = MIX

    def __post_init__(self) -> None:
        if not self.faults or not (0 <= self.rate <= 1 and 0 <= self.lasting <= 1):
            raise ValueError("chaos needs faults, and shares from 0 to 1")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Chaos:
        """From JSON: the fields by name, the faults as `as_fault` takes them."""
        faults: Iterable[Any] = settings.get("faults", MIX)
        return cls(**{**settings, "faults": tuple(map(as_fault, faults))})

    def fault_for(self, prompt: str, number: int) -> Fault | None:
        """The fault of the call of this prompt before which `number` others came; None for none."""
        first = self._by_chance(prompt, 0)
        lasts = first is not None and first.name not in PASSING and self._draw("lasting", prompt, 0) < self.lasting
        return first if lasts else self._by_chance(prompt, number)

    def _by_chance(self, prompt: str, number: int) -> Fault | None:
        if self._draw("fails", prompt, number) >= self.rate:
            return None
        return self.faults[int(self._draw("fault", prompt, number) * len(self.faults))]

    def _draw(self, what: str, prompt: str, number: int) -> float:
        """A number from 0 to below 1."""
        text = f"{self.seed} {what} {number} {prompt}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48
