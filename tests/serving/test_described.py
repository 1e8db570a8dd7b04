"""What is served becomes something else while it is served: what is joined, told and refused then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import mlp
from served_doubles import InBackground, X, ask
from torch import nn
from waiting import until

from esen_lab import Lab
from esen_lab.devices import FakeDevice
from esen_lab.serving.server import Server


class FromTheMean(nn.Module):
    """Looks at the other rows of its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0))[:, :3]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as found:
        found.register("a", mlp(seed=1), example=X)
        found.register("b", mlp(seed=2), example=X)
        yield found


def of(server: Server, value: float) -> tuple[int, Any]:
    look = {"name": "input", "shape": [1, 8], "datatype": "FP32", "data": [value] * 8}
    return ask(server, "POST", "/v2/models/ensemble/infer", {"inputs": [look]})[:2]


def at_once(server: Server, lab: Lab, change: Any) -> list[tuple[int, Any]]:
    """What three clients are answered who wait together for lanes that somebody has, when something has changed."""
    with lab._runtime.turns.turn("a test"):
        first = InBackground(lambda: of(server, 9.0))
        calls = [InBackground(lambda n=n: of(server, float(n))) for n in range(3)]
        until(lambda: server.waiting == 3)
        change()
    assert first.result()[0] == 200
    return [call.result() for call in calls]


def parameters(server: Server) -> Any:
    return ask(server, "GET", "/v2/models/ensemble")[1]["parameters"]


def test_another_combine_rule_answers_each_client_with_his_own_rows_and_with_what_they_are(lab: Lab) -> None:
    server = lab.serve(0, window_s=0.0)
    assert server is not None
    assert parameters(server)["joins_requests"] is True
    for rule in ("stack", "majority"):
        for number, (status, told) in enumerate(at_once(server, lab, lambda rule=rule: lab.combine(rule))):
            right = lab.run(torch.full((1, 8), float(number)))
            assert status == 200, told
            output = told["outputs"][0]
            assert output["shape"] == list(right.shape)
            assert torch.allclose(torch.tensor(output["data"], dtype=right.dtype), right.reshape(-1))
            assert output["datatype"] == ("INT64" if right.dtype == torch.int64 else "FP32")
    assert output["datatype"] == "INT64"
    until(lambda: ask(server, "GET", "/v2/models/ensemble")[1]["outputs"][0]["datatype"] == "INT64")


def test_a_member_that_is_registered_anew_and_looks_at_other_rows_is_joined_no_more(lab: Lab) -> None:
    server = lab.serve(0, window_s=0.0)
    assert server is not None
    found = at_once(server, lab, lambda: lab.register("b", FromTheMean()))
    for number, (status, told) in enumerate(found):
        assert status == 200, told
        right = lab.run(torch.full((1, 8), float(number))).reshape(-1)
        assert torch.allclose(torch.tensor(told["outputs"][0]["data"]), right, rtol=1e-4, atol=1e-6)
    until(lambda: not parameters(server)["joins_requests"])
    assert "other rows" in parameters(server)["why_alone"]


def test_members_that_are_gone_are_not_the_clients_fault_and_the_server_is_not_ready(lab: Lab) -> None:
    server = lab.serve(0, window_s=0.0)
    assert server is not None
    lab.unregister("b")
    until(lambda: parameters(server)["members"] == ["a"])
    assert of(server, 1.0)[0] == 200
    lab.unregister("a")
    status, told = of(server, 1.0)
    assert (status, "has changed" in told["error"]) == (503, True)
    until(lambda: ask(server, "GET", "/v2/health/ready")[0] == 503)
    assert parameters(server)["joins_requests"] is False
    lab.register("wide", nn.Linear(5, 2), example=torch.zeros(2, 5))
    until(lambda: ask(server, "GET", "/v2/health/ready")[0] == 200)
    assert ask(server, "GET", "/v2/models/ensemble")[1]["inputs"][0]["shape"] == [-1, 5]


def test_runs_that_prepare_a_server_are_no_runs_of_the_user(lab: Lab) -> None:
    lab.run(X)
    report, entries = lab.report, len(lab.history.past().entries)
    server = lab.serve(0, window_s=0.0)
    assert server is not None
    assert lab.report is report
    assert len(lab.history.past().entries) == entries
    assert of(server, 1.0)[0] == 200


def test_the_status_and_a_change_of_the_device_tell_what_is_served_and_how_it_stands(lab: Lab) -> None:
    server = lab.serve(0, window_s=0.0)
    assert server is not None
    assert lab.status().served == f"ensemble at {server.url}: ready"
    change = lab.use_device(FakeDevice({"other": {1: 0.01}}, units=2, unit="part"))  # which runs neither a nor b
    told = next(note for note in change.notes if "is served" in note)
    assert server.url in told
    assert "lab.serve(None)" in told
    until(lambda: "not ready" in lab.status().served)
    assert of(server, 1.0)[0] == 503


def test_a_member_that_exits_and_outputs_that_do_not_combine_hurt_their_own_request_alone(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", Exits(), example=X)
        lab.register("b", Exits(), example=X)
        lab.combine(refuses_thirty)
        server = lab.serve(0, window_s=0.0)
        assert server is not None
        lanes = lab.state.executor
        with lab._runtime.turns.turn("a test"):
            first = InBackground(lambda: of(server, 9.0))
            calls = [InBackground(lambda n=n: of(server, float(n))) for n in (1, 20, 30, 4)]
            until(lambda: server.waiting == 4)
        assert first.result()[0] == 200
        assert [call.result()[0] for call in calls] == [200, 500, 500, 200]
        assert lab.state.executor is lanes


class Exits(nn.Module):
    """Would end its process at a twenty."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 20).any()):
            raise SystemExit("twenty")
        return x * 1


def refuses_thirty(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    if bool((outputs["a"] == 30).any()):
        raise ValueError("thirty")
    return outputs["a"]


class Shaken(nn.Module):
    """Draws random numbers where an input is above fifty, which its example is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(len(x), 1) if bool((x > 50).any()) else x * 1


def test_a_member_that_draws_random_numbers_for_some_inputs_alone_is_joined_no_more_once_that_is_seen(
    tmp_path: Path,
) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", Shaken(), example=X)
        server = lab.serve(0, window_s=0.0)
        assert server is not None
        assert parameters(server)["joins_requests"] is True
        assert of(server, 60.0)[0] == 200
        until(lambda: not parameters(server)["joins_requests"])
        assert "random numbers" in parameters(server)["why_alone"]
