"""A GPU shared by NVIDIA MPS: a unit is one percent of its SMs, a lane is a process under a limit fixed at its start.

(The Multi-Process Service has nothing to do with Apple's `mps` backend of PyTorch.)

    P       a lane's percentage, 1..100
    N       SMs of the GPU without any limit
    n       SMs that CUDA reports inside the lane
    most    the largest n that P allows: P % of N, rounded up to a whole group of 8 SMs (the coarsest grain known)
    least   the smallest n that P explains: P % of N, less one such group

A limit is proven, never assumed. A client that cannot reach the daemon runs at full width and nobody says so. So a lane
counts only when the daemon lists its process, and when least <= n <= most. Lanes may ask for more than 100 % together:
NVIDIA itself advises some oversubscription.

Where a process of a lane sees one GPU, by its UUID, that GPU is "cuda:0" there whatever it is in the notebook.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esen_lab.common.surroundings import step
from esen_lab.common.units import check_units
from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.cpu.affinity import usable_cpus
from esen_lab.devices.cuda.cuda_errors import advice
from esen_lab.devices.cuda.gpus import Gpu, Machine, torch_too_new
from esen_lab.devices.cuda.mps_control import MpsDaemon, MpsPrograms, find_programs
from esen_lab.devices.cuda.mps_protocol import without_mps
from esen_lab.devices.offer import SharingMode
from esen_lab.errors import DeviceError, UsageError

UNITS = 100
GRAIN_SMS = 8
MOST_CLIENTS = 48  # of drivers up to CUDA 13.0; later ones serve more
DEFAULT_PIPE_FOLDER = "/tmp/nvidia-mps"  # noqa: S108  where the daemon listens when nobody says otherwise
_LEAST_CAPABILITY = (7, 0)  # limits came with Volta
_MOST_CPU_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsPlacement(Placement):
    """One lane's place on a GPU under MPS. The worker that applies it becomes a client of the daemon.

    Attributes:
        percentage: The share.
        sms: SMs of the whole GPU.
        gpu: The GPU's UUID.
        environment: What the process must have in its environment before it starts CUDA.
        folder: The daemon's folder.
        programs: The programs of MPS.
    """

    grace_s = 0.8  # for what the GPU is at; less than the second after which whoever ends the lanes gets impatient

    percentage: int
    sms: int
    gpu: str
    environment: Mapping[str, str]
    folder: str
    programs: MpsPrograms

    @property
    def units(self) -> int:
        """The lane's share, in percent."""
        return self.percentage

    @property
    def gpu_uuid(self) -> str:
        """The GPU's UUID."""
        return self.gpu

    def apply(self) -> InForce:
        """Become a client with this limit, and prove that it is in force.

        Raises:
            DeviceError: CUDA had been started before, cannot be started, or the limit is not in force.
        """
        import torch

        cuda = self.cuda()
        if cuda.is_initialized():
            raise DeviceError(
                "A limit of NVIDIA MPS is set before a process starts CUDA",
                given="CUDA was started already",
                hint="Something that was imported has used the GPU: import it in the sub-model's own code.",
            )
        for name in os.environ.keys() - without_mps(os.environ).keys():
            del os.environ[name]  # what the notebook was told may contradict the lane's own
        os.environ.update(self.environment)
        torch.set_num_threads(max(1, min(_MOST_CPU_THREADS, usable_cpus())))
        try:
            cuda.init()
            cuda.synchronize()  # makes the context: only then is this process a client
            sms = int(cuda.get_device_properties(0).multi_processor_count)
        except Exception as problem:
            said = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
            raise DeviceError("CUDA starts in a lane", given=said, hint=advice(said)) from problem
        self.daemon().check_client(os.getpid())
        check_limit(sms, self.percentage, self.sms)
        return InForce(
            units=self.percentage,
            description=f"{sms} of {self.sms} SMs, listed by the MPS daemon",
            torch_device=self.torch_device,
        )

    def use(self, active_units: int) -> None:
        """Nothing to switch: the limit of a process is fixed when it starts."""

    def retire(self, pid: int) -> None:
        """Have the daemon end a lane's process; killed with work in flight it could take the other lanes along."""
        with contextlib.suppress(DeviceError):  # no daemon, no clients: nothing is left to be orderly about
            self.daemon().terminate(pid, timeout_s=5.0)

    def daemon(self) -> MpsDaemon:
        """The daemon, as a client or the notebook sees it."""
        return MpsDaemon.at(self.folder, self.gpu, programs=self.programs)

    @property
    def torch_device(self) -> str:
        """What torch calls the GPU inside the lane."""
        return "cuda:0"


def most_sms(percentage: int, sms: int) -> int:
    """The most SMs that a limit may leave (`most` above)."""
    share = -(-sms * percentage // 100)
    return min(sms, -(-share // GRAIN_SMS) * GRAIN_SMS)


def least_sms(percentage: int, sms: int) -> int:
    """The fewest SMs that a limit explains (`least` above)."""
    return max(1, sms * percentage // 100 - GRAIN_SMS)


def check_limit(found: int, percentage: int, sms: int) -> None:
    """Make sure that the SMs a process has are those of its limit.

    Raises:
        DeviceError: It has more than the limit allows, or fewer than it explains: another limit is in force.
    """
    most, least = most_sms(percentage, sms), least_sms(percentage, sms)
    if 0 < found < least:
        raise DeviceError(
            f"A lane with {percentage} % of {sms} SMs has at least {least}",
            given=f"CUDA reports {found}",
            hint="Another limit is in force too: see get_default_active_thread_percentage of an adopted daemon, and "
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE where it was started.",
        )
    if not 1 <= found <= most:
        raise DeviceError(
            f"A lane with {percentage} % of {sms} SMs has at most {most}",
            given=f"CUDA reports {found}",
            hint="The limit is not in force: the process runs outside MPS, or the daemon has another default limit.",
        )


class CudaMpsDevice(Device):
    """One GPU under NVIDIA MPS.

    Nothing runs before the first `place`, which starts the daemon (or adopts the one it was told to), and after a fault
    makes it take clients again. Devices of one process that share a GPU share its daemon.

    Args:
        gpu: The GPU.
        machine: Whose it is: gives the versions for the identity.
        adopt: The folder of a daemon that already runs (its CUDA_MPS_PIPE_DIRECTORY); None for a private one.
        programs: Where MPS is; None looks for it.
        start: Starts a private daemon: `MpsDaemon.start`.
        holds_context: Whether this process holds a CUDA context on the GPU with that UUID.
        placement: What places are made of.

    Raises:
        DeviceError: The GPU is in MIG mode.
    """

    def __init__(
        self,
        gpu: Gpu,
        machine: Machine | None = None,
        *,
        adopt: str | Path | None = None,
        programs: MpsPrograms | None = None,
        start: Callable[..., MpsDaemon] = MpsDaemon.start,
        holds_context: Callable[[str], bool] | None = None,
        placement: type[MpsPlacement] = MpsPlacement,
    ) -> None:
        refused = missing(machine or Machine(gpus=(gpu,), driver="unknown"), gpu, look_for_programs=False)
        if refused:
            raise DeviceError(
                "NVIDIA MPS shares a whole GPU of the Volta generation or newer",
                given=f"{gpu.name}: {'; '.join(refused)}",
                hint=f"Choose another device: {step('lab.offers()', '%esen device')} lists them.",
            )
        self._gpu = gpu
        self._adopt = None if adopt is None else Path(adopt)
        self._programs = programs
        self._start = start
        self._holds_context = holds_context or holds_context_here
        self._placement = placement
        self._lock = threading.Lock()
        self._daemon: MpsDaemon | None = None
        machine = machine or Machine()
        self._identity = DeviceIdentity(
            kind="cuda mps",
            name=gpu.name,
            units=UNITS,
            unit="%",
            details={
                "sms": str(gpu.sms),
                "compute_capability": gpu.capability,
                "memory_bytes": str(gpu.memory_bytes),
                "driver": machine.driver or "unknown",
                "cuda": machine.torch_cuda or "unknown",
            },
        )

    @property
    def identity(self) -> DeviceIdentity:
        """The GPU's kind and versions, without its UUID: equal GPUs share stored points."""
        return self._identity

    @property
    def units(self) -> int:
        """Percent."""
        return UNITS

    @property
    def most_lanes(self) -> int:
        """How many processes the daemon serves at a time."""
        return MOST_CLIENTS

    @property
    def gpu(self) -> Gpu:
        """The GPU."""
        return self._gpu

    @property
    def hardware(self) -> str:
        """The GPU's UUID."""
        return self._gpu.uuid

    @property
    def notes(self) -> tuple[str, ...]:
        """What disturbs lanes at present."""
        found = []
        if self._holds_context(self._gpu.uuid):
            found.append(
                "This notebook's own process holds a CUDA context on this GPU: what it computes there is time-sliced "
                "against all lanes, which spoils figures. Move its modules off: "
                f"{step('lab.lanes.leave_gpu()', '%esen device --leave-gpu')}. "
                "The context itself goes with a restart of the kernel."
            )
        if self._gpu.compute_mode == "prohibited":
            found.append("This GPU's compute mode forbids CUDA; whoever administers it can change that.")
        return tuple(found)

    def place(self, shares: Sequence[int]) -> tuple[MpsPlacement, ...]:
        """Places for lanes, each under its own percentage; together they may be more than 100.

        Raises:
            UsageError: A share is not within 1..100, or there are more lanes than a daemon serves.
            DeviceError: There is no daemon and none can be started, or it does not recover from a fault.
        """
        if len(shares) > MOST_CLIENTS:
            raise UsageError(
                f"NVIDIA MPS serves at most {MOST_CLIENTS} processes on a GPU",
                given=f"{len(shares)} lanes",
                hint="Put several sub-models into one lane: a search with limits on lanes does.",
            )
        for share in shares:
            check_units(share, UNITS)
        daemon = self._ready_daemon()
        # The whole GPU is MPS's default, with nothing set: a limit of 100 % is another way through the driver.
        environments = [daemon.environment(None if share == UNITS else share) for share in shares]
        return tuple(
            self._placement(
                percentage=share,
                sms=self._gpu.sms,
                gpu=self._gpu.uuid,
                environment=environment,
                folder=str(daemon.folder),
                programs=daemon.programs,
            )
            for share, environment in zip(shares, environments, strict=True)
        )

    @property
    def daemon(self) -> MpsDaemon | None:
        """The daemon in use, or None before the first place."""
        return self._daemon

    def close(self) -> None:
        """Let go of the daemon; a private one ends with its last user. The next `place` starts afresh."""
        with self._lock:
            daemon, self._daemon = self._daemon, None
            if daemon is not None:
                _DAEMONS.release(daemon)

    def _ready_daemon(self) -> MpsDaemon:
        with self._lock:
            if self._daemon is not None and not self._daemon.alive:
                _DAEMONS.release(self._daemon)
                self._daemon = None
            if self._daemon is None:
                self._daemon = _DAEMONS.take(self._gpu.uuid, self._adopt, self._programs, self._start)
            if self._daemon.faulted():
                self._daemon.recover()
            return self._daemon


class _Daemons:
    """The daemons of this process, one per GPU and folder, with how many devices use each.

    Two private daemons on one GPU would time-slice their clients against each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, Path | None], tuple[MpsDaemon, int]] = {}

    def take(
        self, gpu: str, adopt: Path | None, programs: MpsPrograms | None, start: Callable[..., MpsDaemon]
    ) -> MpsDaemon:
        with self._lock:
            held = self._held.get((gpu, adopt))
            if held is not None and held[0].alive:
                self._held[gpu, adopt] = (held[0], held[1] + 1)
                return held[0]
            known = {"programs": programs}
            daemon = start(gpu, **known) if adopt is None else MpsDaemon.adopt(adopt, gpu, **known)
            self._held[gpu, adopt] = (daemon, 1)
            return daemon

    def release(self, daemon: MpsDaemon) -> None:
        with self._lock:
            key = next((key for key, (held, _) in self._held.items() if held is daemon), None)
            if key is None:
                daemon.stop()  # a dead one whose place another has taken
                return
            users = self._held[key][1] - 1
            if users:
                self._held[key] = (daemon, users)
                return
            del self._held[key]
            daemon.stop()


_DAEMONS = _Daemons()


def holds_context_here(uuid: str) -> bool:
    """Whether this process holds a CUDA context of torch on the GPU with that UUID. Starts nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    for index in range(torch.cuda.device_count()):
        if has_context is not None and not has_context(index):
            continue
        known = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
        if not known or uuid.endswith(known):
            return True
    return False


# --- the entry in the catalogue --------------------------------------------------------------------------------------


def missing(machine: Machine, gpu: Gpu, *, look_for_programs: bool = True) -> tuple[str, ...]:
    """What is not there for MPS on a GPU, in words; () where nothing is missing."""
    found = []
    if sys.platform != "linux":
        found.append("Linux: NVIDIA MPS exists there only")
    if gpu.mig:
        found.append("a whole GPU: this one is in MIG mode, whose parts are not shared again here")
    if gpu.capability and tuple(int(part) for part in gpu.capability.split(".")) < _LEAST_CAPABILITY:
        found.append(f"a GPU of compute capability 7.0 or more for limits; this one has {gpu.capability}")
    if machine.torch_cuda == "":
        found.append("a PyTorch that was built for CUDA")
    if newer := torch_too_new(machine):
        found.append(newer)
    if look_for_programs:
        try:
            find_programs()
        except DeviceError as problem:
            found.append(f"the programs of MPS: {problem.given}")
    return tuple(found)


def open_mps(machine: Machine, gpu: Gpu, option: str) -> CudaMpsDevice:
    """The device; `option` is "", or "adopt" for the daemon that already runs, or "adopt FOLDER"."""
    word, _, folder = option.partition(" ")
    if word not in ("", "adopt"):
        raise UsageError(
            "A GPU under NVIDIA MPS is named 'cuda:0 mps', or 'cuda:0 mps adopt' for a daemon that already runs",
            given=option,
        )
    adopt = (folder.strip() or os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or DEFAULT_PIPE_FOLDER) if word else None
    return CudaMpsDevice(gpu, machine, adopt=adopt)


def try_mps(device: Any) -> str:
    """Start a lane at half the GPU in a process of its own, prove its limit and let it compute something."""
    from esen_lab.devices.cuda.mps_trial import try_lane

    try:
        (placement,) = device.place([UNITS // 2])
        return try_lane(placement)
    finally:
        device.close()


MPS = SharingMode(
    word="mps",
    unit="%",
    rank=20,
    how="The programs nvidia-cuda-mps-control and nvidia-cuda-mps-server come with the driver (Debian and Ubuntu: "
    "nvidia-compute-utils); a PyTorch for CUDA is chosen on pytorch.org, under Get started.",
    missing=missing,
    units=lambda gpu: UNITS,  # noqa: ARG005
    open=open_mps,
    test=try_mps,
)
