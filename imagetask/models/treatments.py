"""What each kind of failure gets: the one table that decides, for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from imagetask.errors import ErrorKind

LONGEST_WAIT = 15 * 60.0
"""Told to wait longer than this, or loading for longer than this, a run stops (seconds)."""

DOWNLOADS = 3
"""How often a result that was paid for is fetched again before one new generation is made."""

FIRST_ROWS = 5
"""So many first rows that all fail in one way (see `Treatment.stops_at_start`) stop the run."""

WINDOW, LEAST = 100, 50
"""The shares of failed and of refused rows are those of 100 rows that started one after another, from 50 on."""

NO_SUCCESS = 10 * 60.0
"""So long without an image, while calls fail, stops the run (seconds). Waiting as the backend told does not count."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """retries: further attempts for this image. waits: ask again when told to, at no attempt, all callers slowed.
    stops: no new calls for the run. stops_at_start: where the first rows all fail so. asked_again: the next run
    asks for the image again; else the failure is remembered like an image. new_seed: the retry takes another seed.
    maybe_billed: the lost answer may have been charged. free: no image was made, so none was paid for.
    """

    retries: int = 0
    waits: bool = False
    stops: bool = False
    stops_at_start: bool = True
    asked_again: bool = True
    new_seed: bool = False
    maybe_billed: bool = False
    free: bool = False


TREATMENTS: Mapping[ErrorKind, Treatment] = {
    "auth": Treatment(stops=True, free=True),
    "billing": Treatment(stops=True, free=True),
    "account_blocked": Treatment(stops=True, free=True),
    "rate_limited": Treatment(waits=True, free=True),
    "loading": Treatment(waits=True, free=True),
    "server": Treatment(retries=4),
    "timeout": Treatment(retries=1, maybe_billed=True),
    "refused": Treatment(stops_at_start=False, asked_again=False, free=True),
    "blank_image": Treatment(retries=1, new_seed=True, asked_again=False),
    "corrupt_image": Treatment(retries=2),
    "placeholder_image": Treatment(),
    "download": Treatment(retries=1),
    "config": Treatment(stops=True, free=True),
    "invalid_input": Treatment(asked_again=False, free=True),
    "task": Treatment(),
    "storage": Treatment(stops=True),
    "unknown": Treatment(retries=1),
}
