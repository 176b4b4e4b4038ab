"""Tests of a figure of speed."""

from __future__ import annotations

import pytest

timed = pytest.mark.flaky(reruns=2)
"""For a test that measures how fast something is, or becomes: it is looked at up to three times, on a machine that has
other work. The summary counts the reruns. What must hold in every run, however slow the machine, is never asked twice.
"""
