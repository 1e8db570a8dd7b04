"""A sub-model as a CUDA graph, on doubles of `torch.cuda` that record and replay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from cuda_doubles import GraphingCuda
from models import mlp
from torch import nn

from esen_lab.lanes.backends._executed import Executed
from esen_lab.lanes.backends._protocol import BackendSettings
from esen_lab.lanes.backends.cuda_graph import CudaGraph


def graphed(module: nn.Module, cuda: Any) -> Executed:
    return Executed(module, "cuda-graph", type("Double", (CudaGraph,), {"cuda": cuda}), BackendSettings())


class Noting(GraphingCuda):
    """Notes how captures are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[str] = []

    @contextlib.contextmanager
    def graph(self, graph: Any, **options: Any) -> Iterator[None]:
        self.modes.append(options["capture_error_mode"])
        with super().graph(graph, **options):
            yield


class Seeing(nn.Module):
    """Notes the tensors that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return x * 2


def test_a_graph_is_captured_once_per_shape_on_the_lanes_own_stream_and_replayed_on_copies() -> None:
    cuda, module = Noting(), Seeing()
    fast = graphed(module, cuda)
    with torch.inference_mode():
        ones = torch.ones(4, 8)
        assert torch.equal(fast(ones), torch.full((4, 8), 2.0))
        calls = len(module.seen)
        assert torch.equal(fast(torch.full((4, 8), 3.0)), torch.full((4, 8), 6.0))
        assert len(module.seen) == calls  # replayed: nothing was called
        assert all(seen is not ones for seen in module.seen)
        assert torch.equal(fast(torch.ones(2, 8)), torch.full((2, 8), 2.0))
    assert cuda.modes == ["thread_local"] * 2


class OneCaptureAtATime(GraphingCuda):
    """A double that refuses a second capture of the process while one is under way, as CUDA does by its device wait."""

    underway = 0

    @contextlib.contextmanager
    def graph(self, graph: Any, **options: Any) -> Iterator[None]:
        if self.underway:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.underway += 1
        time.sleep(0.05)  # the other threads come by meanwhile
        try:
            with super().graph(graph, **options):
                yield
        finally:
            self.underway -= 1


def test_lanes_of_one_process_capture_one_after_another() -> None:
    cuda = OneCaptureAtATime()
    lanes = [graphed(mlp(seed=seed), cuda) for seed in range(4)]
    x = torch.randn(4, 8)

    def first(lane: Executed) -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = lane(x)
            return answer.clone()

    with ThreadPoolExecutor(max_workers=4) as pool:
        answers = list(pool.map(first, lanes))
    for seed, answer in enumerate(answers):
        with torch.inference_mode():
            torch.testing.assert_close(answer, mlp(seed=seed)(x))
    assert len(cuda.graphs) == 4
