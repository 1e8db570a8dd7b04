"""Recorded latencies as a file, to plan for a device that is elsewhere: `Lab(device="fake:PATH")`.

    {"name": "NVIDIA A100", "units": 100, "unit": "percent", "latency_s": {"resnet": {"30": 0.021, "100": 0.009}}}

What else is in the file is for people.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from esen_lab.common.units import check_name
from esen_lab.errors import StoreError, UsageError
from esen_lab.files import MOST_SUBMODELS, Kind, Name, Units, converted, decode_json, read_bytes, write_file
from esen_lab.files.schemas import Latency

RECORD_FILE = Kind(
    what="a recorded profile",
    is_one=lambda head: head.lstrip().startswith(b"{") and b'"latency_s"' in head and b'"units"' in head,
    example="record.json",
)
_MOST_BYTES = 16_000_000


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What such a file holds: names of device and unit, its size, and for each sub-model seconds by share."""

    name: Annotated[str, Meta(max_length=200)]
    units: Units
    unit: Annotated[str, Meta(max_length=40)] = "percent"
    latency_s: Annotated[dict[Name, dict[Units, Latency]], Meta(min_length=1, max_length=MOST_SUBMODELS)]


def read_record(path: str | os.PathLike[str]) -> Recorded:
    """Read a file of recorded latencies.

    Raises:
        StoreError: It cannot be read, or is not such a file.
    """
    data = read_bytes(path, most=_MOST_BYTES)
    try:
        record = converted(decode_json(data), Recorded, "the record")
        for name in record.latency_s:
            check_name(name)
    except (StoreError, UsageError) as problem:
        raise not_a_record(path, problem) from problem
    return record


def not_a_record(path: str | os.PathLike[str], problem: Exception) -> StoreError:
    """That a file is no record, with an example of one."""
    return StoreError(
        'A recorded profile is JSON: {"name": "NVIDIA A100", "units": 100, "latency_s": {"a": {"30": 0.02}}}',
        given=f"{path}: {problem}",
    )


def write_record(path: str | os.PathLike[str], record: Mapping[str, Any]) -> Path:
    """Write latencies that `read_record` reads, whole or not at all, in the place of another record or of nothing.

    Raises:
        UsageError: The name is taken by something else, or the record is none that could be read again.
        StoreError: The file cannot be written.
    """
    try:
        data = msgspec.json.format(json.dumps(record, allow_nan=False).encode(), indent=1) + b"\n"
        converted(decode_json(data), Recorded, "the record")
    except (ValueError, TypeError, RecursionError, StoreError) as problem:
        raise UsageError("A record can be read again", given=str(problem)) from problem
    return write_file(path, data, RECORD_FILE)
