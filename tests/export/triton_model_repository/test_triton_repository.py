"""A repository without Triton: its programs are run with a double of what Triton gives them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import triton_python_backend_utils as triton
from torch import nn

from esen_lab import Lab, Plan
from esen_lab.errors import StoreError, UsageError
from esen_lab.planner.plan import Lane

X = torch.randn(4, 8)


@pytest.fixture
def lab() -> Iterator[Lab]:
    torch.manual_seed(1)
    with Lab(device="cpu", combine="softmax-mean") as made:
        for name, width in (("a", 16), ("b", 24), ("c", 16)):
            made.register(name, nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 5)), X)
        made.plan = plan_of(made, ("a", "b"), ("c",))
        yield made


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Models of Triton own their process, and set its threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def plan_of(lab: Lab, *lanes: tuple[str, ...], **more: Any) -> Plan:
    return Plan(
        lanes=tuple(Lane(units=1, members=members) for members in lanes),
        units=max(len(lanes), 2),
        **{"device": {"kind": "cpu"}, "fingerprints": lab.ensemble.fingerprints, **more},
    )


class Served:
    """What Triton makes of a repository: every model, asked one after another."""

    def __init__(self, folder: Path, name: str, lanes: int) -> None:
        self.models = [self._model(folder, f"{name}_lane_{number}") for number in range(1, lanes + 1)]
        self.combine = self._model(folder, f"{name}_combine")

    @staticmethod
    def _model(folder: Path, model: str) -> Any:
        program = folder / "models" / model / "1" / "model.py"
        space: dict[str, Any] = {"__file__": str(program)}
        exec(compile(program.read_text(), str(program), "exec"), space)
        made = space["TritonPythonModel"]()
        made.initialize({})
        return made

    def ask(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        known = dict(inputs)
        for model in (*self.models, self.combine):
            (response,) = model.execute([triton.Request(known)])
            if response.error is not None:
                raise response.error
            known |= {tensor.name: tensor.value for tensor in response.tensors}
        return known

    def close(self) -> None:
        for model in self.models:
            model.finalize()


def test_its_models_answer_as_the_lab_does(lab: Lab, tmp_path: Path) -> None:
    made = lab.export(tmp_path / "repo", form="triton")
    assert made.models == ("repo_lane_1", "repo_lane_2", "repo_combine", "repo")
    with closing(Served(tmp_path / "repo", "repo", 2)) as served:
        assert torch.equal(served.ask(INPUT=X)["OUTPUT"], lab.run(X))
        other = torch.randn(9, 8)
        assert torch.equal(served.ask(INPUT=other)["OUTPUT"], lab.run(other))


def test_two_requests_at_once_have_answers_of_their_own(lab: Lab, tmp_path: Path) -> None:
    lab.export(tmp_path / "repo", form="triton")
    with closing(Served(tmp_path / "repo", "repo", 2)) as served:
        one, other = served.models[0].execute([triton.Request({"INPUT": X}), triton.Request({"INPUT": -X})])
        assert not torch.equal(one.tensors[0].value, other.tensors[0].value)


def test_what_a_request_lacks_or_a_model_refuses_is_said_and_the_next_one_is_answered(lab: Lab, tmp_path: Path) -> None:
    lab.export(tmp_path / "repo", form="triton")
    with closing(Served(tmp_path / "repo", "repo", 2)) as served:
        with pytest.raises(triton.TritonError, match="none called INPUT"):
            served.ask(x=X)
        with pytest.raises(triton.TritonError, match="ub-model 'a'"):
            served.ask(INPUT=torch.randn(4, 9))
        assert served.ask(INPUT=X)["OUTPUT"].shape == (4, 5)


def test_a_bundle_that_was_changed_is_not_run(lab: Lab, tmp_path: Path) -> None:
    lab.export(tmp_path / "repo", form="triton")
    plan = tmp_path / "repo" / "bundle" / "plan.json"
    plan.write_text(plan.read_text().replace("by hand", "by others"))
    with pytest.raises(StoreError, match=r"plan\.json has changed"):
        Served(tmp_path / "repo", "repo", 2)


def test_the_script_gives_each_lane_its_cores_and_listens_on_this_machine_only(lab: Lab, tmp_path: Path) -> None:
    made = lab.export(tmp_path / "repo", form="triton")
    script = made.folder / "start.sh"
    server = tmp_path / "server"
    server.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    told = subprocess.run(
        [script, "--http-port=1"],
        env={"TRITONSERVER": str(server), "LANE_2_CORES": "5-6", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    first = lab.device.place([1, 1])[0].cores[0][0]
    assert f"--host-policy=lane_1,cpu-cores={first}-{first}" in told
    assert "--host-policy=lane_2,cpu-cores=5-6" in told
    assert told[-1] == "--http-port=1"
    assert [word for word in told if word.endswith("-address=127.0.0.1")] == told[1:4]


def test_the_script_is_started_from_anywhere_with_a_server_that_is_named_from_there(lab: Lab, tmp_path: Path) -> None:
    made = lab.export(tmp_path / "repo", form="triton")
    server = tmp_path / "server"
    server.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    (tmp_path / "elsewhere" / "repo").mkdir(parents=True)
    told = subprocess.run(
        ["bash", "repo/start.sh"],
        env={"TRITONSERVER": "./server", "CDPATH": str(tmp_path / "elsewhere"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert told[0] == f"--model-repository={made.folder / 'models'}"


def test_a_path_that_triton_does_not_serve_from_is_said_at_the_export_and_at_the_start(
    lab: Lab, tmp_path: Path
) -> None:
    made = lab.export(tmp_path / "my repo", form="triton")
    assert any("move the folder before" in note for note in made.notes)
    started = subprocess.run(
        [made.folder / "start.sh"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert started.returncode == 2
    assert "move this folder" in started.stderr


def test_an_export_replaces_an_export_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    lab.export(tmp_path / "repo", form="triton")
    lab.plan = plan_of(lab, ("a", "b", "c"))
    lab.export(tmp_path / "repo", form="triton")
    assert not (tmp_path / "repo" / "models" / "repo_lane_2").exists()
    (tmp_path / "repo" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="replaces only such an export"):
        lab.export(tmp_path / "repo", form="triton")
    (tmp_path / "else").mkdir()
    with pytest.raises(UsageError, match="replaces only such an export"):
        lab.export(tmp_path / "else", form="triton")


def test_what_is_only_planned_and_other_devices_are_refused_in_words(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="threshold"):
        lab.export(tmp_path / "repo", cascade_of(lab, threshold=None), form="triton")
    with pytest.raises(UsageError, match="for a CPU"):
        lab.export(tmp_path / "repo", plan_of(lab, ("a", "b", "c"), device={"kind": "cuda"}), form="triton")


def cascade_of(lab: Lab, *, threshold: float | None, **more: Any) -> Plan:
    lanes = (Lane(units=1, members=("a",)), Lane(units=1, members=("b",)), Lane(units=1, members=("c",), stage=1))
    return Plan(
        lanes=lanes,
        units=2,
        device={"kind": "cpu"},
        fingerprints=lab.ensemble.fingerprints,
        reach=(1.0, 0.5),
        threshold=threshold,
        **more,
    )


def beside_each_other(outputs: Any) -> torch.Tensor:
    return torch.cat(list(outputs.values()), dim=1).softmax(dim=1)


class ServedCascade:
    """What Triton makes of a repository in stages."""

    def __init__(self, folder: Path, name: str, lanes: int) -> None:
        self.lanes = {}
        for number in range(1, lanes + 1):
            model = f"{name}_lane_{number}"
            self.lanes[model] = Served._model(folder, model)
        triton.MODELS.update(self.lanes)
        triton.ASKED.clear()
        self.model = Served._model(folder, name)

    def ask(self, x: torch.Tensor, told: str = "") -> torch.Tensor:
        (response,) = asyncio.run(self.model.execute([triton.Request({"INPUT": x}, told)]))
        if response.error is not None:
            raise response.error
        (tensor,) = response.tensors
        assert tensor.name == "OUTPUT"
        return tensor.value

    def close(self) -> None:
        triton.MODELS.clear()
        for model in self.lanes.values():
            model.finalize()


@pytest.mark.parametrize("threshold", [0.0, 0.22, 0.24, 1.0])
def test_a_cascade_answers_as_in_the_lab_and_asks_later_lanes_only_about_open_rows(
    lab: Lab, tmp_path: Path, threshold: float
) -> None:
    plan = cascade_of(lab, threshold=threshold)
    made = lab.export(tmp_path / "repo", plan, form="triton")
    assert made.models == ("repo_lane_1", "repo_lane_2", "repo_lane_3", "repo")
    assert not (made.folder / "models" / "repo_combine").exists()
    lab.plan = plan
    inputs = (X, torch.linspace(-3, 3, 16 * 8).reshape(16, 8))
    with closing(ServedCascade(tmp_path / "repo", "repo", 3)) as served:
        for x in inputs:
            wanted = lab.run(x)
            report = lab.report
            assert report is not None
            triton.ASKED.clear()
            assert torch.equal(served.ask(x), wanted)
            sizes = [(model, len(tensors["INPUT"])) for model, tensors in triton.ASKED]
            assert sizes[:2] == [("repo_lane_1", len(x)), ("repo_lane_2", len(x))]
            ran = report.stages[1].ran
            assert sizes[2:] == ([("repo_lane_3", ran)] if ran else [])


def test_a_deadline_that_a_stage_would_miss_is_answered_by_those_before_it(lab: Lab, tmp_path: Path) -> None:
    plan = cascade_of(lab, threshold=1.0, predicted_s={"a": 0.001, "b": 0.001, "c": 3600.0})
    lab.export(tmp_path / "repo", plan, form="triton")
    with closing(ServedCascade(tmp_path / "repo", "repo", 3)) as served:
        whole = served.ask(X)
        early = served.ask(X, '{"deadline_us": 60000000}')
        assert [model for model, _ in triton.ASKED[-2:]] == ["repo_lane_1", "repo_lane_2"]
        assert not torch.equal(early, whole)
        for told in ('{"deadline_us": 0}', '{"deadline_us": true}', '{"deadline_us": "1"}'):
            with pytest.raises(triton.TritonError, match="deadline_us"):
                served.ask(X, told)
        assert torch.equal(served.ask(X), whole)


def test_a_lane_that_refuses_is_said_by_the_cascade_and_the_next_request_is_answered(lab: Lab, tmp_path: Path) -> None:
    lab.export(tmp_path / "repo", cascade_of(lab, threshold=0.9), form="triton")
    with closing(ServedCascade(tmp_path / "repo", "repo", 3)) as served:
        with pytest.raises(triton.TritonError, match="repo_lane_1"):
            served.ask(torch.randn(4, 9))
        with pytest.raises(triton.TritonError, match="at least one"):
            served.ask(torch.randn(0, 8))
        assert served.ask(X).shape == (4, 5)


def test_a_cascade_whose_first_stage_has_no_weight_answers_as_in_the_lab(lab: Lab, tmp_path: Path) -> None:
    lab.combine("weighted", {"a": 0.0, "b": 0.0, "c": 1.0})
    plan = cascade_of(lab, threshold=0.1)
    lab.export(tmp_path / "repo", plan, form="triton")
    lab.plan = plan
    with closing(ServedCascade(tmp_path / "repo", "repo", 3)) as served:
        assert torch.equal(served.ask(X), lab.run(X))
        # Of a first stage that says nothing a deadline leaves nothing to answer: the next one is asked all the same.
        assert torch.equal(served.ask(X, '{"deadline_us": 1}'), lab.run(X))


def test_stages_that_answer_with_other_classes_are_refused_by_the_rule(lab: Lab, tmp_path: Path) -> None:
    lab.combine(beside_each_other)
    lab.export(tmp_path / "repo", cascade_of(lab, threshold=1.0), form="triton")
    with (
        closing(ServedCascade(tmp_path / "repo", "repo", 3)) as served,
        pytest.raises(triton.TritonError, match="scores of the same classes"),
    ):
        served.ask(X)


def test_a_name_of_a_folder_becomes_a_name_that_triton_takes(lab: Lab, tmp_path: Path) -> None:
    made = lab.export(tmp_path / "my models!", form="triton")
    assert made.name == "my_models"
    assert "my_models" in str(made)
    assert "http.InferInput('INPUT', [4, 8], 'FP32')" in (made.folder / "README.md").read_text()
