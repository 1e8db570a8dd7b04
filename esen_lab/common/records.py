"""Records -> plain data, as it is saved and returned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def to_dict(record: Any) -> dict[str, Any]:
    """The public fields of a dataclass as plain data.

    Records in it are dicts too, tuples and lists are lists, and a figure that is no finite number is None.
    """
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record) if field.name[0] != "_"}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return to_dict(value) if is_dataclass(value) else value
