"""WHAT A SHARE MEANS: devices, their units, and how a lane is held to its share."""

from __future__ import annotations

from esen_lab.devices.base import Crowded, Device, DeviceIdentity, InForce, Placement, Retiring
from esen_lab.devices.catalogue import DEVICES, MECHANISMS, name_for, offers, open_device, this_machine
from esen_lab.devices.cpu import CpuDevice
from esen_lab.devices.fake import FakeDevice, FakePlacement
from esen_lab.devices.meters import open_meter
from esen_lab.devices.offer import Offer
from esen_lab.devices.telemetry import Channel, Mark, MarkLog, Sample, Sampler

__all__ = [
    "DEVICES",
    "MECHANISMS",
    "Channel",
    "CpuDevice",
    "Crowded",
    "Device",
    "DeviceIdentity",
    "FakeDevice",
    "FakePlacement",
    "InForce",
    "Mark",
    "MarkLog",
    "Offer",
    "Placement",
    "Retiring",
    "Sample",
    "Sampler",
    "name_for",
    "offers",
    "open_device",
    "open_meter",
    "this_machine",
]
