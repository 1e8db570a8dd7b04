"""Records -> plain data, as it is saved and returned, and rows of it -> a pandas table, where pandas is installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from esen_lab.errors import UsageError


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


def to_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `pandas.DataFrame` with one line per row; values and names as they are: seconds, bytes, units.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError(
            "A table of pandas needs pandas", given="none installed", hint="pip install pandas, or use to_dict()."
        ) from None
    return pandas.DataFrame(list(rows))
