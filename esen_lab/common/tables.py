"""Plain rows -> a pandas table, where pandas is installed. The only file that imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.errors import UsageError


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
