"""A capture that fails: torch's own code, and ours around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cuda_doubles import StreamDouble

from esen_lab.lanes.capturing import captured

HIDES = "operation failed due to a previous error during capture"


class FailedGraph:
    def capture_end(self) -> None:
        raise RuntimeError(HIDES)


class OnStream:
    """As torch's: nothing is put back by itself when it is forgotten."""

    def __init__(self, cuda: StreamsOfTorch) -> None:
        self.cuda = cuda

    def __enter__(self) -> None:
        self.before, self.cuda.current = self.cuda.current, "the capture's"

    def __exit__(self, *problem: object) -> None:
        self.cuda.current = self.before


class StreamsOfTorch:
    """`torch.cuda` with torch's own end of a capture, and streams that are doubles."""

    def __init__(self) -> None:
        self.current = "before"

    def stream(self, stream: Any) -> Any:
        return OnStream(self)

    def graph(self, graph: Any, *, stream: Any, capture_error_mode: str) -> Any:
        made = torch.cuda.graph.__new__(torch.cuda.graph)
        made.cuda_graph = graph
        made.stream_ctx = self.stream(stream)
        made._enable_annotations = False

        @contextlib.contextmanager
        def both() -> Iterator[None]:
            made.stream_ctx.__enter__()
            try:
                yield
            except BaseException as problem:
                made.__exit__(type(problem), problem, None)
            else:
                made.__exit__(None, None, None)

        return both()


def test_torch_itself_hides_what_failed_and_leaves_its_stream_the_current_one() -> None:
    cuda: Any = StreamsOfTorch()
    with pytest.raises(RuntimeError, match=HIDES), cuda.graph(FailedGraph(), stream=None, capture_error_mode=""):
        raise ValueError("the cause")
    assert cuda.current == "the capture's"


def test_the_cause_of_a_failed_capture_is_raised_and_the_stream_put_back() -> None:
    cuda: Any = StreamsOfTorch()
    with pytest.raises(ValueError, match="the cause"), captured(cuda, FailedGraph(), StreamDouble(cuda)):
        raise ValueError("the cause")
    assert cuda.current == "before"


def test_a_capture_that_only_its_end_refuses_says_so() -> None:
    cuda: Any = StreamsOfTorch()
    with pytest.raises(RuntimeError, match=HIDES), captured(cuda, FailedGraph(), StreamDouble(cuda)):
        pass
    assert cuda.current == "before"
