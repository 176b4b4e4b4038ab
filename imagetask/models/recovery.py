"""What a failed call gets: wait, another attempt, a failed row, or the end of the run; by the table of treatments."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from imagetask.errors import GenerationError, RunStopped, StopReason
from imagetask.models import calling
from imagetask.models.attempts import Ask, History
from imagetask.models.breakers import Breakers
from imagetask.models.calling import LONGEST_PAUSE, wait_of
from imagetask.models.pacing import Pace
from imagetask.models.tally import Tally
from imagetask.models.treatments import LONGEST_WAIT, TREATMENTS
from imagetask.redact import one_line

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovery:
    """Of the calls of one model in a run in this process; lives on one event loop.

    stop: stops the run, and gives the error to raise.
    """

    pace: Pace
    tally: Tally
    breakers: Breakers
    stop: Callable[[StopReason, str], RunStopped]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _loading_since: float | None = None

    def note_image(self) -> None:
        """An image came."""
        self._loading_since = None
        self.breakers.note_image()

    async def treat(self, error: GenerationError, ask: Ask, history: History, *, reached: bool) -> bool:
        """Does what the table says; True where the call is to be made again. Raises `RunStopped`.

        reached: the backend has answered before.
        """
        treatment = TREATMENTS[error.kind]
        history.info = error.info
        if treatment.stops or error.fatal:
            raise self.stop(error.kind, error.message)
        if error.info.get("refused_connection") and not reached:
            raise self.stop(error.kind, f"the server cannot be reached: {error.message}")
        if treatment.waits:
            history.attempts -= 1
            await self._wait(error, history)
            return True
        self.breakers.note_trouble(error)
        history.kinds[error.kind] += 1
        history.maybe_billed |= treatment.maybe_billed
        if history.kinds[error.kind] > treatment.retries:
            return False
        if treatment.new_seed:
            history.seed = ask.seed_again(history.kinds[error.kind])
        pause = calling.RETRY_DELAY * 2 ** (history.kinds[error.kind] - 1) * random.uniform(0.75, 1.25)
        logger.info("attempt %d in %.1f s: %s; prompt: %s", history.attempts + 1, pause, error, short(ask))
        await self.sleep(pause)
        return True

    async def _wait(self, error: GenerationError, history: History) -> None:
        pause = self._loading_pause(error) if error.kind == "loading" else self._rejected_pause(error, history)
        self.tally.waiting_for, self.tally.waiting_until = error.kind, time.monotonic() + pause
        logger.info("waiting %.1f s, then asking again: %s", pause, error)
        await self.sleep(pause)

    def _loading_pause(self, error: GenerationError) -> float:
        self._loading_since = self._loading_since or time.monotonic()
        if time.monotonic() - self._loading_since > LONGEST_WAIT:
            raise self.stop(error.kind, f"the model was still loading after {LONGEST_WAIT / 60:.0f} minutes")
        pause = min(error.retry_after or 5.0, LONGEST_PAUSE)
        self.breakers.note_waiting(pause)
        self.pace.pause(pause)
        return pause

    def _rejected_pause(self, error: GenerationError, history: History) -> float:
        pause = wait_of(error, history.waits)
        if (error.retry_after or 0.0) > LONGEST_WAIT:
            back = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time.time() + pause))
            raise self.stop(error.kind, f"the backend asks to come back at {back}: {error.message}")
        if (error.retry_after or 0.0) > LONGEST_PAUSE:
            self.breakers.note_waiting(pause)
        self.breakers.note_trouble(error)
        return pause

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but not past a stop."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return


def short(ask: Ask) -> str:
    """The beginning of the prompt, for the log."""
    return one_line(ask.request.prompt, longest=80)
