"""What lies between whoever calls and a node: how long an input takes there, and outputs take back."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from esen_lab.common.units import check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    """How far a node is from whoever calls; a link without arguments is that of the caller's own node.

    A node that runs something has the input first. When its last lane is done, the outputs of all its sub-models go
    back together. They are combined where the caller is.

    Attributes:
        input_s: Seconds from the call until the input is there: measured with an input of the size that will be sent.
        latency_s: Seconds of the way back, however little is sent.
        byte_s: Seconds that each byte of output adds: 1 / bandwidth.
    """

    input_s: float = 0.0
    latency_s: float = 0.0
    byte_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the figures."""
        for field in fields(self):
            rule = f"{field.name} of a node's link is a number of seconds, at least 0"
            hint = "Measure it; a node without a way has 0."
            check_number(getattr(self, field.name), rule, least=0.0, below=math.inf, hint=hint)

    @classmethod
    def of(cls, *, latency_s: float, bytes_per_s: float, input_bytes: int) -> NodeLink:
        """From a latency (one way, in seconds), a bandwidth in bytes a second, and how large an input is.

        Raises:
            UsageError: A figure is not possible.
        """
        check_number(bytes_per_s, "A bandwidth is above 0 bytes a second", above=0.0)
        check_number(input_bytes, "An input has a number of bytes, at least 0", least=0.0)
        return cls(input_s=latency_s + input_bytes / bytes_per_s, latency_s=latency_s, byte_s=1 / bytes_per_s)

    @property
    def is_free(self) -> bool:
        """Whether nothing has to travel."""
        return self == NodeLink()
