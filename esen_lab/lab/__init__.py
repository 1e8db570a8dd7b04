"""The lab: one ensemble on one device, one short method per stage. What a user holds in hand."""

from esen_lab.lab.lab import Lab
from esen_lab.lab.records import DeviceChange, Status

__all__ = ["DeviceChange", "Lab", "Status"]
