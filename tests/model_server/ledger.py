"""The ledger of a model server: every call, in the order in which they came."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from tests.model_server.faults import Wire


@dataclass(slots=True)
class Call:
    """One request for a picture, and what became of it.

    number: 1-based. time: seconds since the epoch at which it came. seconds: it took, None while it is in flight.
    model, prompt, seed, body: as asked (prompt "", seed None where there was none). authorization: the header, or None.
    fault: the name of the one it was answered with. status: of the answer, None where none was sent. sha256: of the
    bytes of the picture in the answer (the first, where several were asked for), None where it held no whole picture.
    delivered: the kernel took every byte of it before the client went; behind a URL that is when it is fetched.
    """

    number: int
    time: float
    path: str
    wire: Wire
    model: str
    prompt: str
    seed: object
    body: dict[str, Any]
    authorization: str | None
    fault: str | None = None
    status: int | None = None
    sha256: str | None = None
    delivered: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """calls: that came. delivered: pictures that arrived. rejected: calls over `admit` or `rate`."""

    calls: int
    delivered: int
    in_flight: int
    max_in_flight: int
    rejected: int


class CallReader(ABC):
    """What tests ask a model server, be it in this process or in another."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it listens: `http://127.0.0.1:PORT`, without a slash at its end."""

    @property
    @abstractmethod
    def calls(self) -> list[Call]:
        """All calls since the start or the last reset, in order."""

    @abstractmethod
    def counts(self) -> Counts:
        """How many calls came, and what became of them."""

    @abstractmethod
    def reset(self) -> None:
        """Empties the ledger and the counts. Faults stay, and pictures go on being new ones."""

    @property
    def openai_url(self) -> str:
        """The base URL that an OpenAI client takes."""
        return f"{self.url}/v1"

    def model_url(self, name: str) -> str:
        """The URL of a model by its name, on the Hugging Face wire."""
        return f"{self.url}/models/{name}"

    @property
    def prompts(self) -> list[str]:
        """The prompt of every call, in order."""
        return [call.prompt for call in self.calls]

    @property
    def delivered(self) -> dict[str, Call]:
        """Hash of a picture that arrived → its call."""
        return {call.sha256: call for call in self.calls if call.sha256 is not None and call.delivered}

    def calls_for(self, prompt: str) -> list[Call]:
        """The calls with exactly this prompt."""
        return [call for call in self.calls if call.prompt == prompt]

    def wait_for_calls(self, number: int, timeout: float = 30.0) -> None:
        """Returns when `number` calls have come. Raises `TimeoutError` where they have not after `timeout` seconds."""
        end = time.monotonic() + timeout
        while (came := self.counts().calls) < number:
            if time.monotonic() > end:
                raise TimeoutError(f"{came} of {number} calls came within {timeout} s")
            time.sleep(0.01)
