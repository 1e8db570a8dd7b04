"""One graph for a plan: how streams fork and join, on a double of `torch.cuda` that notes the order and computes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from esen_lab.errors import DeviceError, UsageError
from esen_lab.run.one_graph import OneGraph


class CudaDouble:
    """Notes what is asked of streams and events; refuses to capture when told to."""

    def __init__(self, refuses: str = "") -> None:
        self.log: list[str] = []
        self.refuses = refuses
        self.count = 0
        self.devices: list[Any] = []
        self.current = "none"
        double = self

        class Stream:
            def __init__(self, device: Any = None) -> None:
                double.count += 1
                double.devices.append(device)
                self.name = f"s{double.count}"

            def wait_event(self, event: Any) -> None:
                double.log.append(f"{self.name} waits for {event.of}")

            def query(self) -> bool:
                double.log.append(f"{self.name} is asked")
                return True

        class Event:
            of = ""

            def record(self, stream: Any) -> None:
                self.of = stream.name

        class CUDAGraph:
            def replay(self) -> None:
                double.log.append("replay")

        self.Stream: Callable[[], Any] = Stream
        self.Event: Callable[[], Any] = Event
        self.CUDAGraph: Callable[[], Any] = CUDAGraph

    def synchronize(self, device: Any = None) -> None:
        self.log.append("synchronize")
        self.devices.append(device)

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.log.append(f"on {stream.name}")
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.log = [f"capture on {stream.name}, {capture_error_mode}"]
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.current = stream.name
        try:
            yield
        except BaseException:  # as torch's own does, see tests/lanes/test_capturing.py
            raise RuntimeError("operation failed due to a previous error during capture") from None
        self.log.append("captured")


def mean(outputs: dict[str, Any]) -> Any:
    return sum(outputs.values()) / len(outputs)


def test_lanes_fork_from_the_main_stream_and_join_before_the_combine() -> None:
    cuda = CudaDouble()
    own = cuda.Stream()  # s1: as a green context's stream is brought along
    x = torch.ones(2)
    graph = OneGraph(
        [(own, {"a": lambda t: t * 2, "b": lambda t: t * 3}), (None, {"c": lambda t: t * 4})], mean, x, cuda=cuda
    )
    assert cuda.log == [
        "capture on s2, thread_local",
        "on s1",
        "s1 waits for s2",
        "on s3",
        "s3 waits for s2",
        "s2 waits for s1",
        "s2 waits for s3",
        "captured",
    ]
    assert torch.equal(graph.output, torch.full((2,), 3.0))
    cuda.log.clear()
    assert graph.run(torch.zeros(2)) is graph.output
    assert graph.wait(60)
    assert cuda.log == ["on s2", "replay", "s2 is asked"]


def test_what_cannot_be_captured_says_why() -> None:
    with pytest.raises(DeviceError, match="operation not permitted when stream is capturing"):
        OneGraph(
            [(None, {"a": torch.relu})],
            mean,
            torch.ones(2),
            cuda=CudaDouble(refuses="operation not permitted when stream is capturing"),
        )


def test_what_failed_inside_a_capture_is_what_is_said_and_the_current_stream_is_the_one_from_before() -> None:
    cuda = CudaDouble()

    def member(x: torch.Tensor) -> torch.Tensor:
        if cuda.log and cuda.log[0].startswith("capture"):
            raise RuntimeError("a look at a value")
        return x

    with pytest.raises(DeviceError, match="a look at a value"):
        OneGraph([(None, {"a": member})], mean, torch.ones(2), cuda=cuda)
    assert cuda.current == "none"


def test_streams_and_waits_are_on_the_gpu_of_the_input_and_not_on_the_current_one() -> None:
    cuda = CudaDouble()
    x = torch.ones(2)
    OneGraph([(None, {"a": torch.relu})], mean, x, cuda=cuda)
    assert cuda.devices == [x.device] * 4


def test_a_sub_model_is_in_one_lane() -> None:
    with pytest.raises(UsageError, match="one lane"):
        OneGraph([(None, {"a": torch.relu}), (None, {"a": torch.relu})], mean, torch.ones(2), cuda=CudaDouble())
