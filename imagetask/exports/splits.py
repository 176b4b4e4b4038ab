"""Rows → splits by a hash of their `row_id`: all generations of a row fall in one split, and stay there."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from imagetask.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_]+")
_EXAMPLE = "train=0.9,validation=0.05,test=0.05"


def read_split(text: str) -> dict[str, float]:
    """`train=0.9,test=0.1` → the share of each split, in this order. Raises `UsageError`."""
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, share = (word.strip() for word in item.partition("="))
        if name in shares:
            raise UsageError(f"--split {text}: {name!r} is there twice")
        try:
            shares[name] = float(share)
        except ValueError as error:
            raise UsageError(f"--split {text}: expected NAME=SHARE, …, such as {_EXAMPLE}") from error
    check_split(shares)
    return shares


def check_split(shares: Mapping[str, float]) -> None:
    """Raises `UsageError` for a name that `datasets` does not take, or shares that are not positive or not 1 in all."""
    told = ",".join(f"{name}={share:g}" for name, share in shares.items())
    for name, share in shares.items():
        if not _NAME.fullmatch(name) or name.lower() == "all":
            raise UsageError(f"split {name!r}: expected a name of letters, digits and _, and not 'all'")
        if not 0 < share <= 1:
            raise UsageError(f"split {name}={share:g}: expected a share above 0 and up to 1")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError(f"splits {told}: they sum to {sum(shares.values()):g}, expected 1, as in {_EXAMPLE}")


def splits_of(row_ids: Iterable[str], shares: Mapping[str, float]) -> npt.NDArray[np.intp]:
    """For each row the number of its split, in the order of `shares`.

    A row keeps its split whatever other rows there are, as long as the shares stay.
    """
    bounds = list(accumulate(shares.values()))[:-1]
    return np.array([bisect(bounds, _place(row_id)) for row_id in row_ids], dtype=np.intp)


def _place(row_id: str) -> float:
    """Where a row stands in [0, 1): evenly spread, and the same for ever."""
    return int.from_bytes(blake2b(row_id.encode(), digest_size=6).digest(), "big") / 2**48
