"""What tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model_server import ModelServer


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A model server of this test's own, fast and in good health."""
    with ModelServer() as server:
        yield server
