"""WHAT A SHARE MEANS: devices, their units, and how a lane is held to its share."""

from __future__ import annotations

from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.catalogue import DEVICES, open_device
from esen_lab.devices.cpu import CpuDevice
from esen_lab.devices.fake import FakeDevice, FakePlacement
from esen_lab.devices.meters import open_meter
from esen_lab.devices.telemetry import Channel, Mark, MarkLog, Sample, Sampler

__all__ = [
    "DEVICES",
    "Channel",
    "CpuDevice",
    "Device",
    "DeviceIdentity",
    "FakeDevice",
    "FakePlacement",
    "InForce",
    "Mark",
    "MarkLog",
    "Placement",
    "Sample",
    "Sampler",
    "open_device",
    "open_meter",
]
