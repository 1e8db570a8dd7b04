"""The contract of nodes, kept by a cluster of Ray: two raylets on this machine, killed as they would die."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import contract
import pytest
from local_ray import found_by

pytestmark = [
    # Two raylets start, each with a store and agents, and thirteen plans are loaded on them: minutes on two cores.
    pytest.mark.slow,
    pytest.mark.timing,  # Ray's own limits are in seconds: nothing runs beside it
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: esen_lab[ray]"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What came of each check: "" where it held."""
    result = tmp_path_factory.mktemp("ray") / "result.json"
    return found_by(Path(__file__).parent / "on_ray.py", result, timeout_s=1200)  # type: ignore[no-any-return]


@pytest.mark.parametrize("check", [*(check.__name__ for check in contract.CHECKS), "nothing_is_left_behind"])
def test_ray_keeps_the_contract(found: Mapping[str, str], check: str) -> None:
    assert found.get(check, "it was not made") == ""
