"""A reference station for each test, and the client in Python."""

from __future__ import annotations

import pytest

from .bench import Bench, load_client


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def ins1():
    return load_client()
