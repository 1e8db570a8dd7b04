"""Fixtures of the profiling tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from profiling_fakes import FakeDevice, FakeEnsemble, FakeForkServer, FakeSubModel

from esen_lab.profiler.store import ProfileStore


@pytest.fixture
def ensemble() -> FakeEnsemble:
    return FakeEnsemble(tuple(FakeSubModel(name=name, fingerprint=f"f-{name}") for name in ("a", "b", "c")))


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def fork_server() -> Iterator[FakeForkServer]:
    fork_server = FakeForkServer()
    yield fork_server
    assert all(worker.closed for worker in fork_server.workers), "every worker is closed"


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "store" / "profiles.sqlite3")
