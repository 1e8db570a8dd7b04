"""What a lane does when it is told something: one `Order`, one call of its engine.

The same for a lane that is a process of its own and for one that is a thread of the notebook's process.
"""

from __future__ import annotations

from typing import Any

from esen_lab.devices import InForce, Placement
from esen_lab.errors import UsageError
from esen_lab.lanes.device_engine import DeviceEngine
from esen_lab.lanes.engine import Engine
from esen_lab.lanes.messages import MEMORY, Order
from esen_lab.lanes.stream import Compute


def engine_for(placement: Placement, in_force: InForce) -> Engine:
    """The engine of a lane whose share is in force."""
    if in_force.torch_device == "cpu":
        return Engine(placement)
    more = placement.another_stream
    return DeviceEngine(placement, Compute(in_force.torch_device, placement.stream, cuda=placement.cuda(), more=more))


def carry_out(engine: Engine, order: Order, memory: Any) -> Any:
    """Carry out an order and return the answer.

    Args:
        engine: The lane's.
        order: What to call.
        memory: What came along with it: the payload of a sub-model as bytes, else a `Block` of the lane's own, or None.

    Raises:
        InSubModel: The code of a sub-model raised.
        EsenError: The order does not fit what the lane is.
    """
    method = getattr(engine, order.method, None)
    if method is None:
        raise UsageError("Lanes on a GPU share its memory", given="a lane on the CPU")
    return method(*(memory if arg is MEMORY else arg for arg in order.args), **order.kwargs)
