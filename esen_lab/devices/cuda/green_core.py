"""Green contexts through `cuda.core`, NVIDIA's own interface for Python, where it is installed.

It knows unequal groups in one call (from CUDA 13.1 on, in driver and bindings), and before that groups of one size, of
which each lane is dealt some. What it cannot do is done by the calls of `GreenDriver`: fine groups before 13.1, the
chain, and the proof.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from esen_lab.devices.cuda.green_driver import GreenDriver, RefusedSetError, Way
from esen_lab.errors import DeviceError

_LEAST_VERSION = 1  # before it, resources were not public


def green_driver() -> GreenDriver:
    """The best way to green contexts that is installed.

    Raises:
        DeviceError: The bindings or the driver are missing, or the driver is too old.
    """
    try:
        known = int(importlib.metadata.version("cuda-core").partition(".")[0]) >= _LEAST_VERSION
    except (importlib.metadata.PackageNotFoundError, ValueError):
        known = False
    if known:
        try:
            return GreenCore()
        except ImportError:  # a part of it is missing, or of other bindings
            pass
    return GreenDriver()


class GreenCore(GreenDriver):
    """`GreenDriver`, with groups, contexts and streams made by `cuda.core`.

    Raises:
        ImportError: `cuda.core` does not load.
        DeviceError: As `GreenDriver`.
    """

    def __init__(self) -> None:
        import cuda.core

        super().__init__()
        self._core: Any = cuda.core

    @property
    def ways(self) -> tuple[Way, ...]:
        """Unequal groups at once, equal ones dealt out, then the driver's own calls."""
        return (self._at_once, self._dealt, *super().ways)

    def _at_once(self, device: Any, sizes: Sequence[int], grain: int, *, fine: bool) -> list[list[Any]]:  # noqa: ARG002
        # Without a word on co-scheduling, CUDA 13.1 may still want what a lane of this size cannot have.
        wanted = {"count": list(sizes), **({"coscheduled_sm_count": 2} if fine else {})}
        groups = _tried(lambda: self._sms(device).split(self._core.SMResourceOptions(**wanted))[0])
        return [[group] for group in _right(groups, sizes)]

    def _dealt(self, device: Any, sizes: Sequence[int], grain: int, *, fine: bool) -> list[list[Any]]:
        number = sum(sizes) // grain
        wanted = {"count": [grain] * number, **({"coscheduled_sm_count": grain} if fine else {})}
        groups = _tried(lambda: self._sms(device).split(self._core.SMResourceOptions(**wanted))[0])
        left = iter(_right(groups, [grain] * number))
        return [list(itertools.islice(left, size // grain)) for size in sizes]

    def _sms(self, device: Any) -> Any:
        return self._device(device).resources.sm

    def _device(self, device: Any) -> Any:
        found = self._core.Device(int(device))
        found.set_current()  # a device of cuda.core is one thread's: whoever asks may be another than who began
        return found

    def context(self, groups: Sequence[Any], device: Any) -> Any:
        """A green context that has just the SMs of these groups."""
        if not isinstance(groups[0], self._core.SMResource):
            return super().context(groups, device)
        options = self._core.ContextOptions(resources=list(groups))
        return _tried(lambda: self._device(device).create_context(options))

    def sms_of(self, context: Any) -> int:
        """How many SMs a green context really has."""
        return int(context.resources.sm.sm_count) if self._is_ours(context) else super().sms_of(context)

    def stream(self, context: Any) -> Any:
        """A stream in a green context."""
        return _tried(context.create_stream) if self._is_ours(context) else super().stream(context)

    def address(self, stream: Any) -> int:
        """What torch takes a stream as."""
        return int(getattr(stream, "handle", stream))

    def drop_stream(self, stream: Any, context: Any) -> None:
        """Wait for a stream and destroy it."""
        if not self._is_ours(context):
            super().drop_stream(stream, context)
            return
        with self._current(context):
            try:
                self._ask("cuStreamSynchronize", stream.handle)
            finally:
                stream.close()

    def drop_context(self, context: Any) -> None:
        """Destroy a green context whose streams are gone."""
        if self._is_ours(context):
            context.close()
        else:
            super().drop_context(context)

    def seen_sms(self, context: Any, stream: Any, capability: str, blocks: int) -> frozenset[int]:
        """See `GreenDriver.seen_sms`."""
        return super().seen_sms(context, getattr(stream, "handle", stream), capability, blocks)

    @contextmanager
    def _current(self, context: Any) -> Iterator[None]:
        if not self._is_ours(context):
            with super()._current(context):
                yield
            return
        self._ask("cuCtxPushCurrent", context.handle)
        try:
            yield
        finally:
            self._ask("cuCtxPopCurrent")

    def _is_ours(self, context: Any) -> bool:
        return isinstance(context, self._core.Context)


def _right(groups: Sequence[Any], sizes: Sequence[int]) -> Sequence[Any]:
    found = [int(group.sm_count) for group in groups]
    if found != list(sizes):
        raise RefusedSetError(f"cuda.core makes groups of {list(sizes)} SMs", given=found)
    return groups


def _tried(make: Callable[[], Any]) -> Any:
    """What it makes. Whatever cuda.core raises, its own class of errors being private, means: not in this way."""
    try:
        return make()
    except DeviceError:
        raise
    except Exception as problem:
        raise RefusedSetError(
            "cuda.core makes green contexts", given=f"{type(problem).__name__}: {problem}"
        ) from problem
