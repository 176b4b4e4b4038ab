"""Tests with a bound on time."""

from __future__ import annotations

import pytest

timed = pytest.mark.flaky(reruns=2)
"""For a test whose bound is the machine's as much as the code's: it is looked at up to three times.

The summary counts the reruns. For figures of time alone: what must hold in every run, however slow the machine, is
never asked twice.
"""
