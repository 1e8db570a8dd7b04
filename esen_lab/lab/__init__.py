"""The lab: one ensemble on one device, one short method per stage. What a user holds in hand."""

from esen_lab.lab.lab import Lab
from esen_lab.lab.lab_status import Action, DeviceChange, NextStep, Status
from esen_lab.lab.state import LabState

__all__ = ["Action", "DeviceChange", "Lab", "LabState", "NextStep", "Status"]
