"""What tests of the service share: a model that needs no lanes, and a server of a real lab."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from models import mlp
from served_doubles import X

from esen_lab import Lab
from esen_lab.serving.server import Server
from esen_lab.serving.signature import ModelInfo, describe


@pytest.fixture(scope="module", autouse=True)
def _no_loop_of_gevent() -> Iterator[None]:
    """Triton's client leaves the loop that gevent waits with open, until the process ends."""
    yield
    gevent = sys.modules.get("gevent")
    if gevent is not None:
        gevent.get_hub().destroy(destroy_loop=True)


@pytest.fixture
def model() -> ModelInfo:
    """One FP32 input of 8 numbers a row, one output of 3."""
    return describe("ensemble", torch.zeros(4, 8), torch.zeros(4, 3), members=("a", "b"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path_factory.mktemp("store") / "profiles.sqlite") as found:
        found.register("a", mlp(seed=1), example=X)
        found.register("b", mlp(seed=2), example=X)
        yield found


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[Server]:
    found = lab.serve(0, max_body_bytes=1 << 20)
    assert found is not None
    yield found
    found.close()
