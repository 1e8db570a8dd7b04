"""A GPU shared by green contexts: disjoint groups of SMs in one process, without a daemon.

Lanes live in this process, each on a stream of its own green context. All is made when a lane's place is applied and
let go by `close`, in this order: streams, green contexts, the hold on the primary context.

    a lane with the whole device     no green context: a plain stream with every SM, also those no group has
    lanes that fit together          one division: disjoint
    lanes that sum to more           several: lanes of one division are disjoint, those of different ones share
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from esen_lab.common.locks import Lock
from esen_lab.common.packages import can_import
from esen_lab.common.surroundings import step
from esen_lab.common.units import check_units
from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.cuda.gpus import Gpu, Machine, torch_too_new
from esen_lab.devices.cuda.green_core import green_driver
from esen_lab.devices.cuda.green_driver import GreenDriver, RefusedSetError, Way
from esen_lab.devices.cuda.green_split import Grain, layers_of
from esen_lab.devices.offer import SharingMode
from esen_lab.errors import DeviceError, UsageError

_BLOCKS_PER_SM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the small kernel saw in lanes that are open at the same time.

    Attributes:
        sms: For each lane, how many SMs its green context has.
        seen: For each lane, the SM numbers that its blocks ran on.
    """

    sms: tuple[int, ...]
    seen: tuple[frozenset[int], ...]

    @property
    def disjoint(self) -> bool:
        """Whether no SM was seen in two lanes."""
        return sum(map(len, self.seen)) == len(frozenset().union(*self.seen))

    def __str__(self) -> str:
        """For people."""
        parts = [f"{len(seen)} of {sms} SMs seen" for sms, seen in zip(self.sms, self.seen, strict=True)]
        return f"{'disjoint' if self.disjoint else 'NOT disjoint'}: {', '.join(parts)}"


class GreenPlacement(Placement):
    """One lane's place: made by `GreenDevice.place`, opened by `apply` in this process, let go by `release`."""

    in_process = True

    def __init__(self, group: _Group, lane: int, units: int) -> None:
        self._group = group
        self._lane = lane
        self._units = units

    @property
    def units(self) -> int:
        """The lane's share."""
        return self._units

    def apply(self) -> InForce:
        """Open all green contexts of the lanes placed together, once, and report this one's SMs as the driver does."""
        opened = self._group.open()[self._lane]
        kind = "green context" if opened.context is not None else "whole GPU, no green context"
        return InForce(units=self._units, description=f"{opened.sms} SMs, {kind}", torch_device=self.torch_device)

    @property
    def torch_device(self) -> str:
        """Where the lane's tensors live."""
        return f"cuda:{self._group.index}"

    @property
    def gpu_uuid(self) -> str:
        """The GPU's UUID: its counters are read while a lane works alone."""
        return self._group.uuid

    @property
    def stream(self) -> Any:
        """The lane's stream as torch takes it (`torch.cuda.ExternalStream`), or None: torch makes a plain one."""
        return self._as_torch(self._group.open()[self._lane].address)

    def another_stream(self) -> Any:
        """A further stream of the lane's own green context: a plain one would run on the whole GPU."""
        return self._as_torch(self._group.another_stream(self._lane))

    def _as_torch(self, address: int) -> Any:
        if not address:
            return None
        import torch

        return torch.cuda.ExternalStream(  # type: ignore[no-untyped-call]
            address, device=torch.device(self.torch_device)
        )

    def use(self, active_units: int) -> None:
        """All of the share is always used: the SMs of a green context are fixed when it is made."""

    def release(self) -> None:
        """The lane has ended: its stream and context go when all lanes placed together have. May be called again."""
        self._group.left(self._lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    sms: int  # 0: a further stream in the context of another
    context: Any = None
    stream: Any = None
    address: int = 0  # of the stream


class _Group:
    """Lanes placed together; their groups of SMs must come from the same divisions."""

    def __init__(self, device: GreenDevice, shares: tuple[int, ...]) -> None:
        self._device = device
        self._shares = shares
        self._lock = Lock()
        self._lanes: tuple[_Opened, ...] | None = None
        self._waiting = set(range(len(shares)))
        self._more: list[_Opened] = []  # further streams, each with its lane's context

    @property
    def index(self) -> int:
        return self._device.index

    @property
    def uuid(self) -> str:
        return self._device.uuid

    def another_stream(self, lane: int) -> int:
        """The address of a further stream in a lane's green context; 0 where it has none."""
        with self._lock:
            opened = self.open()[lane]
            if opened.context is None:
                return 0
            self._more.append(self._device.open_stream(opened.context))
            return self._more[-1].address

    def open(self) -> tuple[_Opened, ...]:
        with self._lock:
            if self._lanes is None:
                if not self._waiting:
                    raise DeviceError("A lane is used before it ends", given="one that was released")
                self._lanes = self._device.open_lanes(self._shares)
            return self._lanes

    def left(self, lane: int) -> None:
        with self._lock:
            self._waiting.discard(lane)
            if not self._waiting and self._lanes is not None:
                lanes, self._lanes = (*self._more, *self._lanes), None
                self._more = []
                self._device.close_lanes(lanes)

    def close(self) -> None:
        with self._lock:
            for lane in sorted(self._waiting):
                self.left(lane)


class GreenDevice(Device):
    """`cuda:N green`: a unit is a group of SMs.

    Args:
        index: As torch counts.
        name: The hardware's own name.
        sms: Its SMs.
        capability: Its compute capability, "9.0".
        grain: In which groups of SMs the driver divides it; a unit is one of them.
        fine: Whether these groups ignore co-scheduling: clusters of thread blocks may not fit into them.
        details: Whatever else changes latencies, for the identity: driver and library versions.
        uuid: The GPU's, as NVML and CUDA have it.
        driver: Makes the way to the CUDA driver, when the first lane opens.
    """

    def __init__(
        self,
        *,
        index: int = 0,
        name: str,
        sms: int,
        capability: str,
        grain: Grain,
        fine: bool = False,
        details: dict[str, str] | None = None,
        uuid: str = "",
        driver: Callable[[], GreenDriver] = green_driver,
    ) -> None:
        self.index = index
        self._uuid = uuid
        self._sms = sms
        self._capability = capability
        self._fine = fine
        self._grain = grain.sms
        self._new_driver = driver
        self._driver: GreenDriver | None = None
        self._handle: Any = None
        self._lock = Lock()
        self._groups: list[_Group] = []
        self._identity = DeviceIdentity(
            kind="cuda green",
            name=name,
            units=grain.groups,
            unit=f"group of {self._grain} SMs",
            details={**(details or {}), "sms": str(sms), "co-scheduling": "ignored" if fine else "kept"},
        )

    @property
    def identity(self) -> DeviceIdentity:
        """What it is."""
        return self._identity

    @property
    def uuid(self) -> str:
        """The GPU's UUID; "" where it is not known."""
        return self._uuid

    @property
    def hardware(self) -> str:
        """The GPU's UUID; where it is not known, how torch counts it."""
        return self._uuid or f"cuda-{self.index}"

    @property
    def units(self) -> int:
        """Groups of SMs."""
        return self._identity.units

    @property
    def grain(self) -> int:
        """SMs per unit."""
        return self._grain

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left over, and what disjoint SMs still share."""
        left = self._sms - self.units * self._grain
        over = (
            (f"{left} of {self._sms} SMs fit into no group; a lane with the whole device uses them.",) if left else ()
        )
        return (*over, "Lanes have SMs of their own; caches, memory bandwidth and power are shared.")

    def place(self, shares: Sequence[int]) -> tuple[GreenPlacement, ...]:
        """Places for lanes that run at the same time; nothing is opened before one of them is applied."""
        for share in shares:
            check_units(share, self.units)
        group = _Group(self, tuple(shares))
        with self._lock:
            self._groups.append(group)
        return tuple(GreenPlacement(group, lane, share) for lane, share in enumerate(shares))

    def prove(self, shares: Sequence[int]) -> Proof:
        """Open lanes of these shares, see on which SMs their blocks run, and close them.

        Args:
            shares: Units per lane, together at most `units`.

        Raises:
            UsageError: They do not fit together, or one is the whole device, which is no green context.
            DeviceError: The driver refused, a lane ran on more SMs than it has, or two lanes on the same one.
        """
        if max(shares, default=0) >= self.units:
            raise UsageError("Only lanes smaller than the device can be disjoint", given=list(shares))
        if sum(shares) > self.units:
            raise UsageError(
                f"Disjoint groups have at most {self.units} units of {self._grain} SMs together",
                given=f"{' + '.join(map(str, shares))} = {sum(shares)}",
                hint="Make shares smaller, or let lanes overlap in several layers.",
            )
        lanes = self.open_lanes(tuple(shares))
        try:
            assert self._driver is not None
            blocks = _BLOCKS_PER_SM * self._sms
            seen = tuple(self._driver.seen_sms(x.context, x.stream, self._capability, blocks) for x in lanes)
        finally:
            self.close_lanes(lanes)
        proof = Proof(sms=tuple(lane.sms for lane in lanes), seen=seen)
        if not proof.disjoint or any(len(s) > n for n, s in zip(proof.sms, seen, strict=True)):
            raise DeviceError("Green contexts of one division run on SMs of their own", given=str(proof))
        return proof

    def close(self) -> None:
        """Let go of every lane that is still open, and of the GPU. May be called again, and used afterwards."""
        with self._lock:
            groups, self._groups = self._groups, []
            try:
                for group in groups:
                    group.close()
            finally:
                if self._driver is not None:
                    driver, self._driver = self._driver, None
                    driver.release(self._handle)

    # --- for lanes placed together -------------------------------------------------------------------------------

    def open_lanes(self, shares: tuple[int, ...]) -> tuple[_Opened, ...]:
        """Cut, describe, create: all lanes or none."""
        with self._lock:
            driver = self._connected()
            opened: dict[int, _Opened] = {}
            try:
                for layer in layers_of(self.units, shares):
                    if shares[layer[0]] == self.units:
                        opened[layer[0]] = _Opened(sms=self._sms)
                    else:
                        opened.update(self._open_layer(driver, {lane: shares[lane] for lane in layer}))
            except BaseException:
                self.close_lanes(tuple(opened.values()))
                raise
            return tuple(opened[lane] for lane in range(len(shares)))

    def open_stream(self, context: Any) -> _Opened:
        """A further stream in a green context; `close_lanes` lets go of it."""
        with self._lock:
            driver = self._connected()
            stream = driver.stream(context)
            return _Opened(sms=0, context=context, stream=stream, address=driver.address(stream))

    def _open_layer(self, driver: GreenDriver, shares: Mapping[int, int]) -> dict[int, _Opened]:
        """Lanes of one division, in the first way that the driver takes; all or none."""
        refused: RefusedSetError | None = None
        for way in driver.ways:
            try:
                return self._open_by(driver, way, shares)
            except RefusedSetError as problem:
                refused = refused or problem  # the first is the one to tell: later ways promise less
        assert refused is not None
        raise refused

    def _open_by(self, driver: GreenDriver, way: Way, shares: Mapping[int, int]) -> dict[int, _Opened]:
        # The largest first: what comes later is the more scattered, which matters least to small lanes.
        lanes = sorted(shares, key=lambda lane: (-shares[lane], lane))
        opened: dict[int, _Opened] = {}
        try:
            sizes = [shares[lane] * self._grain for lane in lanes]
            divided = way(self._handle, sizes, self._grain, fine=self._fine)
            for lane, size, groups in zip(lanes, sizes, divided, strict=True):
                context = driver.context(groups, self._handle)
                opened[lane] = _Opened(sms=size, context=context)  # noted before anything else can fail
                real = driver.sms_of(context)
                stream = driver.stream(context)
                opened[lane] = _Opened(sms=real, context=context, stream=stream, address=driver.address(stream))
        except BaseException:
            self.close_lanes(tuple(opened.values()))
            raise
        return opened

    def close_lanes(self, lanes: Sequence[_Opened]) -> None:
        """Streams first, then contexts. A failure does not keep the others from being let go; the first is raised."""
        with self._lock:
            driver = self._driver
            if driver is None:
                return
            problems: list[DeviceError] = []
            drops: list[Callable[[], None]] = []
            drops += [partial(driver.drop_stream, x.stream, x.context) for x in lanes if x.stream is not None]
            drops += [partial(driver.drop_context, x.context) for x in lanes if x.context is not None and x.sms]
            for drop in drops:
                try:
                    drop()
                except DeviceError as problem:
                    problems.append(problem)
            if problems:
                raise problems[0]

    def _connected(self) -> GreenDriver:
        if self._driver is None:
            driver = self._new_driver()
            self._handle = driver.device(self.index)
            self._driver = driver
        return self._driver


def self_test(device: GreenDevice) -> str:
    """Prove that two unequal lanes are disjoint, and return what was seen in one line. Uses CUDA in this process.

    Raises:
        DeviceError: They are not, or the driver refused.
    """
    if device.units < 2:
        raise DeviceError("Sharing needs at least two units", given=f"{device.units} {device.identity.unit}")
    small = max(1, device.units // 4)
    try:
        seen = str(device.prove((device.units - small, small)))
    except BaseException:
        with contextlib.suppress(DeviceError):  # the first failure is the one to tell
            device.close()
        raise
    device.close()
    return seen


# --- the entry in the catalogue --------------------------------------------------------------------------------------

_LEAST_CUDA = (12, 4)


def missing(machine: Machine, gpu: Gpu) -> tuple[str, ...]:
    """What is not there for green contexts on a GPU, in words; () where nothing is missing."""
    found = []
    if gpu.mig:
        found.append("a whole GPU: this one is in MIG mode, whose parts are not shared again here")
    driver = tuple(int(part) for part in machine.cuda_driver.split(".") if part.isdigit())
    if driver and driver < _LEAST_CUDA:
        found.append(f"a driver for CUDA 12.4 or newer; this one speaks {machine.cuda_driver}")
    if machine.torch_cuda == "":
        found.append("a PyTorch that was built for CUDA")
    if newer := torch_too_new(machine):
        found.append(newer)
    if "cuda.bindings" not in sys.modules and not can_import("cuda.bindings"):
        found.append("the package cuda-bindings")
    if gpu.grain is None and driver >= _LEAST_CUDA:
        found.append("an answer of the driver to how it divides this GPU into groups of SMs")
    return tuple(found)


def open_green(machine: Machine, gpu: Gpu, option: str) -> GreenDevice:
    """The device; `option` is "", or "fine" for the smallest units, without co-scheduling."""
    if option not in ("", "fine"):
        raise UsageError(
            "A GPU under green contexts is named 'cuda:0 green', or 'cuda:0 green fine' for the smallest units",
            given=option,
        )
    grain = gpu.fine_grain if option else gpu.grain
    if grain is None:
        raise DeviceError(
            "Green contexts need a driver that says into which groups of SMs it divides a GPU",
            given=f"{gpu.name}: it did not say",
            hint=f"Choose another device: {step('lab.offers()', '%esen device')} lists them.",
        )
    known = {"driver": machine.driver, "cuda": machine.torch_cuda or "", "memory_bytes": str(gpu.memory_bytes)}
    return GreenDevice(
        index=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        sms=gpu.sms,
        capability=gpu.capability,
        grain=grain,
        fine=option == "fine",
        details={key: value for key, value in known.items() if value},
    )


def try_green(device: Any) -> str:
    """`self_test` of a device of this kind."""
    return self_test(device)


GREEN = SharingMode(
    word="green",
    unit="group of SMs",
    rank=10,  # behind MPS: lanes are threads of one process, which share the interpreter's lock
    how="cuda-bindings comes with a PyTorch for CUDA, or by: pip install cuda-bindings; the driver comes from NVIDIA.",
    missing=missing,
    units=lambda gpu: gpu.grain.groups if gpu.grain else None,
    open=open_green,
    test=try_green,
)
