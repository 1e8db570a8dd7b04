"""A plan as an application for Ray Serve: what is written. Ray itself is not needed for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import yaml
from models import mlp

from esen_lab import Lab
from esen_lab.errors import UsageError
from esen_lab.export import open_bundle

X = torch.linspace(-1, 1, 32).reshape(4, 8)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    with Lab("cpu") as lab:
        for name in "ab":
            lab.register(name, mlp(seed=ord(name)), example=X)
        lab.profile(budget_s=0.05).result()
        lab.search()
        lab.export(tmp_path / "digits", form="ray-serve")
    return tmp_path / "digits"


def test_the_folder_holds_a_program_its_yaml_and_the_bundle(exported: Path) -> None:
    program = (exported / "app.py").read_text()
    ast.parse(program)
    assert "NAME = 'digits'" in program
    told = yaml.safe_load((exported / "serve.yaml").read_text())
    assert told["http_options"]["host"] == "127.0.0.1"
    (application,) = told["applications"]
    assert application["import_path"] == "app:app"
    (deployment,) = application["deployments"]
    assert deployment["autoscaling_config"]["min_replicas"] == 1
    plan = open_bundle(exported / "bundle").plan
    assert deployment["ray_actor_options"]["num_cpus"] == plan.units


def test_it_replaces_itself_and_nothing_else(exported: Path, tmp_path: Path) -> None:
    with Lab("cpu") as lab:
        lab.register("a", mlp(), example=X)
        lab.profile(budget_s=0.05).result()
        lab.search()
        lab.export(exported, form="ray-serve")
        other = tmp_path / "other"
        other.mkdir()
        (other / "mine.txt").write_text("mine")
        with pytest.raises(UsageError, match="something else"):
            lab.export(other, form="ray-serve")
    assert (other / "mine.txt").exists()


def test_its_program_leaves_to_the_replica_what_is_a_request(exported: Path) -> None:
    program = (exported / "app.py").read_text()
    assert "self.replica.takes(request.method, request.url.path)" in program
    assert "self.replica.asked(await request.body(), request.headers)" in program
    assert "self.replica.about(request.url.path, request.method)" in program
