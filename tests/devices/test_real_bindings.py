"""The fake driver and NVIDIA's own packages, through the same test: real bindings over a stub of `libcuda`, no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import green_program
import pytest
from fake_cuda_driver import FakeCudaDriver, FakeNvrtc
from real_parts import BINDINGS, NVRTC, bindings, stub_libcuda, wheels

from esen_lab.common.children import child_environment
from esen_lab.devices.cuda.green_driver import GreenDriver
from esen_lab.devices.cuda.green_split import Grain

real = pytest.mark.slow  # fetching packages may take a minute, once
WAYS = [
    pytest.param({}, id="groups of one division"),
    pytest.param({"STUB_SPLITS": "chain"}, id="a chain"),
    pytest.param({"STUB_VERSION": "13010"}, id="a driver of CUDA 13.1"),
]


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    return stub_libcuda(tmp_path)


def put_through(stub: Path, driver: str, *folders: Path, **settings: str) -> dict[str, Any]:
    # These packages come first: whatever else of `cuda` is installed here is not what is tried.
    libraries = [library.parent for folder in folders for library in folder.glob("nvidia/**/libnvrtc.so.*")]
    path = [*map(str, folders), str(Path(green_program.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = child_environment({**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **settings})
    done = subprocess.run(
        [sys.executable, green_program.__file__, driver],
        env={**environment, "LD_LIBRARY_PATH": os.pathsep.join(map(str, [stub, *libraries]))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("refuses_sets", [False, True])
def test_the_fake_driver_does_what_the_real_bindings_do(refuses_sets: bool) -> None:
    cuda = FakeCudaDriver(refuses_sets=refuses_sets)
    found = green_program.put_through(
        lambda: GreenDriver(cuda, FakeNvrtc()), Grain(sms=8, groups=16), Grain(sms=2, groups=66)
    )
    assert found == green_program.EXPECTED
    assert cuda.alive == {}


@real
@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("version", BINDINGS, ids=[version or "newest" for version in BINDINGS])
def test_green_contexts_through_the_real_bindings(
    version: str, settings: dict[str, str], stub: Path, request: pytest.FixtureRequest
) -> None:
    cache = request.config.cache
    found = put_through(stub, "GreenDriver", bindings(cache, version), wheels(cache, NVRTC), **settings)
    assert found == {"grain": [8, 16], "left": 0, **green_program.EXPECTED}


@real
@pytest.mark.parametrize("settings", WAYS)
def test_green_contexts_through_cuda_core(settings: dict[str, str], stub: Path, request: pytest.FixtureRequest) -> None:
    cache = request.config.cache
    core = wheels(cache, "cuda-core")
    found = put_through(stub, "GreenCore", core, bindings(cache, ""), wheels(cache, NVRTC), **settings)
    assert found == {"grain": [8, 16], "left": 0, **green_program.EXPECTED}


@real
@pytest.mark.parametrize("call", ["cuGreenCtxCreate", "cuDevSmResourceSplitByCount", "cuGreenCtxStreamCreate"])
def test_a_call_that_the_driver_refuses_is_named_by_the_real_bindings_too(
    call: str, stub: Path, request: pytest.FixtureRequest
) -> None:
    cache = request.config.cache
    found = put_through(stub, "GreenDriver", bindings(cache, ""), wheels(cache, NVRTC), STUB_FAILS=call)
    assert call in found["problem"]
    assert "CUDA_ERROR_OUT_OF_MEMORY (2)" in found["problem"]
    assert found["left"] == 0
