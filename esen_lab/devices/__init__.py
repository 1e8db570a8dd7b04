"""WHAT A SHARE MEANS: devices, their units, and how a lane is held to its share."""

from __future__ import annotations

from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.catalogue import DEVICES, SHARING_MODES, name_for, offers, open_device, this_machine
from esen_lab.devices.cpu.device import CpuDevice
from esen_lab.devices.fake import FakeDevice, FakePlacement
from esen_lab.devices.meters import open_meter
from esen_lab.devices.offer import Offer
from esen_lab.devices.recorded import write_record
from esen_lab.devices.telemetry import Channel, Mark, MarkLog, Sample, Sampler

__all__ = [
    "DEVICES",
    "SHARING_MODES",
    "Channel",
    "CpuDevice",
    "Device",
    "DeviceIdentity",
    "FakeDevice",
    "FakePlacement",
    "InForce",
    "Mark",
    "MarkLog",
    "Offer",
    "Placement",
    "Sample",
    "Sampler",
    "name_for",
    "offers",
    "open_device",
    "open_meter",
    "this_machine",
    "write_record",
]
