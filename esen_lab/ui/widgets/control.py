"""The kernel's comms, and their messages on the control channel, because kernels read few comms while a cell is busy.

The shell channel is read when the cell is done, and in subshells (ipykernel 7) only the comms that a page has opened,
which widgets have not. The control channel is read by a thread of its own: what comes there is handed to the same
comms. Pages are told to use it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_KIND = "comm_msg"
_owners: set[int] = set()


def hear(owner: object) -> bool:
    """Hear comm messages on the control channel until `leave`: the only way to hear a widget's in time.

    Returns:
        Whether pages are to send their commands there.
    """
    kernel = _kernel()
    if kernel is None:
        return False
    if kernel.control_handlers.setdefault(_KIND, _take) is not _take:
        return False  # somebody else's, who may do something else with them
    _owners.add(id(owner))
    return True


def leave(owner: object) -> None:
    """Hear no more for `owner`; the last one takes the handler away."""
    _owners.discard(id(owner))
    kernel = _kernel()
    if not _owners and kernel is not None and kernel.control_handlers.get(_KIND) is _take:
        del kernel.control_handlers[_KIND]


def manager() -> Any:
    """The kernel's comm manager; None in a shell without one."""
    try:
        from comm import get_comm_manager
    except ImportError:
        return None
    return get_comm_manager()


def data_of(message: object) -> dict[str, Any]:
    """The data of a comm's message; {} where there is none."""
    for name in ("content", "data"):
        message = message.get(name) if isinstance(message, Mapping) else None
    return dict(message) if isinstance(message, Mapping) else {}


def _take(stream: Any, ident: str, message: dict[str, Any]) -> None:
    manager().comm_msg(stream, ident, message)


def _kernel() -> Any:
    """The kernel of this process, or None. Looked for, never made: without one there is no page that could ask."""
    module = sys.modules.get("ipykernel.kernelbase")
    kind = getattr(module, "Kernel", None)
    return kind.instance() if kind is not None and kind.initialized() else None
