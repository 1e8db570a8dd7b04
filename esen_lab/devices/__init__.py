"""WHAT A SHARE MEANS: devices, their units, and how a lane is held to its share."""

from __future__ import annotations

from esen_lab.devices.base import Device, DeviceIdentity, InForce, Placement
from esen_lab.devices.catalogue import DEVICES, open_device
from esen_lab.devices.cpu import CpuDevice

__all__ = ["DEVICES", "CpuDevice", "Device", "DeviceIdentity", "InForce", "Placement", "open_device"]
