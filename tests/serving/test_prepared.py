"""Sizes that engines have prepared before the first request, and batches that are filled up to them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import mlp
from served_doubles import EXAMPLE, FakeServed, Gate, InBackground, body_of, infer
from waiting import until

from esen_lab.errors import ModelError
from esen_lab.lanes.backends import backend
from esen_lab.lanes.backends._executed import LOOKS_KEPT, Executed
from esen_lab.lanes.backends._protocol import BackendSettings
from esen_lab.serving.prepared import LOOKS, of_size, prepare, sizes_to_prepare
from esen_lab.serving.server import Server
from esen_lab.serving.server_settings import ServeSettings
from esen_lab.serving.service_times import BatchTimes


class WithEngine(FakeServed):
    """Doubles its input; an engine executes it."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = SimpleNamespace(lanes=(SimpleNamespace(all_eager=False),), jct_s=None)


@pytest.mark.parametrize(("rows", "most"), list(itertools.product([1, 3, 4, 64, 100], [2, 16, 64, 1000])))
def test_few_sizes_cover_all_batches_and_a_lane_keeps_all_that_were_run(rows: int, most: int) -> None:
    sizes = sizes_to_prepare(rows, most)
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (1, most)
    assert len({*sizes, rows, 2 * rows}) <= LOOKS == LOOKS_KEPT
    if most <= 64:
        assert all(size in range(1, most + 1) for size in sizes)
        assert all(above <= 4 * below for below, above in itertools.pairwise(sizes))


def test_an_input_of_any_size_is_made_of_the_examples_rows() -> None:
    assert torch.equal(of_size(EXAMPLE, 1), EXAMPLE[:1])
    assert torch.equal(of_size(EXAMPLE, 2), EXAMPLE)
    five = of_size(EXAMPLE, 5)
    assert five.shape == (5, 4)
    assert torch.equal(five[:2], EXAMPLE)
    assert torch.equal(five[2:], EXAMPLE[:1].expand(3, 4))


def test_preparing_ends_in_time_and_leaves_out_what_members_do_not_take() -> None:
    ran: list[int] = []

    def run(x: torch.Tensor) -> None:
        if len(x) == 2:
            raise ModelError("it takes no pairs")
        ran.append(len(x))

    clock = iter([0.0, 1.0, 2.0, 11.0]).__next__
    assert prepare(run, EXAMPLE, [1, 2, 4, 8, 16], limit_s=10.0, clock=clock) == [1, 4]
    assert ran == [1, 4]


def test_times_are_those_of_the_size_at_which_a_batch_is_run() -> None:
    times = BatchTimes(0.1, 1, [1, 4, 16])
    assert [times.size_of(rows) for rows in (1, 2, 4, 5, 16, 17)] == [1, 4, 4, 16, 16, 17]
    for _ in range(2):  # the first run of a size is not counted
        times.ran(3, 0.5)
    assert times.of(2) == times.of(4) == 0.5


def test_requests_meet_only_sizes_that_were_run_before_the_server_was_ready() -> None:
    served, gate = WithEngine(), Gate()
    with Server(ServeSettings(port=0, max_rows=16)).start() as server:
        server.warm(served)  # type: ignore[arg-type]
        known = {len(x) for x in served.runs}
        assert {1, 16} <= known
        served.runs.clear()
        served.before = gate
        first = InBackground(lambda: infer(server, body_of(1, 1.0)))
        assert gate.reached.wait(60)
        others = [InBackground(lambda n=n: infer(server, body_of(n, float(n)))) for n in (3, 4, 6)]
        until(lambda: server.waiting == 3)
        gate.opened.set()
        assert first.result()[0] == 200
        for rows, call in zip((3, 4, 6), others, strict=True):
            status, told, _ = call.result()
            assert status == 200
            assert told["outputs"][0]["shape"] == [rows, 4]
            assert told["outputs"][0]["data"] == [2.0 * rows] * (4 * rows)
        for rows in range(1, 17):
            assert (
                infer(server, body_of(rows, 1.0, parameters={"timings": True}))[1]["parameters"]["batch_rows"] == rows
            )
        assert {len(x) for x in served.runs} <= known


def test_where_everything_is_eager_or_nothing_is_joined_no_row_is_added() -> None:
    for served, rows in ((FakeServed(), 64), (WithEngine(), 1)):
        with Server(ServeSettings(port=0, max_rows=rows)).start() as server:
            server.warm(served)  # type: ignore[arg-type]
            served.runs.clear()
            assert infer(server, body_of(3))[0] == 200
            assert [len(x) for x in served.runs] == [3]


def test_lanes_that_were_started_anew_are_prepared_while_nothing_is_to_do() -> None:
    served = WithEngine()
    with Server(ServeSettings(port=0, max_rows=16)).start() as server:
        server.warm(served)  # type: ignore[arg-type]
        known = {len(x) for x in served.runs}
        served.runs.clear()
        mends = iter([True])
        served.mend = lambda: next(mends, False)  # type: ignore[method-assign]
        until(lambda: {len(x) for x in served.runs} >= sizes_of(server))
        assert sizes_of(server) <= known


def sizes_of(server: Server) -> set[int]:
    dispatcher = server._service.dispatcher
    assert dispatcher is not None
    return set(dispatcher._sizes)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_real_engine_prepares_nothing_while_requests_come(name: str) -> None:
    kind: Any = backend(name)
    if why := kind.why_not("cpu", precision=""):
        pytest.skip(why)
    prepared: list[int] = []

    class Counted(kind):  # type: ignore[misc, valid-type]
        def prepare(self, example: Any) -> Any:
            prepared.append(len(example.leaves[0]))
            return super().prepare(example)

    class Engine(WithEngine):
        module = Executed(mlp().eval(), name, Counted, BackendSettings())

        def run(self, x: torch.Tensor, asked: Any) -> tuple[torch.Tensor, None]:
            with torch.no_grad():
                return self.module(x), None

    served = Engine()
    served.ensemble.example = torch.arange(32, dtype=torch.float32).reshape(4, 8) / 10
    with Server(ServeSettings(port=0, max_rows=16)).start() as server:
        server.warm(served)  # type: ignore[arg-type]
        before = list(prepared)
        assert before
        for rows in range(1, 17):
            look = {"name": "input", "shape": [rows, 8], "datatype": "FP32", "data": [0.5] * (8 * rows)}
            assert infer(server, {"inputs": [look]})[0] == 200
        assert prepared == before
