"""uvicorn in a thread of its own: a socket that listens, an event loop, an end that waits for what has come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from esen_lab.common.resources import begin
from esen_lab.errors import DeviceError, UsageError
from esen_lab.serving.app import ABORT
from esen_lab.serving.settings import ServeSettings

_KEEP_ALIVE_S = 60  # between two requests of one connection
_JOIN_S = 5.0
logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # else Python prints what nobody asked for


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: An address or name of this machine.
        port: 0 takes a free one.

    Raises:
        UsageError: The address is not one of this machine, or the port is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as problem:
        raise UsageError(
            f"A server listens at a free port of this machine, {host}:{port}",
            given=str(problem),
            hint="Choose another port; 0 takes a free one.",
        ) from problem


class HttpServer:
    """Serves one application until it is ended.

    Args:
        app: An ASGI application.
        listening: Where; it is closed at the end.
        settings: Of the server.
        finish: Awaited at the end, before connections are closed: has what has come answered.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        listening: socket.socket,
        settings: ServeSettings,
        finish: Callable[[], Awaitable[None]],
    ) -> None:
        self._socket = listening
        self._finish = finish
        config = uvicorn.Config(
            app,
            http=_protocol(settings.read_timeout_s),
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=max(1, round(settings.write_timeout_s)),
        )
        self._uvicorn = uvicorn.Server(config)
        self._ended = threading.Event()
        self._began = threading.Event()
        self._problem: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="esen_lab server", daemon=True)

    def start(self, timeout_s: float = 30.0) -> asyncio.AbstractEventLoop:
        """Begin; returns once requests are taken.

        Returns:
            The event loop in which the application is called.

        Raises:
            DeviceError: The system gives no more threads, or the loop could not begin.
        """
        begin(self._thread)
        if not self._began.wait(timeout_s) or self.loop is None:
            raise DeviceError("A server begins", given=str(self._problem or f"nothing within {timeout_s:g} s"))
        return self.loop

    def end(self, timeout_s: float) -> None:
        """Take no more connections, answer what has come, and end the thread. May be called again.

        Args:
            timeout_s: How long it waits for that.
        """
        loop = self.loop
        if self._thread.ident is None:
            self._socket.close()
            return
        if loop is not None and not self._ended.is_set():
            with contextlib.suppress(RuntimeError):  # it ended just now
                loop.call_soon_threadsafe(self._exit.set)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=timeout_s + _JOIN_S)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as problem:
            self._problem = problem
            logging.getLogger("esen_lab.serving").error("the server ended", exc_info=problem)
        finally:
            self.loop = None
            self._socket.close()
            self._ended.set()
            self._began.set()

    async def _serve(self) -> None:
        self._exit = asyncio.Event()
        serving = asyncio.ensure_future(self._uvicorn.serve(sockets=[self._socket]))
        while not self._uvicorn.started and not serving.done():
            await asyncio.sleep(0.001)
        self.loop = asyncio.get_running_loop()
        self._began.set()
        leaving = asyncio.ensure_future(self._exit.wait())
        await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for server in self._uvicorn.servers:  # no more connections while the last requests are answered
            server.close()
        await self._finish()
        self._uvicorn.should_exit = True
        await serving
        leaving.cancel()


def _protocol(read_timeout_s: float) -> type[HttpToolsProtocol]:
    class BoundedProtocol(HttpToolsProtocol):
        """One connection: its headers come within a time, and it can be cut."""

        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # Else the second part of a response waits 40 ms for the first one's acknowledgement. asyncio does so itself
            # only for sockets that were made with the protocol's number.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wait_for_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_came()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
            self._wait_for_headers()

        def on_headers_complete(self) -> None:
            self._headers_came()
            super().on_headers_complete()

        def _wait_for_headers(self) -> None:
            if self._waiting is None:
                self._waiting = self.loop.call_later(read_timeout_s, self.transport.abort)

        def _headers_came(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

    return BoundedProtocol
