"""The contract of nodes, kept by a cluster of Ray: two raylets on this machine, killed as they would die."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import contract
import pytest

HERE = Path(__file__).parent
DOUBLES = HERE.parent / "doubles"

pytestmark = [
    # Two raylets start, each with a store and agents, and eight plans are loaded on them: minutes on two cores.
    pytest.mark.slow,
    pytest.mark.timing,  # Ray's own limits are in seconds: nothing runs beside it
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: esen_lab[ray]"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What came of each check: "" where it held. In a process of its own, since Ray stays in the one that had it."""
    result = tmp_path_factory.mktemp("ray") / "result.json"
    paths = [str(HERE.parents[1]), str(DOUBLES), str(HERE), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, str(HERE / "on_ray.py"), str(result)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.exists(), f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return json.loads(result.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("check", [*(check.__name__ for check in contract.CHECKS), "nothing_is_left_behind"])
def test_ray_keeps_the_contract(found: Mapping[str, str], check: str) -> None:
    assert found.get(check, "it was not made") == ""
