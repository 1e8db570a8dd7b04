"""An exported plan in a real Ray Serve: equal answers, by Triton's client too, and under load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from local_ray import found_by

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
    found = found_by(Path(__file__).parent / "serve_on_ray.py", tmp_path / "result.json", timeout_s=600)
    assert found == {
        "deployments": ["Ensemble"],
        "equal": True,
        "equal by Triton's client": True,
        "right of 200 under load": 200,
        "left": [],
    }
