"""What a child is told, read as the pickle that it is: only the fork server and its workers import this.

The notebook's process never does: what it reads from children is plain data (`messages.py`).
"""

from __future__ import annotations

import pickle
from typing import Any

from esen_lab.lanes.wire import Frame


def order_in(frame: Frame) -> Any:
    """The record in a frame from the notebook's process, which runs the sub-models' code here anyway."""
    return pickle.loads(frame.body)  # noqa: S301  from the parent alone
