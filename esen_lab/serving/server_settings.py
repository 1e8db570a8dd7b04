"""What a server is told once: where it listens, what it takes, how it joins requests."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass

from esen_lab.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = frozenset({"config", "infer", "ready", "stats", "versions"})
"""Words that stand in addresses where a model's name, or what follows it, does: a model of that name is not found."""
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_MOST_S = 1_000_000
"""Of what is given in seconds: no clock of the system or of a thread takes any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Checked when it is made.

    Attributes:
        host: The address to listen at; 127.0.0.1 is reached from this machine alone.
        port: 0 takes a free one.
        name: Of the model, in addresses.
        token: What clients must send as "Authorization: Bearer ..."; "" for nothing.
        window_s: How long a batch waits for one more request; None: as long as that pays by measured times; 0: never.
        max_rows: The largest batch that requests are joined to; 1: they are not.
        max_waiting: How many requests may wait; one more is answered 503.
        deadline_s: Of requests that name none; None: they have none.
        any_size: Whether inputs may be of other sizes than the example's, besides the batch.
        max_body_bytes: The largest request.
        max_held_bytes: Of all requests that are being read or wait.
        read_timeout_s: How long a client may take to send a request, headers and body each.
        write_timeout_s: How long one may take to read its response.
        max_connections: How many there may be; one more is answered 503.
        drain_s: How long the end waits for requests that have come.
        access_log: Whether each request is logged.

    Raises:
        UsageError: One of them is not possible; the message names it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "ensemble"
    token: str = ""
    window_s: float | None = None
    max_rows: int = 64
    max_waiting: int = 256
    deadline_s: float | None = None
    any_size: bool = False
    max_body_bytes: int = 128 << 20
    max_held_bytes: int = 1 << 30
    read_timeout_s: float = 30.0
    write_timeout_s: float = 30.0
    max_connections: int = 512
    drain_s: float = 5.0
    access_log: bool = False

    def __post_init__(self) -> None:
        """Check."""
        _check_name(self.name)
        if not isinstance(self.host, str) or not self.host:
            raise UsageError("A server listens at an address, such as 127.0.0.1", given=self.host)
        if not _whole(self.port) or not 0 <= self.port <= 65535:
            raise UsageError("A port is a whole number from 0 to 65535", given=self.port)
        _check_token(self.token)
        for what in ("max_rows", "max_waiting", "max_body_bytes", "max_held_bytes", "max_connections"):
            value = getattr(self, what)
            if not _whole(value) or value < 1:
                raise UsageError(f"{what} is a whole number above 0", given=value)
        for what, least in (("read_timeout_s", True), ("write_timeout_s", True), ("drain_s", False)):
            _check_seconds(what, getattr(self, what), above_zero=least)
        for what, above_zero in (("window_s", False), ("deadline_s", True)):
            if getattr(self, what) is not None:
                _check_seconds(what, getattr(self, what), above_zero=above_zero)

    @property
    def at_loopback(self) -> bool:
        """Whether it is reached from this machine alone."""
        try:
            return self.host in LOOPBACK or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError("A served model's name is up to 64 letters, digits, dots, dashes and underscores", given=name)
    if name in RESERVED:
        raise UsageError(
            f"The name of a served model is no word of the protocol's addresses: {', '.join(sorted(RESERVED))}",
            given=name,
            hint="Give it another name.",
        )


def _check_token(token: object) -> None:
    # It is sent in one line of a header. What it is stays untold.
    if isinstance(token, str) and token.isascii() and token.isprintable() and token == token.strip():
        return
    given = f"{len(token)} characters" if isinstance(token, str) else type(token).__name__
    raise UsageError("A token is one line of ASCII text without spaces around it", given=given)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_seconds(what: str, value: object, *, above_zero: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 <= value <= _MOST_S or (above_zero and value == 0):  # type: ignore[operator]
        raise UsageError(
            f"{what} is a number of seconds {'above 0 and' if above_zero else 'from 0'} up to {_MOST_S:,}", given=value
        )
