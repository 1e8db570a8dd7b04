"""How a sub-model is executed: eagerly, compiled, or as a CUDA graph. Each is a module around the module.

A wrapped sub-model checks itself: the first answer for every shape of input is compared with the eager one, and when
it differs, or the mechanism cannot take this module, it raises. Whoever loads it then falls back and says why.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import torch
from torch import nn

from esen_lab.errors import DeviceError, EsenError, UsageError
from esen_lab.trees import flatten, unflatten
from esen_lab.workers.agreement import difference
from esen_lab.workers.capturing import CAPTURING

_WARM_UPS = 3
_SHAPES_KEPT = 8


def why_not(mechanism: str, torch_device: str = "cpu") -> str:
    """Why a mechanism can't be had where lanes compute on `torch_device`, in words; "" where it can."""
    if mechanism == "eager":
        return ""
    if mechanism == "compile":
        wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if torch_device == "cpu" and shutil.which(wanted) is None:
            return f"torch.compile needs a C++ compiler on the CPU, and there is no {wanted!r} on the path"
        return ""
    if mechanism == "graph":
        return "" if torch_device.startswith("cuda") else "CUDA graphs exist on NVIDIA GPUs only"
    raise UsageError("A mechanism is one of eager, compile, graph", given=mechanism)


def refusal(problem: EsenError) -> str:
    """Why a wrapped sub-model could not be loaded, in words: what its wrapper said, where it was the wrapper."""
    # A worker tells the error of a module with its class before it; here the module is ours.
    return problem.rule.partition(f"raised {DeviceError.__module__}.{DeviceError.__qualname__}: ")[2] or problem.rule


def wrapped(payload: bytes, mechanism: str) -> bytes:
    """The payload of a sub-model (see `Worker.load`) that is executed by a mechanism.

    Raises:
        UsageError: No mechanism has that name.
    """
    why_not(mechanism)
    if mechanism == "eager":
        return payload
    made: bytes = cloudpickle.dumps(partial(_build, payload, mechanism))
    return made


def _build(payload: bytes, mechanism: str) -> nn.Module:
    module = cloudpickle.loads(payload)()
    return Compiled(module) if mechanism == "compile" else Graphed(module)


class Checked(nn.Module):
    """Runs `module` by `_fast`, whose first answer for each shape of input is compared with the eager one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._known: set[object] = set()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's answer.

        Raises:
            DeviceError: The mechanism can't take this module, or answers differently.
        """
        leaves, structure = flatten((list(args), kwargs))
        looks = (repr(structure), *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        if looks in self._known:
            return self._fast(looks, args, kwargs)
        with CAPTURING:
            return self._first(looks, leaves, structure, args, kwargs)

    def _first(self, looks: object, leaves: list[torch.Tensor], structure: Any, args: Any, kwargs: Any) -> Any:
        # Copies: a module that overwrites its input must not be compared on what it made of it.
        kept = unflatten(structure, [leaf.clone() for leaf in leaves])
        wanted = self.module(*kept[0], **kept[1])
        name = type(self).__name__.lower()
        try:
            answer = self._fast(looks, args, kwargs)
        except Exception as problem:
            told = str(problem).strip().splitlines() or [""]
            raise DeviceError(
                f"A sub-model that is {name} runs as before", given=f"{type(problem).__name__}: {told[0]}"
            ) from problem
        found = difference(answer, wanted)
        if not found.agrees:
            raise DeviceError(f"A sub-model that is {name} answers as it does eagerly", given=str(found))
        if len(self._known) >= _SHAPES_KEPT:
            self._known.clear()
            self._forget()
        self._known.add(looks)
        return answer

    def _fast(self, looks: object, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of what is kept per shape."""


class Compiled(Checked):
    """By `torch.compile`, once per shape of input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        why = why_not("compile")
        if why and not torch.cuda.is_available():
            raise DeviceError("torch.compile has what it needs", given=why, hint="Install a C++ compiler.")
        from torch._inductor import config

        # Compiling in helper processes would leave them in a worker that has forked already.
        config.compile_threads = 1
        self._call: Callable[..., Any] = torch.compile(module, dynamic=False)

    def _fast(self, looks: object, args: Any, kwargs: Any) -> Any:  # noqa: ARG002  torch keeps its own
        return self._call(*args, **kwargs)


class Graphed(Checked):
    """As a CUDA graph, captured on the lane's own stream and replayed.

    A graph keeps the context it was captured in: on the stream of a green context it runs on that context's SMs. The
    answer lies where the graph writes it; the next run overwrites it.
    """

    def __init__(self, module: nn.Module, cuda: Any = None) -> None:
        super().__init__(module)
        self._cuda = torch.cuda if cuda is None else cuda  # tests give a double
        self._graphs: dict[object, tuple[Any, list[torch.Tensor], Any]] = {}

    def _fast(self, looks: object, args: Any, kwargs: Any) -> Any:
        leaves, structure = flatten((list(args), kwargs))
        if looks not in self._graphs:
            self._graphs[looks] = self._capture(leaves, structure)
        graph, inputs, answer = self._graphs[looks]
        for there, here in zip(inputs, leaves, strict=True):
            there.copy_(here, non_blocking=True)
        graph.replay()
        return answer

    def _capture(self, leaves: list[torch.Tensor], structure: Any) -> tuple[Any, list[torch.Tensor], Any]:
        inputs = [leaf.clone() for leaf in leaves]
        args, kwargs = unflatten(structure, inputs)
        for _ in range(_WARM_UPS):  # libraries choose kernels and take workspaces, which a capture forbids
            self.module(*args, **kwargs)
        stream = self._cuda.current_stream()
        stream.synchronize()
        graph = self._cuda.CUDAGraph()
        # thread_local: other lanes of this process go on meanwhile, and what they do must not end this capture.
        with self._cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            answer = self.module(*args, **kwargs)
        return graph, inputs, answer

    def _forget(self) -> None:
        self._graphs.clear()
