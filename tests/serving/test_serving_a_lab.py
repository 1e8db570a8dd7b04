"""A real lab behind a real client: the same answers as `lab.run`, lanes that die, the cell, the exported folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import CountsCalls, Sleeper, mlp
from served_doubles import FakeServed, InBackground, X, ask
from waiting import until

from esen_lab import Lab
from esen_lab.errors import UsageError
from esen_lab.lab.stages.serve import ServedLab
from esen_lab.serving.exported import ExportedFolder
from esen_lab.serving.served import PLAIN
from esen_lab.serving.server import Server
from esen_lab.serving.server_settings import ServeSettings

triton = pytest.importorskip("tritonclient.http", reason="the client of Triton is not installed")
from tritonclient.utils import InferenceServerException  # noqa: E402


def tensor(values: torch.Tensor, datatype: str = "FP32", *, binary: bool = True) -> Any:
    found = triton.InferInput("input", list(values.shape), datatype)
    found.set_data_from_numpy(values.numpy(), binary_data=binary)
    return found


@pytest.fixture
def client(server: Server) -> Any:
    found = triton.InferenceServerClient(server.address)
    yield found
    found.close()


def test_tritons_client_finds_a_server_of_its_protocol(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ensemble")
    assert client.is_model_ready("ensemble", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "esen_lab"
    assert client.get_model_metadata("ensemble")["inputs"][0]["shape"] == [-1, 8]
    assert client.get_model_config("ensemble")["input"][0]["data_type"] == "TYPE_FP32"
    assert client.get_model_repository_index()[0]["state"] == "READY"
    assert client.get_inference_statistics("ensemble")["model_stats"][0]["name"] == "ensemble"


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_the_bits_of_run(client: Any, lab: Lab, rows: int, binary: bool) -> None:
    x = torch.linspace(-1, 1, rows * 8).reshape(rows, 8)
    wanted = triton.InferRequestedOutput("output", binary_data=binary)
    answer = client.infer("ensemble", [tensor(x, binary=binary)], outputs=[wanted], request_id="7")
    found = answer.as_numpy("output")
    assert found.dtype == np.float32
    assert np.array_equal(found, lab.run(x).numpy())
    assert answer.get_response()["id"] == "7"


@pytest.mark.parametrize("how", ["gzip", "deflate"])
def test_tritons_client_may_pack_what_it_sends(client: Any, lab: Lab, how: str) -> None:
    answer = client.infer("ensemble", [tensor(X)], request_compression_algorithm=how)
    assert np.array_equal(answer.as_numpy("output"), lab.run(X).numpy())


def test_tritons_client_raises_what_is_refused(client: Any) -> None:
    for call, status in (
        (lambda: client.infer("other", [tensor(X)]), "404"),
        (lambda: client.infer("ensemble", [tensor(X[:, :3].contiguous())]), "400"),
        (lambda: client.infer("ensemble", [tensor(X)], priority=3), "501"),
        (lambda: client.infer("ensemble", [tensor(torch.zeros(40_000, 8))]), "413"),
    ):
        with pytest.raises(InferenceServerException) as raised:
            call()
        assert raised.value.status() == status


def test_many_clients_at_once_get_each_his_own_answer(server: Server, lab: Lab) -> None:
    inputs = [torch.full((1 + n % 3, 8), float(n)) for n in range(24)]
    wanted = [lab.run(x) for x in inputs]

    def one(x: torch.Tensor) -> Any:
        look = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": x.reshape(-1).tolist()}
        return ask(server, "POST", "/v2/models/ensemble/infer", {"inputs": [look]})

    calls = [InBackground(lambda x=x: one(x)) for x in inputs]
    for call, right in zip(calls, wanted, strict=True):
        status, told, _ = call.result()
        assert status == 200
        # Another batch may be summed up in another order.
        found = torch.tensor(told["outputs"][0]["data"]).reshape(right.shape)
        assert torch.allclose(found, right, rtol=1e-4, atol=1e-6)
    assert b'esen_lane_busy_seconds_total{lane="0"}' in server.metrics()


def test_a_lane_that_is_killed_costs_only_what_runs_and_comes_back(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("slow", Sleeper(0.3), example=X)
        server = lab.serve(0)
        assert server is not None
        executor = lab.state.executor
        assert executor is not None
        body = {"inputs": [{"name": "input", "shape": [4, 8], "datatype": "FP32", "data": X.reshape(-1).tolist()}]}

        def one() -> int:
            return ask(server, "POST", "/v2/models/ensemble/infer", body)[0]

        runs = server.totals.batches
        running = InBackground(one)
        until(lambda: lab._runtime.turns.locked or server.totals.batches > runs)
        waiting = [InBackground(one) for _ in range(3)]
        os.kill(executor.pids[0], signal.SIGKILL)
        assert running.result() in (200, 503)  # it may just have been done
        assert [call.result() for call in waiting] == [200, 200, 200]
        # Killed while nothing runs, it costs nobody anything.
        again = lab.state.executor
        assert again is not None
        assert again is not executor
        restarts = server.totals.restarts
        os.kill(again.pids[0], signal.SIGKILL)
        until(lambda: server.totals.restarts > restarts)
        assert one() == 200


def test_the_server_ends_with_the_lab_and_another_one_takes_its_place(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        with pytest.raises(UsageError, match="registered"):
            lab.serve(0)
        lab.register("a", mlp(), example=X)
        with pytest.raises(UsageError, match="told"):
            lab.serve(0, colour="red")
        first = lab.serve(0, name="first")
        assert first is not None
        assert lab.state.server is first
        assert str(first.port) in str(first)
        second = lab.serve(0, name="second")
        assert second is not None
        assert (first.state, second.state) == ("ended", "ready")
        assert lab.serve(None) is second
        assert lab.serve(None) is None
        third = lab.serve(0)
        assert third is not None
    assert third.state == "ended"
    assert lab.state.server is None


def test_a_server_goes_on_where_another_one_finds_its_port_taken_and_gives_way_to_one_at_its_own(
    tmp_path: Path,
) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", mlp(), example=X)
        first = lab.serve(0)
        assert first is not None
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="free port") as refused:
            lab.serve(taken.getsockname()[1])
        with pytest.raises(UsageError, match="address or name of this machine"):
            lab.serve(first.port, host="192.0.2.1")
        assert f"The server before it goes on: {first.url}." in refused.value.__notes__
        assert (lab.state.server, first.state) == (first, "ready")
        assert ask(first, "GET", "/v2/health/ready")[0] == 200
        second = lab.serve(first.port, name="second")
        assert second is not None
        assert (first.state, second.state, second.port) == ("ended", "ready", first.port)


@pytest.mark.slow  # starts Python with torch twice, and lanes in one of them
def test_an_exported_folder_is_served_until_a_signal_and_only_where_it_is_trusted(lab: Lab, tmp_path: Path) -> None:
    exported = lab.export(tmp_path / "plan.py", plan=_plan_of(lab))
    token = tmp_path / "token"
    token.write_text("secret\n")
    command = [
        sys.executable,
        "-m",
        "esen_lab",
        "serve",
        str(exported.folder),
        "--port",
        "0",
        "--token-file",
        str(token),
    ]
    refused = subprocess.run(
        command,
        env={**os.environ, "ESEN_LAB_HOME": str(tmp_path / "nobody")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode == 1
    assert "It would run" in refused.stderr
    ordinary = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ordinary) as process,
        contextlib.ExitStack() as at_end,
    ):
        at_end.callback(process.kill)  # else whoever fails in here waits for it for ever
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stdout.readline()
        assert told.startswith("esen-lab: plan at http://127.0.0.1:")
        port = int(told.split(":")[3].split("/")[0])
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        try:
            sent = {"Authorization": "Bearer secret"}
            answer = client.infer("plan", [tensor(X)], headers=sent)
            assert np.array_equal(answer.as_numpy("output"), lab.run(X).numpy())
            with pytest.raises(Exception, match="token"):
                client.infer("plan", [tensor(X)])
        finally:
            client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert {"listening", "ready", "ended"} <= {line["message"] for line in lines}
    assert "secret" not in json.dumps(lines)


def _plan_of(lab: Lab) -> Any:
    from esen_lab.planner.plan import sequential_plan

    return sequential_plan(lab.ensemble.names, lab.device.units)


@pytest.mark.slow  # a member sleeps for seconds, so that it is late on any machine
def test_an_answer_by_a_deadline_is_made_of_who_is_done_and_names_the_others(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("fast", Sleeper(0.001), example=X)
        lab.register("slow", Sleeper(0.001), example=X)
        server = lab.serve(0, max_rows=1)
        assert server is not None
        look = {"name": "input", "shape": [4, 8], "datatype": "FP32", "data": X.reshape(-1).tolist()}
        parameters = {"timeout": 60_000_000, "at_least": 1}
        status, told, _ = ask(server, "POST", "/v2/models/ensemble/infer", {"inputs": [look], "parameters": parameters})
        assert status == 200
        assert "missing" not in told.get("parameters", {})  # both were done long before
        assert torch.allclose(torch.tensor(told["outputs"][0]["data"]), 2 * X.reshape(-1))
        lab.register("slow", Sleeper(4.0), example=X)
        parameters = {"timeout": 2_000_000, "at_least": 1}
        dispatcher = server._service.dispatcher
        assert dispatcher is not None
        until(lambda: not dispatcher._described.outdated)  # its lanes hold the slow one from now on
        status, told, _ = ask(server, "POST", "/v2/models/ensemble/infer", {"inputs": [look], "parameters": parameters})
        assert status == 200, told
        assert told["parameters"] == {"missing": "slow"}


def test_an_exported_folder_starts_its_lanes_anew_where_one_has_ended(lab: Lab, tmp_path: Path) -> None:
    exported = lab.export(tmp_path / "plan.py", plan=_plan_of(lab))
    served = ExportedFolder.open(exported.folder)
    try:
        assert not served.mend()  # the first start mends nothing
        before = served._executor
        assert before is not None
        wanted = served.run(X, PLAIN)[0].clone()
        os.kill(before.pids[0], signal.SIGKILL)
        until(before.notice_ended)
        assert torch.equal(served.run(X, PLAIN)[0], wanted)
        assert served._executor is not before
        assert [served.mend(), served.mend()] == [True, False], "also where the run was sooner than any look"
    finally:
        served.close()


HEARD: list[int] = []


def hears(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The first answer; notes each of its calls."""
    HEARD.append(len(HEARD))
    return next(iter(outputs.values()))


def test_what_prepares_a_server_leaves_no_trace_in_members_and_rules_that_keep_state(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite", combine=hears) as lab:
        lab.register("counts", CountsCalls(), example=X)
        assert lab.run(X)[0, 0].item() == 1.0
        heard = len(HEARD)
        torch.manual_seed(0)
        drawn = torch.rand(1)
        torch.manual_seed(0)
        server = lab.serve(0)
        assert server is not None
        assert server.model is not None
        assert not server.model.joins
        assert len(HEARD) == heard
        assert torch.equal(torch.rand(1), drawn)
        look = {"name": "input", "shape": [4, 8], "datatype": "FP32", "data": X.reshape(-1).tolist()}
        _, told, _ = ask(server, "POST", "/v2/models/ensemble/infer", {"inputs": [look]})
        assert told["outputs"][0]["data"][0] == 2.0


def test_lanes_that_a_request_found_ended_are_counted_as_started_anew(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", mlp(seed=1), example=X)
        served = ServedLab(lab._runtime)
        wanted = served.run(X, PLAIN)[0].clone()
        assert not served.mend()
        executor = lab.state.executor
        assert executor is not None
        os.kill(executor.pids[0], signal.SIGKILL)
        until(executor.notice_ended)
        assert torch.equal(served.run(X, PLAIN)[0], wanted)
        assert [served.mend(), served.mend()] == [True, False]


def test_an_input_as_requests_bring_it_may_be_an_array_and_stays_what_it_was(tmp_path: Path) -> None:
    with Lab(device="cpu", store=tmp_path / "profiles.sqlite") as lab:
        lab.register("a", mlp(seed=1), example=X)
        given = X[:2].numpy().copy()
        server = lab.serve(0, x=given)
        assert server is not None
        assert server.state == "ready"
        dispatcher = server._service.dispatcher
        assert dispatcher is not None
        given[:] = 7.0
        assert torch.equal(dispatcher._described.example, X[:2])
        with pytest.raises(UsageError, match="tensor"):
            lab.serve(0, x="nothing")
        with pytest.raises(UsageError, match="at least one sample"):
            lab.serve(0, x=X[:0])
        assert server.state == "ready", "it goes on where another one is refused before it begins"


def test_the_client_in_the_readme_of_an_application_for_ray_serve_works_when_pasted(lab: Lab, tmp_path: Path) -> None:
    lab.export(tmp_path / "digits", plan=_plan_of(lab), form="ray-serve")
    readme = (tmp_path / "digits" / "README.md").read_text()
    pasted = textwrap.dedent(readme[readme.index("    import numpy") :].partition("\n\n")[0])
    served = FakeServed({"ids": torch.zeros(2, 3, dtype=torch.int64), "on": torch.ones(2, 3, dtype=torch.bool)})
    served.run = lambda x, asked: (x["ids"] + 1, None)  # type: ignore[method-assign]
    with Server(ServeSettings(port=0, name="digits")).start() as server:
        server.warm(served)  # type: ignore[arg-type]
        space: dict[str, Any] = {}
        exec(pasted.replace("127.0.0.1:8000", server.address), space)
        space["client"].close()
    assert space["y"].tolist() == [[1, 1, 1]]
