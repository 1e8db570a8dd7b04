from __future__ import annotations

from typing import Any

import pytest
import torch

from esen_lab.ensemble import Ensemble
from esen_lab.errors import DeviceError
from esen_lab.export import Running


class Recorder:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def run(self, x: Any) -> tuple[Any, str]:
        return x * 2, "report"

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


def test_it_runs_reports_and_closes_everything(simple: Ensemble, planned: Any) -> None:
    log: list[str] = []
    started = Running.start(
        planned(simple), simple, "device", nursery=Recorder(log, "nursery"), start=lambda *a: Recorder(log, "lanes")
    )
    with started as ensemble:
        assert ensemble(torch.ones(1)).item() == 2
        assert ensemble.report == "report"
    assert log == ["lanes closed", "nursery closed"]


def test_a_failed_start_leaves_no_nursery(simple: Ensemble, planned: Any) -> None:
    log: list[str] = []

    def fails(*args: Any) -> Any:
        raise DeviceError("no")

    with pytest.raises(DeviceError):
        Running.start(planned(simple), simple, "device", nursery=Recorder(log, "nursery"), start=fails)
    assert log == ["nursery closed"]
