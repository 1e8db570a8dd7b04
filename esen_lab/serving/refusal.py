"""What a request is answered with when it has no answer: a status, one sentence, and when to come again.

400  the request is not one of the protocol, or not one for this model       404  no such model, version or path
401  no token, or a wrong one                403  from a page of another origin
408  the request came too slowly             413  larger than is taken       415  an encoding that is not read
500  a member failed                         501  a part of the protocol that is not had
503  busy, starting, or a lane has ended: come again       504  the deadline passed
"""

from __future__ import annotations

import logging
import math

from esen_lab.ensemble import NotCombined
from esen_lab.errors import (
    Busy,
    Cancelled,
    EsenError,
    ModelError,
    UsageError,
    WorkerDied,
    WorkerError,
    WorkerTimeout,
    first_line,
)
from esen_lab.terminal import visible_line

log = logging.getLogger("esen_lab.serving")
_LONGEST = 2000  # characters of a message


class RequestRefused(Exception):  # noqa: N818  an answer, not a fault of the server
    """A request that gets no answer of the model.

    Attributes:
        status: The HTTP status.
        reason: One word, for counting: "malformed", "busy", ...
        message: For people; what would steer a terminal is made visible.
        retry_after_s: When it is worth another try; None where it is not.
        close: Whether the connection is closed after it.
        unread: Whether the request has not been read to its end.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        close: bool = False,
        unread: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = visible_line(message)[:_LONGEST]
        self.retry_after_s = retry_after_s
        self.close = close
        self.unread = unread

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the status."""
        found = {} if self.retry_after_s is None else {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}
        if self.status == 401:  # HTTP asks for it
            found["www-authenticate"] = "Bearer"
        return {**found, "connection": "close"} if self.close else found


def malformed(message: str) -> RequestRefused:
    """The request is not one of the protocol, or not one for this model."""
    return RequestRefused(400, "malformed", message)


def too_late(message: str = "The deadline passed before the answer was there") -> RequestRefused:
    """The deadline of a request has passed."""
    return RequestRefused(504, "deadline", message)


def refusal_of(problem: BaseException) -> RequestRefused:
    """What a failed run is answered with. Tracebacks of members stay in the log."""
    if isinstance(problem, RequestRefused):
        return problem
    told = first_line(problem)
    if isinstance(problem, (ModelError, NotCombined)):
        return RequestRefused(500, "member", told)
    if isinstance(problem, UsageError):
        return malformed(told)
    if isinstance(problem, (Busy, Cancelled, WorkerDied)):
        return RequestRefused(503, "busy" if isinstance(problem, Busy) else "lane", told, retry_after_s=1.0)
    if isinstance(problem, WorkerTimeout):  # `DeadlineMissed` is one
        return too_late(told)
    if isinstance(problem, EsenError):
        return RequestRefused(500, "failed", told)
    if isinstance(problem, MemoryError):
        return RequestRefused(503, "memory", "There is no memory for this request now", retry_after_s=1.0)
    return RequestRefused(500, "failed", "The server failed; its log says how")


def log_failure(problem: BaseException) -> None:
    """Write down why a run failed: what clients are told leaves out what is nobody's business but the server's."""
    if isinstance(problem, WorkerError):
        log.error("a run failed: %s", problem, extra={"details": problem.details()})
    elif isinstance(problem, (EsenError, RequestRefused)):
        log.warning("a run was refused: %s", problem)
    else:
        log.error("a run failed", exc_info=problem)
