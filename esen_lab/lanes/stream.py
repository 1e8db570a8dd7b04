"""Where a lane's work is queued when it is not the CPU: one stream of a GPU, and what can be asked about it.

The engine talks to `Compute` only, which talks to `torch.cuda` or a double of it. Everything that is queued inside
`entered` runs in order on one stream; nothing has happened for sure before `synchronize`.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esen_lab.common.trees import Tree

if TYPE_CHECKING:
    import torch


_PORTABLE = 1  # cudaHostRegisterPortable


class Compute:
    """One stream of one GPU. Used from the thread that runs the lane; `another` gives further threads their own.

    Args:
        device: As torch names it: "cuda:0".
        stream: The stream to use; None makes one. Lanes of green contexts bring their own `ExternalStream`.
        cuda: `torch.cuda`, or a double of it in tests.
        more: Makes further streams with the same share of the GPU; None, or None of it: torch makes plain ones.
    """

    def __init__(
        self, device: str, stream: Any = None, *, cuda: Any = None, more: Callable[[], Any] | None = None
    ) -> None:
        import torch

        self._cuda = torch.cuda if cuda is None else cuda
        self._device = torch.device(device)
        self._more = more
        self._stream = self._cuda.Stream(device=self._device) if stream is None else stream

    @property
    def device(self) -> torch.device:
        """Where tensors live."""
        return self._device

    @property
    def stream(self) -> Any:
        """The stream."""
        return self._stream

    @property
    def cuda(self) -> Any:
        """`torch.cuda`, or what stands for it."""
        return self._cuda

    def entered(self) -> AbstractContextManager[Any]:
        """Inside, work of this thread is queued here."""
        context: AbstractContextManager[Any] = self._cuda.stream(self._stream)
        return context

    def synchronize(self) -> None:
        """Wait until all that was queued is done. Raises what went wrong on the GPU meanwhile."""
        self._stream.synchronize()

    def mark(self, again: Any = None) -> Any:
        """A point in time in the queue; `again` is an old mark that may be used anew."""
        event = self._cuda.Event(enable_timing=True) if again is None else again
        event.record(self._stream)
        return event

    def seconds_between(self, first: Any, second: Any) -> float:
        """Seconds of the GPU's own clock between two marks, after `synchronize`."""
        return float(first.elapsed_time(second)) / 1000  # CUDA says milliseconds

    def wait_for(self, mark: Any) -> None:
        """Let what is queued from now on wait for a mark of another stream."""
        self._stream.wait_event(mark)

    def another(self) -> Compute:
        """Another stream of the same share of the GPU."""
        stream = None if self._more is None else self._more()
        return Compute(str(self._device), stream, cuda=self._cuda, more=self._more)

    def chance(self) -> bytes:
        """Where the GPU's generator of random numbers is: the same as long as nothing was drawn."""
        state: torch.Tensor = self._cuda.get_rng_state(self._device)  # kept by the host: nothing is waited for
        return state.numpy().tobytes()

    def memory_bytes(self) -> int:
        """Memory of the GPU that tensors of this process hold."""
        return int(self._cuda.memory_allocated(self._device))

    def reset_peak_memory(self) -> None:
        """Begin a new peak at what is held now."""
        self._cuda.reset_peak_memory_stats(self._device)

    def peak_memory_bytes(self) -> int:
        """The most that tensors of this process have held since then."""
        return int(self._cuda.max_memory_allocated(self._device))

    def give_back_memory(self) -> None:
        """Let other processes have what no tensor holds."""
        self._cuda.empty_cache()

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in memory of the host that the GPU reads and writes without a detour."""
        if self._device.type != "cuda":
            return tensor.clone()
        return tensor.pin_memory()

    def pin(self, address: int, size: int) -> bool:
        """Make memory of this process such memory; whether it worked. Without it copies are slower, not wrong."""
        import torch

        if int(self._cuda.cudart().cudaHostRegister(address, size, _PORTABLE)) == 0:
            return True
        # CUDA remembers the refusal, and torch would report it at the next kernel: one is started to take it.
        with contextlib.suppress(Exception):
            torch.empty(1, device=self._device).fill_(1)
        return False

    def unpin(self, address: int) -> None:
        """Undo `pin`; must come before the memory is let go."""
        self._cuda.cudart().cudaHostUnregister(address)

    def lend(self, tensors: Sequence[torch.Tensor]) -> tuple[bytes, Any]:
        """Let other processes read tensors of the GPU: what `borrow` takes there, and an event that both know.

        The memory stays this process's for as long as others hold it.
        """
        event = self._cuda.Event(interprocess=True)
        event.record(self._stream)  # an event exists once it has been recorded
        return pickle.dumps(([self._export(tensor) for tensor in tensors], event.ipc_handle())), event

    def borrow(self, lent: bytes) -> tuple[list[torch.Tensor], Any]:
        """Tensors of another process, as they are, and its event."""
        exported, handle = pickle.loads(lent)  # noqa: S301  from our own workers
        event = self._cuda.Event.from_ipc_handle(self._device, handle)
        return [rebuild(*arguments) for rebuild, arguments in exported], event

    def _export(self, tensor: torch.Tensor) -> Any:
        """How to find a tensor from another process: a function and its arguments, as torch's own queues send it."""
        own = getattr(self._cuda, "export", None)  # a double's, in tests
        if own is not None:
            return own(tensor)
        from torch.multiprocessing.reductions import reduce_tensor

        return reduce_tensor(tensor)  # type: ignore[no-untyped-call]

    def lost(self) -> bool:
        """Whether the GPU's context of this process is beyond use, as after an illegal access."""
        try:
            # Errors that stay are raised by every later call. Of the stream: what waits for the whole device would
            # break the capture of another lane of this process.
            self._stream.synchronize()
        except Exception:  # torch.AcceleratorError, or a bare RuntimeError in older versions
            return True
        return False


@contextlib.contextmanager
def seeded(compute: Compute, number: int) -> Iterator[None]:
    """Inside, the GPU's generator begins at a number; what is queued there keeps where it was then."""
    before = compute.cuda.get_rng_state(compute.device)
    compute.cuda.manual_seed(number)  # of the GPU whose stream this thread is in
    try:
        yield
    finally:
        compute.cuda.set_rng_state(before, compute.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLane:
    """A lane as a part of one graph.

    Attributes:
        compute: Its stream.
        members: Its sub-models in order; each takes the ensemble's input on the GPU.
    """

    compute: Compute
    members: Mapping[str, Callable[[Tree], Tree]]
