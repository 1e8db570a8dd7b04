"""Who may ask: the token, and what keeps pages in a browser on this machine from asking in their user's name.

A server at 127.0.0.1 without a token trusts all programs of this machine. A web page is none of them: it may make a
browser send requests here, or have a name of its own lead to 127.0.0.1. So without a token only the usual names of this
machine are taken as `Host`, and a request with the `Origin` of another place is refused.

Health is answered to everybody: probes of a cluster carry no token, and it says nothing but yes or no.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from esen_lab.serving.refusal import RequestRefused
from esen_lab.serving.server_settings import LOOPBACK, ServeSettings

_OPEN = ("/v2/health/live", "/v2/health/ready")


class Guard:
    """Looks at the headers of each request.

    Args:
        settings: Of the server.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._token = settings.token.encode()
        self._only_here = settings.at_loopback and not settings.token
        self._names = LOOPBACK | {settings.host}

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse who may not ask.

        Args:
            path: Of the request.
            headers: By name, in lower case.

        Raises:
            Refused: With 401 or 403.
        """
        if path in _OPEN:
            return
        if self._token and not hmac.compare_digest(_bearer(headers.get(b"authorization", b"")), self._token):
            raise RequestRefused(401, "token", "This server asks for its token: Authorization: Bearer ...")
        host = _name(b"//" + headers.get(b"host", b""))
        if self._only_here and host not in self._names:
            raise RequestRefused(403, "origin", "This server is asked as 127.0.0.1 or localhost")
        origin = headers.get(b"origin")
        if origin is not None and _name(origin) != host:
            raise RequestRefused(403, "origin", "This server answers no page of another place")


def _bearer(told: bytes) -> bytes:
    """The token in a header; the scheme's name may be written in any case."""
    scheme, _, token = told.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


@lru_cache(maxsize=16)  # most clients say the same again and again
def _name(address: bytes) -> str | None:
    try:
        return urlsplit(address.strip().decode("latin-1")).hostname  # the parser leaves the spaces behind a value
    except ValueError:
        return None
