"""What a session has switched: torch's global switches, the environment, and what else a lane must have as it has.

A network's answer depends on more than the network: the default dtype, denormals, autocast, a backend's flag. A lane is
another process (or another thread), so these travel to it: when it starts, and again when they changed since.

    SessionSettings.now()   what is set in this process and thread; the same object while nothing changed
    put(settings)           make it so here, touching only what differs
    Switched(named)         make some of it so for a moment: what an exported folder was exported under

Some switches hold for the process, some for the thread that set them (autocast, denormals, the default device): a lane
in a thread of the notebook's own process needs only those. What shares decide does not travel: numbers of threads,
affinity, and variables that a lane's place has set.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import locale
import logging
import operator
import os
import re
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from esen_lab.common.units import format_switch

# At run time, so that Python does not compute the product while it compiles: the smallest normal double, and a half.
_TINY, _HALF = 2.2250738585072014e-308, 0.5
_AUTOCAST = ("cpu", "cuda")
# Read by CUDA, MPS and OpenMP when they start: part of a lane's share.
_OF_PLACES = (b"CUDA_MPS_", b"CUDA_VISIBLE_DEVICES", b"CUDA_DEVICE_", b"OMP_", b"GOMP_", b"KMP_", b"MKL_", b"OPENBLAS_")
# Read by what computes, when it is loaded or first called: which instructions it uses, how threads wait, how memory is
# had. Lanes have numbers of threads of their own, and a folder or a file makes nothing faster.
_OF_SPEED = re.compile(
    rb"(ATEN_CPU_CAPABILITY|(ONEDNN|DNNL|MKLDNN|MKL|OPENBLAS|TORCHINDUCTOR|MALLOC)_\w+|OMP_WAIT_POLICY|GOMP_SPINCOUNT"
    rb"|KMP_BLOCKTIME|GLIBC_TUNABLES|LD_PRELOAD|NVIDIA_TF32_OVERRIDE|CUDA_LAUNCH_BLOCKING|CUBLAS_WORKSPACE_CONFIG)"
)
_NOT_OF_SPEED = re.compile(rb"\w+(_NUM_THREADS|_DYNAMIC|_DIRS?|_PATH|_FILE|VERBOSE|_JIT_DUMP)")
# Of these, what counts is what a process begins with.
_AT_START = (*_OF_PLACES, b"GLIBC_TUNABLES", b"LD_PRELOAD", b"MALLOC_")
_PRECISIONS = (
    ("generic", "all"),
    *((backend, work) for backend in ("mkldnn", "cuda") for work in ("all", "matmul", "conv", "rnn")),
)
_LOW = ("bf16", "tf32")
_action = operator.itemgetter(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What was set at one moment. Plain data.

    Attributes:
        process: Switches that hold for the process, in the order of `switches`; None where one could not be read.
        thread: The same for those of a thread.
        environment: `os.environ` as bytes, without what lanes' places decide.
        path: `sys.path`.
        folder: The working directory, "" where it is gone.
        of_speed: What the environment says about speed, "NAME=value" each, to the libraries that compute.
    """

    process: tuple[Any, ...]
    thread: tuple[Any, ...]
    environment: Mapping[bytes, bytes] = field(repr=False)
    path: tuple[str, ...] = field(repr=False)
    folder: str = ""
    of_speed: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """All of it, hashable."""
        return (self.process, self.thread, tuple(sorted(self.environment.items())), self.path, self.folder)

    @property
    def values(self) -> dict[str, Any]:
        """Every switch by its name."""
        process, thread = switches()
        table = zip((*process, *thread), (*self.process, *self.thread), strict=True)
        return {switch.name: value for switch, value in table}

    @property
    def unusual(self) -> tuple[str, ...]:
        """Switches that change how long a network takes, where they are not as a new process has them, for people.

        Then variables of the environment that do.
        """
        switched = (f"{name} {format_switch(value)}" for name, value in self._switched.items())
        return (*switched, *self.of_speed)

    @property
    def named(self) -> dict[str, Any]:
        """Switches that change what a network answers, where they are not as a new process has them, as plain data."""
        return {name: _as_plain(value) for name, value in self._switched.items()}

    @property
    def _switched(self) -> dict[str, Any]:
        at_start = _at_start()
        found = {
            name: value
            for name, value in self.values.items()
            if name in at_start and value is not None and value != at_start[name]
        }
        if any(found.get(_precision_name(*pair)) in _LOW for pair in _PRECISIONS if pair[1] == "all"):
            return found
        # torch.set_float32_matmul_precision("highest") writes this where a new process says nothing, which is the same
        # as long as no name above it asks for less.
        return {name: value for name, value in found.items() if (value, at_start[name]) != ("ieee", "none")}

    @property
    def rounds_more(self) -> bool:
        """Whether products of fp32 are computed with fewer digits than fp32 has."""
        at = self.values
        return (
            any(at[_autocast_name(device)] for device in _AUTOCAST)
            or any(at.get(_precision_name(*pair)) in _LOW for pair in _PRECISIONS if pair[0] != "cuda")
            or at["the precision of float32 products"] in ("high", "medium")
        )


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch: its name for people, and how it is read and set."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


class SessionSettings:
    """What is set in the session, looked at before every run. Not safe for several threads: its owner takes turns."""

    def __init__(self) -> None:
        self._last: Settings | None = None
        self._environment: dict[Any, Any] = {}
        self._path: list[str] = []
        # Lanes have these as they were when the process began that they are forked from, which is soon after this.
        self._of_speed = [told for key, told in _of_speed(os.environb) if key.startswith(_AT_START)]

    def now(self) -> Settings:
        """What is set now in this process and thread: the same object as last time where nothing changed."""
        process, thread = _readers()
        found, own = _read_all(process), _read_all(thread)
        folder = _folder()
        environment = _environment()
        last = self._last
        if (
            last is not None
            and environment == self._environment
            and sys.path == self._path
            and folder == last.folder
            and tuple(found) == last.process
            and tuple(own) == last.thread
        ):
            return last
        self._environment, self._path = dict(environment), list(sys.path)
        every = dict(_as_bytes(environment))
        of_speed = [told for key, told in _of_speed(every) if not key.startswith(_AT_START)]
        made = Settings(
            process=tuple(found),
            thread=tuple(own),
            environment={key: value for key, value in every.items() if not key.startswith(_OF_PLACES)},
            path=tuple(os.path.abspath(entry) for entry in sys.path),
            folder=folder,
            of_speed=tuple(sorted((*self._of_speed, *of_speed))),
        )
        if made != last:
            self._last = made
        assert self._last is not None
        return self._last


def put(settings: Settings, *, whole_process: bool = True) -> None:
    """Set here what is set there; what already is so is not touched, and what cannot be set here is left alone.

    Args:
        settings: What the session has.
        whole_process: Whether this is another process than the session's; else only what a thread has is set.
    """
    process, thread = switches()
    if whole_process:
        _put_environment(settings.environment)
        sys.path[:] = settings.path
        if settings.folder and settings.folder != _folder():
            with contextlib.suppress(OSError):  # it is gone for both
                os.chdir(settings.folder)
        _put_all(process, settings.process)
    if _put_thread(thread, settings.thread) and whole_process:
        # Threads that exist keep their own way with denormals; new ones have that of the thread that starts them.
        from esen_lab.lanes.openmp import end_threads

        end_threads()


def take_over(process: Sequence[Any], thread: Sequence[Any]) -> None:
    """Set in this process what a session on another machine has set; environment and paths stay this machine's own.

    Args:
        process: Switches that hold for the process, as `Settings` has them; empty: none is touched.
        thread: Those of a thread, likewise.
    """
    ours_process, ours_thread = switches()
    if process:
        _put_all(ours_process, process)
    if thread:
        _put_thread(ours_thread, thread)


@contextmanager
def with_threads_own(settings: Settings) -> Iterator[None]:
    """Have what a thread has set as in `settings`, for a moment, in this thread."""
    _, thread = switches()
    before = [_read(switch.read) for switch in thread]
    _put_thread(thread, settings.thread)
    try:
        yield
    finally:
        _put_thread(thread, before)


@contextmanager
def left_as_set() -> Iterator[list[str]]:
    """What code of the user's sets inside for this process or thread is afterwards as it was.

    That is: torch's switches and its number of threads, the environment but for what lanes' places decide, the working
    directory. Not `sys.path`, where what was imported by it may look for more.

    Yields:
        Filled at the end: what was put back, for people.
    """
    import torch

    looked = SessionSettings()
    before, threads = looked.now(), torch.get_num_threads()
    told: list[str] = []
    try:
        yield told
    finally:
        after = looked.now()
        if after is not before:
            put(replace(before, path=tuple(sys.path)))
            told += differences(looked.now(), after)
        if torch.get_num_threads() != threads:
            told.append(f"the number of threads ({threads} before, {torch.get_num_threads()} now)")
            torch.set_num_threads(threads)


class Switched:
    """Switches that are put in force for a moment at a time, each time in the same way. Safe for several threads.

    Some hold for the process: a second thread waits until the first has put them back.

    Args:
        named: What `Settings.named` gave, here or on another machine; what this torch does not have is left alone.
    """

    def __init__(self, named: Mapping[str, Any]) -> None:
        at_start = _at_start() if named else {}
        self._named = {name: _from_plain(value, at_start[name]) for name, value in named.items() if name in at_start}
        self._lock = threading.RLock()

    def __call__(self) -> AbstractContextManager[object]:
        """Inside, they are in force in this process and thread."""
        return self._switched() if self._named else nullcontext()

    @contextmanager
    def _switched(self) -> Iterator[None]:
        table = [switch for part in switches() for switch in part if switch.name in self._named]
        with self._lock:
            before = [_read(switch.read) for switch in table]
            try:
                _put_all(table, [self._named[switch.name] for switch in table])
                yield
            finally:
                _put_thread(table, before)


def differences(before: Settings, after: Settings) -> tuple[str, ...]:
    """What is set otherwise in `after`, for people."""
    told = [*switches_between(before, after)]
    names = before.environment.keys() | after.environment.keys()
    told += [
        f"the environment variable {os.fsdecode(name)}"
        for name in sorted(names)
        if before.environment.get(name) != after.environment.get(name)
    ]
    told += ["sys.path"] if before.path != after.path else []
    told += ["the working directory"] if before.folder != after.folder else []
    return tuple(told)


def switches_between(before: Settings, after: Settings) -> tuple[str, ...]:
    """Which switches are set otherwise in `after`, for people."""
    old, new = before.values, after.values
    return tuple(
        f"{name} ({format_switch(old[name])} before, {format_switch(new[name])} now)"
        for name in old
        if old[name] != new[name]
    )


# --- the table --------------------------------------------------------------------------------------------------------


@functools.cache
def switches() -> tuple[tuple[Switch, ...], tuple[Switch, ...]]:
    """All switches that this torch has: those of a process, those of a thread."""
    return tuple(_of_process()), tuple(_of_thread())


@functools.cache
def _usual() -> Mapping[str, Any]:
    """What a new process has, of what changes how long a network takes."""
    import torch

    return {
        "the default dtype": torch.float32,
        "the precision of float32 products": "highest",
        "deterministic algorithms": (False, False),
        "oneDNN": True,
        "NNPACK": True,
        "the fast path of attention": True,
        "flushing of denormals": False,
        "the default device": "cpu",
        **{_autocast_name(device): False for device in _AUTOCAST},
    }


@functools.cache
def _at_start() -> Mapping[str, Any]:
    """What a new process has, of what changes what a network answers and is the same on all machines.

    An entry that is another one in a later torch is written to exports once too often, and no more.
    """
    import torch

    pairs = (True, True)
    return {
        **_usual(),
        **{name: name not in _OFF_AT_START for name, _, _ in _FLAGS if not name.startswith("the preferred")},
        "sums of float16 products": pairs,
        "sums of bfloat16 products": pairs,
        **{_precision_name(*pair): "none" for pair in _PRECISIONS},
        **{_precision_name("cuda", work): "tf32" for work in ("conv", "rnn")},
        "the dtype of autocast on cpu": torch.bfloat16,
        "the dtype of autocast on cuda": torch.float16,
    }


def _as_plain(value: Any) -> Any:
    import torch

    return str(value) if isinstance(value, torch.dtype) else list(value) if isinstance(value, tuple) else value


def _from_plain(value: Any, like: Any) -> Any:
    """The inverse of `_as_plain`, for a switch that `like` is a value of; None, which nobody sets, for another kind."""
    import torch

    if isinstance(like, torch.dtype):
        found = getattr(torch, str(value).removeprefix("torch."), None)
        return found if isinstance(found, torch.dtype) else None
    if isinstance(like, tuple):
        return tuple(value) if isinstance(value, list) else None
    return value if type(value) is type(like) else None


@functools.cache
def _readers() -> tuple[list[Callable[[], Any]], list[Callable[[], Any]]]:
    process, thread = switches()
    return [switch.read for switch in process], [switch.read for switch in thread]


def _of_process() -> Iterator[Switch]:
    import torch

    c: Any = torch._C
    yield Switch("the default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Switch(
        "the precision of float32 products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    )
    yield Switch("deterministic algorithms", _determinism, lambda value: _set_determinism(*value))
    yield Switch("Python's recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Switch("the most digits of a whole number as text", sys.get_int_max_str_digits, sys.set_int_max_str_digits)
    every = locale.LC_ALL
    yield Switch("the locale", functools.partial(locale.setlocale, every), functools.partial(locale.setlocale, every))
    if hasattr(time, "tzset"):
        # Python reads the variable TZ when it is told to; whoever puts settings has put the environment before.
        yield Switch("the time zone", _time_zone, lambda _: time.tzset())
    for name, read, write in _FLAGS:
        if hasattr(c, read) and hasattr(c, write):
            yield Switch(name, getattr(c, read), functools.partial(_spread, getattr(c, write)))
    if hasattr(c, "_get_fp32_precision_getter"):
        for backend, work in _PRECISIONS:
            yield Switch(
                _precision_name(backend, work),
                functools.partial(c._get_fp32_precision_getter, backend, work),
                functools.partial(c._set_fp32_precision_setter, backend, work),
            )
    fast = torch.backends.mha
    yield Switch("the fast path of attention", fast.get_fastpath_enabled, fast.set_fastpath_enabled)
    if hasattr(c, "_set_sdp_priority_order"):
        yield Switch(
            "the order of kernels of attention",
            lambda: tuple(c._get_sdp_priority_order()),
            lambda value: c._set_sdp_priority_order(list(value)),
        )
    backends: Any = torch.backends
    einsum = backends.opt_einsum.m  # around it, a class that looks for the library at every reading
    for name in ("enabled", "strategy"):
        yield Switch(
            f"the order of einsum: {name}",
            functools.partial(getattr, einsum, name, None),
            functools.partial(setattr, backends.opt_einsum, name),
        )
    yield Switch("the quantized engine", c._get_qengine, c._set_qengine)
    yield Switch(
        "detection of anomalies",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
    )
    yield Switch(
        "the level that logging leaves out",
        functools.partial(getattr, logging.root.manager, "disable"),
        logging.disable,
    )
    yield Switch("filters that make errors of warnings", _warnings_that_raise, _cannot_be_set)
    yield from _of_torch_itself()


def _warnings_that_raise() -> tuple[tuple[Any, ...], ...]:
    """The filters that make errors of Python's own kinds of warnings, and those before them, which may keep some out.

    Lanes do not have them, as these would end what loads and executes networks there: answers are compared again.
    """
    if "error" not in map(_action, warnings.filters):
        return ()
    rows: list[tuple[Any, ...]] = []
    filters: Sequence[Any] = warnings.filters
    for action, message, category, module, line in filters:
        if category.__module__ == "builtins" and category is not ResourceWarning:  # which nobody can be sent
            rows.append((action, _text_of(message), category.__name__, _text_of(module), line))
        if category is Warning and not (message or module or line):
            break  # none that comes after is asked
    while rows and rows[-1][0] != "error":
        rows.pop()
    return tuple(rows)


def _text_of(pattern: Any) -> Any:
    """The text of a pattern; Python's own filters have bare texts, or none."""
    return getattr(pattern, "pattern", pattern)


def _of_torch_itself() -> Iterator[Switch]:
    """What was put into torch at run time. It cannot be set elsewhere: answers are compared again when it changes."""
    import torch
    import torch.library
    import torch.nn.functional
    from torch.nn.modules import module as shared

    for name, place in (
        ("functions put into torch.nn.functional", vars(torch.nn.functional)),
        ("functions put into torch._VF", vars(torch._VF)),
        ("methods put into torch.nn.Module", vars(torch.nn.Module)),
        ("methods put into torch.Tensor", vars(torch.Tensor)),
    ):
        yield Switch(name, functools.partial(_put_into, place, dict(place)), _cannot_be_set)
    hooks = [table for name, table in vars(shared).items() if name.startswith("_global_") and isinstance(table, dict)]
    yield Switch("hooks of all networks", functools.partial(_hooks_in, hooks), _cannot_be_set)
    yield Switch("modes of torch", _modes, _cannot_be_set)
    yield Switch("kernels put into operators of torch", _kernels_put_into_torch(), _cannot_be_set)


def _put_into(place: Mapping[str, Any], was: dict[str, Any]) -> tuple[str, ...]:
    if place == was:
        return ()
    if "__slotnames__" in place:  # written into a class by whoever copies one of its objects
        was["__slotnames__"] = place["__slotnames__"]
    changed = sorted(name for name in place.keys() | was.keys() if place.get(name) is not was.get(name))
    return tuple(f"{name} (object {_number_of(place.get(name))})" for name in changed)


def _hooks_in(tables: list[dict[Any, Any]]) -> tuple[int, ...]:
    return tuple(_number_of(hook) for table in tables for hook in table.values()) if any(tables) else ()


_GIVEN_BY_TORCH = ("Meta", "FuncTorch", "Nested", "MPS")
"""Kinds of kernels that torch's own code gives to operators when a part of it is first used, such as `vmap`."""


def _kernels_put_into_torch() -> Callable[[], tuple[str, ...]]:
    """What says which kernels Python code has given to operators of torch since, by `torch.library`."""
    import torch

    every: set[str] = getattr(torch.library, "_impls", set())
    known: dict[int, tuple[str, ...]] = {}

    def found() -> frozenset[str]:
        ours = (key for key in every if key.startswith("aten/"))
        return frozenset(key for key in ours if not key.rpartition("/")[2].startswith(_GIVEN_BY_TORCH))

    was = found()

    def read() -> tuple[str, ...]:
        if len(every) not in known:
            known.clear()
            known[len(every)] = tuple(sorted(found() - was))
        return known[len(every)]

    return read


def _modes() -> tuple[str, ...]:
    """The modes of torch that are on; but for a default device, which is kept as one."""
    import torch

    c: Any = torch._C
    if not c._len_torch_function_stack() and not c._len_torch_dispatch_stack():
        return ()
    from torch import overrides
    from torch.utils import _python_dispatch as dispatch

    stacks: Any = (overrides._get_current_function_mode_stack, dispatch._get_current_dispatch_mode_stack)
    found = [(type(mode), mode) for stack in stacks for mode in stack()]
    return tuple(
        f"{kind.__module__}.{kind.__qualname__} (object {_number_of(mode)})"
        for kind, mode in found
        if kind.__name__ != "DeviceContext"
    )


def _number_of(thing: Any) -> int:
    """A number that no other thing has had: the address of one that is gone may be another one's."""
    known, numbers = _numbered()
    if (found := known.get(id(thing))) is not None:
        return found[1]
    number, key = next(numbers), id(thing)
    try:
        known[key] = weakref.ref(thing, lambda _: known.pop(key, None)), number
    except TypeError:  # None, where a name is gone, and numbers, of which equal ones are the same
        return -key
    return number


@functools.cache
def _numbered() -> tuple[dict[int, tuple[weakref.ref[Any], int]], Iterator[int]]:
    return {}, itertools.count(1)


def _cannot_be_set(_: Any) -> None:
    """It is the session's own."""


def _of_decimals() -> Iterator[Switch]:
    import decimal

    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
    own = operator.attrgetter(*names)
    signals = list(decimal.getcontext().traps)

    def read() -> tuple[Any, ...]:
        context = decimal.getcontext()
        return (*own(context), *map(context.traps.__getitem__, signals))

    def write(value: tuple[Any, ...]) -> None:
        context = decimal.getcontext()
        for name, one in zip(names, value, strict=False):
            setattr(context, name, one)
        for signal, trapped in zip(signals, value[len(names) :], strict=True):
            context.traps[signal] = trapped

    yield Switch("the context of decimals", read, write)


def _of_numpy() -> Iterator[Switch]:
    import numpy as np

    def read() -> tuple[tuple[str, Any], ...]:
        return tuple(np.geterr().items())

    yield Switch("NumPy's handling of errors", read, lambda value: np.seterr(**dict(value)))


# Name for people, then how torch reads and sets it.
_FLAGS = (
    ("oneDNN", "_get_mkldnn_enabled", "_set_mkldnn_enabled"),
    ("deterministic oneDNN", "_get_mkldnn_deterministic", "_set_mkldnn_deterministic"),
    ("NNPACK", "_get_nnpack_enabled", "_set_nnpack_enabled"),
    (
        "sums in half precision on the CPU",
        "_get_cpu_allow_fp16_reduced_precision_reduction",
        "_set_cpu_allow_fp16_reduced_precision_reduction",
    ),
    (
        "filling of uninitialized memory",
        "_get_deterministic_fill_uninitialized_memory",
        "_set_deterministic_fill_uninitialized_memory",
    ),
    ("checks of sparse tensors", "_check_sparse_tensor_invariants", "_set_check_sparse_tensor_invariants"),
    ("warnings each time", "_get_warnAlways", "_set_warnAlways"),
    ("flash attention", "_get_flash_sdp_enabled", "_set_sdp_use_flash"),
    ("memory-efficient attention", "_get_mem_efficient_sdp_enabled", "_set_sdp_use_mem_efficient"),
    ("plain attention", "_get_math_sdp_enabled", "_set_sdp_use_math"),
    ("cuDNN", "_get_cudnn_enabled", "_set_cudnn_enabled"),
    ("benchmarking of cuDNN", "_get_cudnn_benchmark", "_set_cudnn_benchmark"),
    ("deterministic cuDNN", "_get_cudnn_deterministic", "_set_cudnn_deterministic"),
    (
        "sums of float16 products",
        "_get_cublas_allow_fp16_reduced_precision_reduction",
        "_set_cublas_allow_fp16_reduced_precision_reduction",
    ),
    (
        "sums of bfloat16 products",
        "_get_cublas_allow_bf16_reduced_precision_reduction",
        "_set_cublas_allow_bf16_reduced_precision_reduction",
    ),
    (
        "accumulating in float16",
        "_get_cublas_allow_fp16_accumulation",
        "_set_cublas_allow_fp16_accumulation",
    ),
    ("attention of cuDNN", "_get_cudnn_sdp_enabled", "_set_sdp_use_cudnn"),
    (
        "plain attention in half precision",
        "_get_math_sdp_allow_fp16_bf16_reduction",
        "_set_math_sdp_allow_fp16_bf16_reduction",
    ),
    ("the preferred library of linear algebra", "_get_linalg_preferred_backend", "_set_linalg_preferred_backend"),
    ("the preferred library of products", "_get_blas_preferred_backend", "_set_blas_preferred_backend"),
)


_OFF_AT_START = frozenset(
    (
        "deterministic oneDNN",
        "checks of sparse tensors",
        "warnings each time",
        "sums in half precision on the CPU",
        "benchmarking of cuDNN",
        "deterministic cuDNN",
        "accumulating in float16",
        "plain attention in half precision",
    )
)


def _of_thread() -> Iterator[Switch]:
    import torch

    on = functools.partial
    for device in _AUTOCAST:
        yield Switch(
            _autocast_name(device), on(torch.is_autocast_enabled, device), on(torch.set_autocast_enabled, device)
        )
        yield Switch(
            f"the dtype of autocast on {device}",
            on(torch.get_autocast_dtype, device),
            on(torch.set_autocast_dtype, device),
        )
    yield Switch("autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
    yield Switch("flushing of denormals", flushes_denormals, torch.set_flush_denormal)
    yield Switch("the default device", _default_device, _set_default_device)
    # Lanes record gradients where a member needs them; one that asks whether they are recorded is compared again.
    yield Switch("recording of gradients", torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield Switch("inference mode", torch.is_inference_mode_enabled, _cannot_be_set)
    yield from _of_numpy()
    yield from _of_decimals()


def flushes_denormals() -> bool:
    """Whether this thread computes with zero in place of denormal numbers; torch tells nobody what it has set."""
    return _TINY * _HALF == 0.0


def _determinism() -> tuple[bool, bool]:
    import torch

    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_determinism(mode: bool, warn_only: bool) -> None:
    import torch

    torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def _default_device() -> str:
    import torch

    # A default is kept as a mode; asking torch for it takes microseconds even where there is none.
    return str(torch.get_default_device()) if torch._C._len_torch_function_stack() else "cpu"


def _set_default_device(name: str) -> None:
    import torch

    # None and not "cpu": a default that is set makes every call of torch slower.
    torch.set_default_device(None if name == "cpu" else name)


def _autocast_name(device: str) -> str:
    return f"autocast on {device}"


def _precision_name(backend: str, work: str) -> str:
    return f"the precision of {backend} {work}"


def _time_zone() -> tuple[Any, ...]:
    return time.tzname, time.timezone, time.altzone


def _spread(write: Callable[..., Any], value: Any) -> None:
    """Set a switch that torch reads as a tuple and takes as arguments."""
    write(*value) if isinstance(value, tuple) else write(value)


# --- reading and setting ----------------------------------------------------------------------------------------------


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # torch refuses to say where its older and newer names were both used
        return None


def _read_all(readers: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each says: on the path of every run, so without a call of Python's for each."""
    try:
        return [read() for read in readers]
    except RuntimeError:
        return [_read(read) for read in readers]


def _put_all(table: Sequence[Switch], values: Sequence[Any]) -> bool:
    """Set what differs; whether anything did. Twice, since some switches change others."""
    changed = False
    for _ in range(2):
        for switch, value in zip(table, values, strict=True):
            if value is not None and switch.write is not _cannot_be_set and _read(switch.read) != value:
                changed = True
                with contextlib.suppress(Exception):  # this torch or this machine does not have it
                    switch.write(value)
    return changed


def _put_thread(table: Sequence[Switch], values: Sequence[Any]) -> bool:
    """The same of what a thread has, autocast among it, which keeps what it has cast until it is told to forget."""
    import torch

    changed = _put_all(table, values)
    if changed:
        torch.clear_autocast_cache()
    return changed


def _environment() -> Mapping[Any, Any]:
    data = getattr(os.environ, "_data", None)  # comparing it costs a tenth of comparing `os.environ`
    return data if isinstance(data, dict) else dict(os.environ)


def _as_bytes(environment: Mapping[Any, Any]) -> Iterator[tuple[bytes, bytes]]:
    for key, value in environment.items():
        yield os.fsencode(key), os.fsencode(value)


def _of_speed(environment: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, str]]:
    """The variables that change how long a network takes: (name, "NAME=value") of each."""
    for key, value in environment.items():
        if value and _OF_SPEED.fullmatch(key) and not _NOT_OF_SPEED.fullmatch(key):
            yield key, f"{os.fsdecode(key)}={value.decode(errors='backslashreplace')}"


def _put_environment(wanted: Mapping[bytes, bytes]) -> None:
    for key in [key for key in os.environb if not key.startswith(_OF_PLACES) and key not in wanted]:
        del os.environb[key]
    for key, value in wanted.items():
        if os.environb.get(key) != value:
            os.environb[key] = value


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""
