"""By `torch.compile`, with weights frozen into the code where the network computes on a CPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from esen_lab.common.trees import Tree, unflatten
from esen_lab.lanes.backends._protocol import BackendSettings, Call, Example, Refused
from esen_lab.lanes.backends.eager import autocast, no_autocast

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_MOST_COMPILED = 64  # of one class of networks in a process; torch leaves those beyond 8 eager without a word


class Inductor:
    """Compiled once per look."""

    reads: ClassVar[tuple[str, ...]] = ()
    as_torch: ClassVar[bool] = True

    def __init__(self, module: nn.Module, settings: BackendSettings) -> None:
        on_gpu = any(weight.is_cuda for weight in module.parameters())
        if why := self.why_not("cuda" if on_gpu else "cpu", precision=settings.precision):
            raise Refused(why)
        import torch._dynamo.config
        import torch._inductor.config

        # Compiling in helper processes would leave them in a worker that has forked already.
        torch._inductor.config.compile_threads = 1
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_COMPILED)
        folder = None if settings.cache is None else settings.cache.folder_for("inductor")
        if folder is not None and _FOLDER not in os.environ:
            os.environ[_FOLDER] = str(folder)
        self._settings = settings
        self._compiled = torch.compile(module, dynamic=False, options=None if on_gpu else {"freezing": True})

    @staticmethod
    def why_not(torch_device: str, *, precision: str) -> str:
        """On a CPU: no C++ compiler. A precision that autocast does not have there."""
        wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        if torch_device == "cpu" and shutil.which(wanted) is None:
            return f"torch.compile needs a C++ compiler on the CPU, and there is no {wanted!r} on the path"
        return no_autocast(torch_device, precision)

    @staticmethod
    def version() -> str:
        """Torch itself."""
        return ""

    def prepare(self, example: Example) -> Call:
        """Compile, which `torch.compile` does in its first call."""
        compiled = self._compiled
        folder = None if self._settings.cache is None else self._settings.cache.folder_for("inductor")

        def call(_: Sequence[torch.Tensor], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tree:
            # It compiles anew for every mode that it is called in: always the same one.
            with torch.inference_mode(mode=False), torch.no_grad():
                return compiled(*args, **kwargs)

        made = autocast(call, example, self._settings)
        leaves = [_copied(leaf) for leaf in example.leaves]  # it may write into them
        with contextlib.nullcontext() if folder is None else _temporary_files_in(folder):
            made(leaves, *unflatten(example.structure, leaves))
        return made


def _copied(leaf: torch.Tensor) -> torch.Tensor:
    """A copy of the same kind: what is compiled for tensors of inference mode is compiled anew for others."""
    with torch.inference_mode(mode=leaf.is_inference()):
        return leaf.clone()


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Where the compiler's own files go: one that is killed leaves them, and this folder is bounded and swept."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


BACKEND = Inductor
