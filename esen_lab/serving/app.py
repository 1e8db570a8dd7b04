"""The protocol over HTTP, as an ASGI application.

    GET   /v2                                     what the server is
    GET   /v2/health/live, /v2/health/ready       for probes: 200, or 503
    GET   /v2/models/NAME[/versions/1]            names, datatypes and shapes
    GET   /v2/models/NAME[/versions/1]/ready      200, or 503
    GET   /v2/models/NAME[/versions/1]/config     what clients read of Triton's configuration
    GET   /v2/models/NAME[/versions/1]/stats      counts and times, as Triton has them
    POST  /v2/models/NAME[/versions/1]/infer      a request: `protocol.py`
    POST  /v2/repository/index                    the models there are
    GET   /metrics                                for Prometheus

What has no answer gets {"error": "..."} with a status: see `refusal.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from esen_lab import __version__
from esen_lab.serving.body import IDENTITY, ClientLeft, Held, Receive, drop_body, encoding_of, read_body, whole_body
from esen_lab.serving.connection import CONNECTION, Connection
from esen_lab.serving.dispatcher import Answer, Dispatcher
from esen_lab.serving.guard import Guard
from esen_lab.serving.metrics import CONTENT_TYPE, Metrics
from esen_lab.serving.protocol import (
    EXTENSIONS,
    PIECE_BYTES,
    PIECE_NUMBERS,
    encode_response,
    header_length,
    numbers_in_json,
)
from esen_lab.serving.refusal import RequestRefused, malformed, refusal_of
from esen_lab.serving.server_settings import ServeSettings
from esen_lab.serving.signature import PLATFORM, VERSION, ModelInfo
from esen_lab.serving.traces import RequestTraces
from esen_lab.serving.triton_statistics import model_stats

Scope: TypeAlias = MutableMapping[str, Any]
Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("esen_lab.serving")
_HEADER_LENGTH = b"inference-header-content-length"
_ONCE = (b"host", b"origin", b"authorization", b"content-type", b"content-encoding", _HEADER_LENGTH)
_OF_JSON = b"content-type: application/json\r\ncontent-length: %d\r\n"
_OF_BYTES = b"content-type: application/octet-stream\r\ncontent-length: %d\r\n" + _HEADER_LENGTH + b": %d\r\n"
_MOST_KEPT = 32
"""Of what the last headers said: a client sends the same again and again."""
_BUFFERED_BYTES = 1 << 16
_MOST_INDEX_BYTES = 1 << 12
_LIVE = "/v2/health/live"


@dataclass(slots=True, kw_only=True)
class Service:
    """What the application answers for.

    Attributes:
        settings: Of the server.
        metrics: Told of each request.
        traces: Told too, where somebody traces.
        dispatcher: Once its lanes are warm.
        held: Bytes of requests in memory.
    """

    settings: ServeSettings
    metrics: Metrics
    traces: RequestTraces
    dispatcher: Dispatcher | None = None
    held: Held = field(init=False)

    def __post_init__(self) -> None:
        """Make what follows from the others."""
        self.held = Held(self.settings.max_held_bytes)

    @property
    def ready(self) -> bool:
        """Whether requests are answered now."""
        return self.dispatcher is not None and self.dispatcher.ready

    def of(self, request_path: MutableMapping[str, Any]) -> Dispatcher:
        """What runs the model of an address.

        Raises:
            Refused: There is no such model or version (404), or its lanes are not warm yet (503).
        """
        name, version = request_path.get("name"), request_path.get("version", VERSION)
        if name != self.settings.name:
            raise RequestRefused(
                404, "unknown", f"There is no model {str(name)[:80]!r}: it is {self.settings.name!r}", unread=True
            )
        if version != VERSION:
            raise RequestRefused(
                404, "unknown", f"Model {name!r} has version {VERSION}, and no {str(version)[:80]!r}", unread=True
            )
        if self.dispatcher is None:
            raise RequestRefused(503, "starting", "The lanes are starting", retry_after_s=1.0, unread=True)
        return self.dispatcher


def make_app(service: Service) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application."""
    model = "/v2/models/{name}"
    versions = f"{model}/versions/{{version}}"
    infer = Infer(service)

    async def index(request: Request) -> Response:
        return _json(_index(service, only_ready=await _only_ready(service, request)))

    routes = [Route(f"{where}/infer", infer, methods=["POST"]) for where in (model, versions)]
    routes += [_route("/v2/models/stats", lambda _: _stats(service))]  # before it is taken for a name
    for where in (model, versions):
        routes += [
            _route(where, lambda r: _json(_model(service, r).to_dict())),
            _route(f"{where}/ready", lambda r: _model_ready(service, r)),
            _route(f"{where}/config", lambda r: _json(_model(service, r).config(service.settings.max_rows))),
            _route(f"{where}/stats", lambda r: _stats(service, _model(service, r))),
        ]
    routes += [
        _route("/v2", lambda _: _json({"name": PLATFORM, "version": __version__, "extensions": list(EXTENSIONS)})),
        _route(_LIVE, lambda _: _json({"live": True})),
        _route("/v2/health/ready", lambda _: _json({"ready": service.ready}, 200 if service.ready else 503)),
        Route("/v2/repository/index", index, methods=["POST"]),
        _route("/metrics", lambda _: Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})),
    ]
    handlers = {RequestRefused: _refused, HTTPException: _no_such_path, ClientLeft: _left}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # an address that there is not is said, and nobody is sent to another
    return Door(app, infer, service)


class Door:
    """What every request goes through first: who may ask. The usual request goes to its address without a search."""

    def __init__(self, app: Starlette, infer: Infer, service: Service) -> None:
        self._app = app
        self._infer = infer
        self._service = service
        self._guard = Guard(service.settings)
        self._let_in = lru_cache(maxsize=_MOST_KEPT)(self._look_at)  # who is refused is not kept
        self._usual = f"/v2/models/{service.settings.name}/infer"
        self._parameters = {"name": service.settings.name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            return  # no lifespan, no WebSockets
        try:
            if scope[CONNECTION].crowded:
                if scope["path"] == _LIVE and scope["method"] == "GET":  # else who opens many has a cluster end this
                    await _json({"live": True}, headers={"connection": "close"})(scope, receive, send)
                    return
                told = "There are as many connections as there may be"
                raise RequestRefused(503, "connections", told, retry_after_s=1.0, close=True)
            usual = scope["path"] == self._usual and scope["method"] == "POST"
            fields = tuple(scope["headers"])
            if usual:
                self._let_in(fields)
            else:
                self._guard.check(scope["path"], _named(fields))
        except RequestRefused as refused:
            self._service.metrics.failed(refused.status, refused.reason)
            log.warning("refused", extra={"path": scope["path"][:200], "status": refused.status})
            await _refuse(refused, receive, send, drop=True)
            return
        if usual:
            scope["path_params"] = self._parameters
            await self._infer.answer(scope, receive, send, fields)
        else:
            await self._app(scope, receive, send)

    def _look_at(self, fields: Fields) -> None:
        self._guard.check(self._usual, _named(fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the headers of a request say of its body."""

    named: Mapping[bytes, bytes]
    header_bytes: int | None
    encoding: bytes


class Infer:
    """The address that requests go to."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._told = lru_cache(maxsize=_MOST_KEPT)(self._look_at)  # what is refused is not kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        await self.answer(scope, receive, send, tuple(scope["headers"]))

    def _look_at(self, fields: Fields) -> _Told:
        named = dict(fields)
        length = header_length(named.get(_HEADER_LENGTH))
        return _Told(
            named=named, header_bytes=length, encoding=encoding_of(named, self._service.settings.max_body_bytes)
        )

    async def answer(self, scope: Scope, receive: Receive, send: Send, fields: Fields) -> None:
        """Answer one request of ASGI, whatever comes of it; `fields` are the headers of the scope."""
        came_s = time.monotonic()
        service = self._service
        status, reason = 200, ""
        connection: Connection = scope[CONNECTION]
        try:
            answer, body, header = await self._answered(scope, receive, fields, came_s)
        except ClientLeft:
            service.metrics.refused("left")
            return
        except RequestRefused as refused:
            status, reason = refused.status, refused.reason
            service.metrics.failed(status, reason)
            await _refuse(refused, receive, send, drop=refused.unread and not connection.whole)
        else:
            size = len(body)
            told = _OF_JSON % size if header is None else _OF_BYTES % (size, header)
            if size > _BUFFERED_BYTES or not connection.answer(told, body):
                await _send(send, told, body)
            if connection.slow:
                service.metrics.refused("slow")
                return
            service.metrics.answered(time.monotonic() - came_s, answer.queue_s, answer.compute_s)
            service.traces.answered(scope, answer, came_s, service.settings.name)
        if service.settings.access_log:
            took_s = time.monotonic() - came_s
            log.info("request", extra={"status": status, "reason": reason, "took_s": round(took_s, 6)})

    async def _answered(
        self, scope: Scope, receive: Receive, fields: Fields, came_s: float
    ) -> tuple[Answer, bytes, int | None]:
        service, settings = self._service, self._service.settings
        dispatcher = service.of(scope["path_params"])
        connection: Connection = scope[CONNECTION]
        if connection.upgrades:
            raise RequestRefused(
                400, "malformed", "This server changes to no other protocol: ask it without Upgrade", close=True
            )
        told = self._told(fields)
        header_bytes, most = told.header_bytes, settings.max_body_bytes
        came = connection.take_body() if told.encoding == IDENTITY else None
        if came is not None:
            body = whole_body(came, most, service.held)
        else:
            timeout_s = None if connection.whole else settings.read_timeout_s
            body = await read_body(receive, told.named, most=most, timeout_s=timeout_s, held=service.held)
        size = len(body)
        try:
            if (size if header_bytes is None else header_bytes) > PIECE_BYTES:  # beside others
                request = await dispatcher.read_beside(body, header_bytes)
            else:
                request = dispatcher.read(body, header_bytes)
            if request.timeout_s is None and settings.deadline_s is not None:
                request = replace(request, timeout_s=settings.deadline_s)
            waiting, future = dispatcher.submit(request, came_s)
            # Who leaves while it waits costs nothing more; who is running already is run.
            answer = await (future if waiting.gone else _while_there(future, connection))
            more = _parameters(request.timings, answer)
            if numbers_in_json(request, answer.outputs) > PIECE_NUMBERS:
                return answer, *await asyncio.to_thread(encode_response, request, answer.outputs, answer.model, more)
            return answer, *encode_response(request, answer.outputs, answer.model, more)
        except (RequestRefused, ClientLeft, asyncio.CancelledError):
            raise
        except Exception as problem:
            log.exception("a request failed")
            raise refusal_of(problem) from problem
        finally:
            service.held.now -= size


def _named(fields: Fields) -> Mapping[bytes, bytes]:
    """Headers by name; of two with one name whoever stands in between may have looked at the other one.

    Raises:
        Refused: One that decides something is there twice.
    """
    named = dict(fields)
    if len(named) < len(fields):
        names = [name for name, _ in fields]
        for name in _ONCE:
            if names.count(name) > 1:
                raise RequestRefused(400, "malformed", f"A request has the header {name.decode()} once", unread=True)
    return named


def _parameters(timings: bool, answer: Answer) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if timings:
        told["queue_us"] = round(answer.queue_s * 1e6)
        told["compute_us"] = round(answer.compute_s * 1e6)
        told["batch_rows"] = answer.batch_rows
    if answer.missing:
        told["missing"] = ",".join(answer.missing)
    return told


async def _while_there(future: asyncio.Future[Answer], connection: Connection) -> Answer:
    """Wait for an answer as long as the client does."""
    left = False

    def gone() -> None:
        nonlocal left
        left = True
        future.cancel()

    connection.tell_when_left(gone)
    try:
        return await future
    except asyncio.CancelledError:
        if left:
            raise ClientLeft from None
        raise  # the server ends
    finally:
        connection.tell_when_left(None)


async def _refuse(refused: RequestRefused, receive: Receive, send: Send, *, drop: bool) -> None:
    """Answer a request that is refused.

    Args:
        refused: Why.
        receive: Of ASGI.
        send: Likewise.
        drop: Whether some of it is still to come: it is read, but whoever waits for a word before he sends it has the
            answer by then.
    """
    response = _answer_refused(refused)
    await send({"type": "http.response.start", "status": refused.status, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": drop})
    if drop:
        await drop_body(receive)
        await send({"type": "http.response.body", "body": b""})


async def _send(send: Send, fields: bytes, body: bytes) -> None:
    headers = [tuple(line.split(b": ", 1)) for line in fields.splitlines()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    large = len(body) > _BUFFERED_BYTES
    await send({"type": "http.response.body", "body": body, "more_body": large})
    if large:  # uvicorn waits for a client to have read before it takes the next part, not after this one
        await send({"type": "http.response.body", "body": b""})


# --- everything else -------------------------------------------------------------------------------------------------


def _route(path: str, answer: Callable[[Request], Response], method: str = "GET") -> Route:
    async def endpoint(request: Request) -> Response:
        return answer(request)

    return Route(path, endpoint, methods=[method])


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _model(service: Service, request: Request) -> ModelInfo:
    return service.of(request.path_params).model


def _model_ready(service: Service, request: Request) -> Response:
    ready = service.of(request.path_params).ready
    return _json({"name": service.settings.name, "ready": ready}, 200 if ready else 503)


class _IndexAsked(msgspec.Struct):
    ready: bool | None = None


async def _only_ready(service: Service, request: Request) -> bool:
    """Whether an index is asked of the models that are ready alone."""
    headers = {name: value for name, value in request.scope["headers"] if name != b"content-type"}  # many give none
    body = await read_body(
        request.receive, headers, most=_MOST_INDEX_BYTES, timeout_s=service.settings.read_timeout_s, held=service.held
    )
    service.held.now -= len(body)
    try:
        return msgspec.json.decode(body or b"{}", type=_IndexAsked).ready is True
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise malformed(f'What is asked of the index is no JSON such as {{"ready": true}}: {problem}') from problem


def _index(service: Service, *, only_ready: bool) -> list[dict[str, str]]:
    if only_ready and not service.ready:
        return []
    state = "READY" if service.ready else "UNAVAILABLE"
    return [{"name": service.settings.name, "version": VERSION, "state": state, "reason": ""}]


def _stats(service: Service, _: ModelInfo | None = None) -> Response:
    return _json({"model_stats": [model_stats(service.settings.name, service.metrics.totals)]})


def _answer_refused(refused: RequestRefused) -> Response:
    return _json({"error": refused.message}, refused.status, refused.headers)


async def _refused(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestRefused)
    return _answer_refused(problem)


async def _left(_: Request, __: Exception) -> Response:
    return Response()  # which nobody hears


async def _no_such_path(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    # Its headers say which methods there are, where it was that.
    return _json({"error": f"{problem.detail}: see /v2"}, problem.status_code, problem.headers)
