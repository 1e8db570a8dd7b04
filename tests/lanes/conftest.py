"""One fork server for the workers' tests: importing torch in it costs two seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esen_lab.devices import CpuDevice
from esen_lab.lanes import ForkServer, ProcessWorker


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    fork_server = ForkServer()
    fork_server.worker(CpuDevice().place([1])[0]).close()
    yield fork_server
    fork_server.close()


@pytest.fixture
def worker(fork_server: ForkServer) -> Iterator[ProcessWorker]:
    worker = fork_server.worker(CpuDevice().place([1])[0], label="lane 1")
    yield worker
    worker.close()
