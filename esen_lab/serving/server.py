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

from esen_lab.common.answers import OTHER_ORDER, TOLERANCE
from esen_lab.common.display import Shown
from esen_lab.common.trees import Tree, flatten
from esen_lab.errors import UsageError
from esen_lab.serving.app import Service, make_app
from esen_lab.serving.batcher import Batcher
from esen_lab.serving.dispatcher import Dispatcher
from esen_lab.serving.http_server import HttpServer, listen
from esen_lab.serving.joining import rows_of, try_joining
from esen_lab.serving.metrics import Metrics, Totals
from esen_lab.serving.model import ModelInfo, describe
from esen_lab.serving.prepared import of_size, prepare, sizes_to_prepare
from esen_lab.serving.served import PLAIN, Served
from esen_lab.serving.service_times import BatchTimes
from esen_lab.serving.settings import ServeSettings
from esen_lab.serving.status import ENDED, ServerStatus
from esen_lab.serving.traces import RequestTraces

log = logging.getLogger("esen_lab.serving")


class Server(Shown):
    """Serves one ensemble. Made by `start`; methods may be called from any thread.

    Args:
        settings: What it is told once.

    Attributes:
        settings: The same.
        model: What it serves, once its lanes are warm.

    Raises:
        UsageError: The address cannot be had.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.model: ModelInfo | None = None
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
        served.mend()
        example = served.ensemble.example if example is None else example
        began_s = time.perf_counter()
        eager = all(lane.all_eager for lane in served.plan.lanes)
        tried = try_joining(
            lambda x: served.run(x, PLAIN)[0],
            example,
            begins_anew=served.begins_anew,
            tolerances=OTHER_ORDER if eager else TOLERANCE,
        )
        settings = self.settings
        self.model = model = describe(
            settings.name,
            example,
            tried.answer,
            members=served.ensemble.names,
            why_alone=tried.why_alone,
            any_size=settings.any_size,
        )
        if not model.joins:
            log.warning("requests are not joined", extra={"why": model.why_alone})
        rows = rows_of(flatten(example)[0]) or 1
        sizes: list[int] = []
        if model.joins and not eager and settings.max_rows > 1:
            sizes = prepare(lambda x: served.run(x, PLAIN), example, sizes_to_prepare(rows, settings.max_rows))
            log.info("engines are prepared for these sizes of a batch", extra={"rows": sizes})
        batcher = Batcher(
            times=BatchTimes(served.plan.jct_s, rows, sizes),
            max_rows=sizes[-1] if sizes else settings.max_rows,
            max_waiting=settings.max_waiting,
            window_s=settings.window_s,
        )
        dispatcher = Dispatcher(
            served,
            model,
            batcher,
            self._metrics,
            loop=loop,
            around=around or contextlib.nullcontext(),
            prepared=[of_size(example, size) for size in sizes],
        )
        self._metrics.look_at(lambda: len(batcher), lambda: len(served.fallen_back))
        dispatcher.start()
        self._service.dispatcher = dispatcher
        log.info(
            "ready",
            extra={"model": settings.name, "joins": model.joins, "took_s": round(time.perf_counter() - began_s, 3)},
        )

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
            lanes_busy=tuple(busy_s / passed_s for _, busy_s in sorted(totals.lane_busy_s.items())),
            restarts=totals.restarts,
        )

    def to_dict(self) -> dict[str, Any]:
        """Its status as plain data."""
        return self.status().to_dict()

    def __str__(self) -> str:
        """For a terminal."""
        return str(self.status())

    def __repr__(self) -> str:
        return f"<Server {self.url}: {self.state}>"


def begin(settings: ServeSettings, keep: Callable[[Server], object]) -> Server:
    """A server that listens. `keep` has it before it has started anything, so that an interrupt leaves it to its owner.

    Args:
        settings: What it is told once.
        keep: Called with it first.

    Raises:
        UsageError: The address cannot be had.
        DeviceError: The system gives no threads for it.
    """
    server = Server(settings)
    try:
        keep(server)
        return server.start()
    except BaseException:
        server.close()
        raise
