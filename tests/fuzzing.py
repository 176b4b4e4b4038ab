"""How long the property tests look, and what they make tables of.

In CI each looks at the same few examples every time. IMAGETASK_FUZZ=50 (`make fuzz`) looks at 50 times as many, and
at new ones.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = int(os.environ.get("IMAGETASK_FUZZ", "1"))


def examples(number: int) -> settings:
    """So many examples in CI."""
    unfit = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    return settings(
        max_examples=number * TIMES, derandomize=TIMES == 1, database=None, deadline=None, suppress_health_check=unfit
    )


def sentence(error: Exception) -> str:
    """What an error tells: one line."""
    message = str(error)
    assert message
    assert "\n" not in message
    return message


AWKWARD = [
    "",
    " ",
    '"',
    '""',
    ",",
    "\n",
    "\r",
    "\r\n",
    "\t",
    "\0",
    "a,b",
    '5" tall',
    "a\r\nb",
    "\ufeff",
    "\ufeffa",
    "1",
    "1.0",
    "007",
    "1e5",
    "null",
    "NaN",
    "true",
    "#",
    "\\",
    '\\"',
    "\x1f",
    "\x7f",
    "\x85",
    "\u2028",
    "e\u0301" * 3,
    "\u202eright to left",
    "שלום عالم",
    "👩‍👩‍👧‍👦",
    "\U0010ffff",
    "\ufffe",
    "a\u0300\u0301\u0302" * 20,
]
"""Cells that break readers of tables."""

whole_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(AWKWARD)
"""Text without halves of surrogate pairs: what a file in UTF-8 can hold."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | whole_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
