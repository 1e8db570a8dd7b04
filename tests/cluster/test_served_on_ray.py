"""An exported plan in a real Ray Serve: equal answers, by Triton's client too, and under load."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = [
    # A raylet, Serve's controller and proxy and a replica with its lanes start: a minute or two on two cores.
    pytest.mark.slow,
    pytest.mark.timing,  # Ray's own limits are in seconds: nothing runs beside it
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None or importlib.util.find_spec("fastapi") is None,
        reason="Ray Serve is not installed: esen_lab[ray]",
    ),
]


def test_an_export_answers_in_ray_serve(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    paths = [str(HERE.parents[1]), str(HERE.parent / "doubles"), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, str(HERE / "serve_on_ray.py"), str(result)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.exists(), f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    assert json.loads(result.read_text()) == {
        "deployments": ["Ensemble"],
        "equal": True,
        "equal by Triton's client": True,
        "right of 200 under load": 200,
        "left": [],
    }
