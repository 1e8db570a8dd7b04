"""A server in the background: begins, is ready once lanes are warm, shows itself, ends with what has come answered.

Server(settings)     listens at once: alive, not ready
warm(served)         finds out what the model looks like and whether requests may be joined; then it is ready
close()              takes no more, answers what has come, ends its threads
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from esen_lab.common.display import Shown
from esen_lab.common.trees import Tree, flatten
from esen_lab.errors import UsageError
from esen_lab.serving.app import Service, make_app
from esen_lab.serving.batcher import Batcher
from esen_lab.serving.described import Described
from esen_lab.serving.dispatcher import Dispatcher
from esen_lab.serving.http_server import HttpServer, PortTaken, listen
from esen_lab.serving.joining import rows_of
from esen_lab.serving.logs import NAME
from esen_lab.serving.metrics import Metrics, Totals
from esen_lab.serving.prepared import prepare, sizes_for
from esen_lab.serving.served import TRIAL, Served
from esen_lab.serving.server_settings import ServeSettings
from esen_lab.serving.service_times import BatchTimes
from esen_lab.serving.signature import ModelInfo
from esen_lab.serving.status import ENDED, ServerStatus
from esen_lab.serving.traces import RequestTraces

log = logging.getLogger(NAME)


class Server(Shown):
    """Serves one ensemble. Made by `start`; methods may be called from any thread.

    Args:
        settings: What it is told once.

    Attributes:
        settings: The same.

    Raises:
        UsageError: The address cannot be had.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self._served: Served | None = None
        self._metrics = Metrics()
        self._service = Service(settings=settings, metrics=self._metrics, traces=RequestTraces())
        self._socket = listen(settings.host, settings.port)
        self.host, self.port = self._socket.getsockname()[:2]
        self._http = HttpServer(make_app(self._service), self._socket, settings, self._finish)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = threading.Lock()
        self._closed = False

    def start(self) -> Server:
        """Answer from now on: alive, and not ready; raises as `HttpServer.start` does."""
        self._loop = self._http.start()
        log.info("listening", extra={"address": self.address})
        if not self.settings.at_loopback and not self.settings.token:
            log.warning("whoever reaches this address may ask: no token is set", extra={"address": self.address})
        return self

    def warm(self, served: Served, around: AbstractContextManager[object] | None = None, example: Tree = None) -> None:
        """Have an ensemble served; returns once it is ready.

        Args:
            served: What runs it; closed with the server.
            around: Entered by the thread that runs batches: what its caller had set.
            example: What requests look like; None: the ensemble's own example.

        Raises:
            EsenError: It cannot be run, or the protocol cannot say what it takes or gives.
        """
        loop = self._loop
        if loop is None:
            raise UsageError("A server is started before it is warmed", hint="Call start first.")
        self._served = served
        began_s = time.perf_counter()
        settings = self.settings
        described = Described(served, settings.name, any_size=settings.any_size, example=example)
        model = described.model
        if not model.joins:
            log.warning("requests are not joined: %s", model.why_alone)
        rows = rows_of(flatten(described.example)[0]) or 1
        sizes = self._prepared(served, described)
        batcher = Batcher(
            times=BatchTimes(served.plan.jct_s, rows, sizes),
            max_rows=sizes[-1] if sizes else settings.max_rows,
            max_waiting=settings.max_waiting,
            window_s=settings.window_s,
        )
        dispatcher = Dispatcher(
            served,
            described,
            batcher,
            self._metrics,
            loop=loop,
            around=around or contextlib.nullcontext(),
            max_rows=settings.max_rows,
            sizes=sizes,
        )
        self._metrics.look_at(lambda: len(batcher), lambda: len(served.fallen_back))
        dispatcher.start()
        self._service.dispatcher = dispatcher
        log.info(
            "ready",
            extra={"model": settings.name, "joins": model.joins, "took_s": round(time.perf_counter() - began_s, 3)},
        )

    def _prepared(self, served: Served, described: Described) -> list[int]:
        """The sizes of a batch that engines have seen, where any has to."""
        wanted = sizes_for(served.plan, described.model, described.example, self.settings.max_rows)
        if not wanted:
            return []
        sizes = prepare(lambda x: served.run(x, TRIAL), described.example, wanted)
        log.info("engines are prepared for these sizes of a batch", extra={"rows": sizes})
        return sizes

    async def _finish(self) -> None:
        dispatcher = self._service.dispatcher
        if dispatcher is not None:
            await dispatcher.drain(self.settings.drain_s)

    def close(self) -> None:
        """End it: requests that have come are answered, for `drain_s` at most. May be called again."""
        with self._closing:
            if self._closed:
                return
            self._http.end(self.settings.drain_s + self.settings.write_timeout_s)
            if self._served is not None:
                self._served.close()
            self._closed = True
            log.info("ended", extra={"answered": self._metrics.totals.answered})

    def let_go_in_child(self) -> None:
        """See `Forked`: close this process's copy of what listens."""
        self._closed = True
        self._socket.close()

    def __enter__(self) -> Server:
        """Itself."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Close it."""
        self.close()

    # --- what it is ----------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients find it, such as "127.0.0.1:8000"."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://{self.address}/v2/models/{self.settings.name}/infer"

    @property
    def model(self) -> ModelInfo | None:
        """What it serves, once its lanes are warm."""
        dispatcher = self._service.dispatcher
        return None if dispatcher is None else dispatcher.model

    @property
    def state(self) -> str:
        """Such as "ready"."""
        if self._closed or not self._http.alive:
            return ENDED
        dispatcher = self._service.dispatcher
        if dispatcher is None:
            return "lanes are starting"
        return "ready" if dispatcher.ready else f"not ready: {dispatcher.broken or 'it ends'}"

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        dispatcher = self._service.dispatcher
        return 0 if dispatcher is None else len(dispatcher.batcher)

    @property
    def totals(self) -> Totals:
        """What was counted so far."""
        return self._metrics.totals

    def metrics(self) -> bytes:
        """As `/metrics` has them."""
        return self._metrics.text()

    def status(self) -> ServerStatus:
        """How it stands, and what it has answered so far."""
        totals, settings, model = self.totals, self.settings, self.model
        passed_s = max(time.monotonic() - totals.began_s, 1e-9)
        lanes = 1 + max(totals.lane_busy_s, default=-1)
        return ServerStatus(
            name=settings.name,
            url=self.url,
            state=self.state,
            token=bool(settings.token),
            joins=None if model is None else model.joins,
            why_alone="" if model is None else model.why_alone,
            answered=totals.answered,
            failed=dict(totals.by_reason),
            waiting=self.waiting,
            batches=totals.batches,
            rows=totals.rows,
            compute_s=totals.compute_s / totals.batches if totals.batches else None,
            queue_s=totals.queue_s / totals.answered if totals.answered else None,
            lanes_busy=tuple(totals.lane_busy_s.get(lane, 0.0) / passed_s for lane in range(lanes)),
            restarts=totals.restarts,
        )

    def in_short(self) -> str:
        """What it serves, where, and how it stands, in one line."""
        return f"{self.settings.name} at {self.url}: {self.state}"

    def to_dict(self) -> dict[str, Any]:
        """Its status as plain data."""
        return self.status().to_dict()

    def __str__(self) -> str:
        """For a terminal."""
        return str(self.status())

    def __repr__(self) -> str:
        return f"<Server {self.url}: {self.state}>"


def begin(settings: ServeSettings, keep: Callable[[Server], object], before: Server | None = None) -> Server:
    """A server that listens. `keep` has it before it has started anything, so that an interrupt leaves it to its owner.

    Args:
        settings: What it is told once.
        keep: Called with it first; ends the one before.
        before: The one whose place it takes. It is ended here only where it has the very port, and goes on where the
            address cannot be had.

    Raises:
        UsageError: The address cannot be had.
        DeviceError: The system gives no threads for it.
    """
    try:
        server = Server(settings)
    except PortTaken:
        if before is None or before.port != settings.port:
            raise
        before.close()
        server = Server(settings)
    try:
        keep(server)
        return server.start()
    except BaseException:
        server.close()
        raise
