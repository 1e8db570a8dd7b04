"""An ensemble as a service: the Open Inference Protocol over HTTP, in front of the lanes of a plan.

A request's way:  http_server -> guard, body -> protocol -> batcher -> run thread -> served -> protocol

server.py         the server as one object: begins, shows itself, ends
http_server.py    uvicorn in a thread          app.py         addresses, statuses
guard.py          who may ask                  body.py        how much, how slowly
protocol.py       requests and responses       headers.py     headers that repeat
signature.py      what a model looks like from outside
batcher.py        what runs next as one batch  service_times.py  how long that takes
dispatcher.py     from request to answer       run_thread.py  who runs batches
joining.py        whether rows may be joined   served.py      what is served: a lab, or an exported folder
described.py      what that looks like now
connection.py     what may be asked of one     bounded_protocol.py  bounds of one
prepared.py       sizes that engines know      channels.py    channels for live plots
status.py         how a server stands          exported.py   an exported folder as what is served
metrics.py        what is counted              traces.py      spans, where somebody traces
triton_statistics.py  the counts as Triton tells them
refusal.py        what has no answer           server_settings.py  what a server is told once
"""

from __future__ import annotations

from esen_lab.common.packages import can_import
from esen_lab.errors import UsageError
from esen_lab.serving.server_settings import ServeSettings

__all__ = ["ServeSettings", "check_installed"]

_NEEDED = ("starlette", "uvicorn", "httptools", "prometheus_client")


def check_installed() -> None:
    """What a server is made of is there.

    Raises:
        UsageError: Something is not; the message says how to install it.
    """
    missing = [name for name in _NEEDED if not can_import(name)]
    if missing:
        raise UsageError(
            "A server needs the packages of the group serve",
            given=f"no {', '.join(missing)}",
            hint="pip install 'esen_lab[serve]'",
        )
