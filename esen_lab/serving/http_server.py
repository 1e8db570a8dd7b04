"""uvicorn in a thread of its own: a socket that listens, an event loop, an end that waits for what has come."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Awaitable, Callable

import uvicorn

from esen_lab.common.resources import begin
from esen_lab.errors import DeviceError, UsageError
from esen_lab.serving.bounded_protocol import bounded
from esen_lab.serving.server_settings import ServeSettings

_KEEP_ALIVE_S = 60  # between two requests of one connection
_JOIN_S = 5.0
logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # else Python prints what nobody asked for


class PortTaken(UsageError):  # noqa: N818  what was found, which has a way on
    """Somebody listens at that port already."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: An address or name of this machine.
        port: 0 takes a free one.

    Raises:
        PortTaken: Somebody has the port.
        UsageError: The address is not one of this machine, or the port is not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, ValueError) as problem:  # ValueError: not even a name
        raise _not_here(host, problem) from problem
    try:
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as problem:
        if problem.errno == errno.EADDRNOTAVAIL:
            raise _not_here(host, problem) from problem
        raise (PortTaken if problem.errno == errno.EADDRINUSE else UsageError)(
            f"A server listens at a free port of this machine, {host}:{port}",
            given=_told(problem),
            hint="Choose another port; 0 takes a free one.",
        ) from problem


def _not_here(host: str, problem: Exception) -> UsageError:
    return UsageError(
        "A server listens at an address or name of this machine",
        given=f"{host[:80]!r}: {_told(problem)}",
        hint="127.0.0.1 is reached from this machine alone, 0.0.0.0 from other machines, too.",
    )


def _told(problem: Exception) -> str:
    return str(getattr(problem, "strerror", None) or problem).partition(" (while")[0]


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
            interface="asgi3",
            http=bounded(settings.read_timeout_s, settings.write_timeout_s, settings.max_connections),
            loop="auto",  # uvloop where it is installed
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
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
            with asyncio.Runner(loop_factory=self._uvicorn.config.get_loop_factory()) as runner:
                runner.run(self._serve())
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
        if not self._uvicorn.started:  # nobody is told an address at which nobody answers
            await serving
            raise DeviceError("A server begins", given="it ended before it had begun")
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
