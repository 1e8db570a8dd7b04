"""An exported folder as a server has it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import CountsCalls
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.planner.plan import Lane
from esen_lab.serving.exported import ExportedFolder
from esen_lab.serving.served import PLAIN, TRIAL

X = torch.ones(2, 3)


def exported(tmp_path: Path, network: nn.Module) -> Path:
    with Lab(device="cpu", store=tmp_path / "store.sqlite") as lab:
        lab.register("a", network, X)
        lab.plan = Plan(lanes=(Lane(units=1, members=("a",)),), units=1)
        folder: Path = lab.export(tmp_path / "plan.py").folder
    return folder


def test_what_prepares_a_server_leaves_no_trace_in_members_that_keep_state(tmp_path: Path) -> None:
    served = ExportedFolder.open(exported(tmp_path, CountsCalls()), device="cpu")
    try:
        for _ in range(3):
            served.run(X, TRIAL)
        assert [served.run(X, PLAIN)[0].tolist() for _ in range(2)] == [X.tolist(), (X + 1).tolist()]
    finally:
        served.close()


def test_a_member_that_answers_otherwise_than_where_it_was_exported_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = exported(tmp_path, nn.Linear(3, 3))
    served = ExportedFolder.open(folder, device="cpu")
    (member,) = served.ensemble.submodels
    served.ensemble = served.ensemble.with_submodel(replace(member, answer=member.answer + 1))
    try:
        with caplog.at_level(logging.WARNING, "esen_lab.serving"):
            served.mend()
        assert "otherwise than where it was exported" in caplog.text
    finally:
        served.close()
