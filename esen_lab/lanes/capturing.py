"""One capture at a time in a process, and what a capture that fails leaves as it was.

torch says so of CUDA graphs, and what a capture begins with, a wait for the whole device, breaks the capture of another
thread whatever its mode. Lanes that are threads of one process (green contexts) would meet there when a plan starts.
Lanes that are processes never wait here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

CAPTURING = threading.RLock()
"""Held by whoever captures a graph, compiles, or loads a sub-model: the others may wait for the whole device too."""


@contextlib.contextmanager
def captured(cuda: Any, graph: Any, stream: Any) -> Iterator[None]:
    """Capture what is queued inside into `graph`.

    Where that fails, torch raises at the end that the capture had failed, which hides why, and leaves `stream` the
    current one. Here the first error is raised, and the current stream is the one from before.

    Args:
        cuda: `torch.cuda`, or a double of it.
        graph: A `CUDAGraph`.
        stream: Where it is captured.
    """
    cause: BaseException | None = None
    with cuda.stream(stream):
        try:
            # thread_local: other lanes of this process go on meanwhile, and what they do must not end this capture.
            with cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                try:
                    yield
                except BaseException as problem:
                    cause = problem
                    raise
        except BaseException as problem:
            if cause is None or problem is cause:
                raise
            raise cause from None
