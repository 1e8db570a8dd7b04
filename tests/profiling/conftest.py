"""Fixtures of the profiling tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from profiling_fakes import FakeDevice, FakeEnsemble, FakeNursery, FakeSubModel

from esen_lab.profiling.store import ProfileStore


@pytest.fixture
def ensemble() -> FakeEnsemble:
    return FakeEnsemble(tuple(FakeSubModel(name=name, fingerprint=f"f-{name}") for name in ("a", "b", "c")))


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def nursery() -> Iterator[FakeNursery]:
    nursery = FakeNursery()
    yield nursery
    assert all(worker.closed for worker in nursery.workers), "every worker is closed"


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "store" / "profiles.sqlite3")
