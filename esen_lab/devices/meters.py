"""The meters of a device: what can be read about it on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from esen_lab.devices.base import Device
from esen_lab.devices.telemetry import Joined, Meter
from esen_lab.errors import DeviceError


def open_meter(device: Device, workers: Callable[[], Sequence[tuple[str, int]]]) -> Meter:
    """What reads a device while somebody watches: this machine's CPU, and NVIDIA GPUs where the driver is there.

    Args:
        device: The device; its own cores are the ones that are read where it is a CPU.
        workers: The (label, process id) of the workers that are alive; asked at each reading.

    Raises:
        DeviceError: The libraries that read the machine are not installed.
    """
    return meter_of([cpu for core in device.cores for cpu in core], workers)


def meter_of(cpus: Sequence[int], workers: Callable[[], Sequence[tuple[str, int]]]) -> Meter:
    """What reads some of this machine's logical CPUs, and its NVIDIA GPUs where the driver is there.

    Args:
        cpus: Their numbers; none: all.
        workers: As for `open_meter`.

    Raises:
        DeviceError: The libraries that read the machine are not installed.
    """
    try:
        from esen_lab.devices.cpu.meter import CpuMeter
    except ImportError as problem:
        raise DeviceError(
            f"Watching a device needs psutil: {problem}", hint="Install it: pip install 'esen_lab[notebook]'."
        ) from problem
    from esen_lab.devices.cuda.nvml import NvmlMeter

    gpus = NvmlMeter.open()
    cpu = CpuMeter(workers, cores=cpus or None)
    return Joined(gpus, cpu) if gpus is not None else cpu
