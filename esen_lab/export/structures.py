"""The structure of a tree as JSON, and back: lists for tuples, and no number that JSON does not have."""

from __future__ import annotations

import math
from typing import Any

from esen_lab.common.trees import Structure


def to_json(structure: Structure | object) -> Any:
    """Plain data. A constant that is NaN or infinite is known by its exact text alone."""
    if not isinstance(structure, tuple):
        return structure
    if len(structure) == 3 and isinstance(structure[1], float) and not math.isfinite(structure[1]):
        return [structure[0], None, structure[2]]
    return [to_json(part) for part in structure]


def from_json(data: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
        ValueError: The exact text of a constant is no number.
    """
    if not isinstance(data, list):
        return data
    match data:  # no key of a dict is a float or nothing, so a list of keys does not pass for a constant
        case ["const", float() | None, str() as exact]:
            return ("const", float.fromhex(exact), exact)
    return tuple(map(from_json, data))
