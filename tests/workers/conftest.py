"""One nursery for the workers' tests: importing torch in it costs two seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esen_lab.devices import CpuDevice
from esen_lab.workers import Nursery, ProcessWorker


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    nursery.worker(CpuDevice().place([1])[0]).close()
    yield nursery
    nursery.close()


@pytest.fixture
def worker(nursery: Nursery) -> Iterator[ProcessWorker]:
    worker = nursery.worker(CpuDevice().place([1])[0], label="lane 1")
    yield worker
    worker.close()
