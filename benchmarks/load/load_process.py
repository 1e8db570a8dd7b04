"""A server in a process group of its own, for as long as it is asked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from esen_lab.errors import EsenError
from esen_lab.load.url import Request

READY_S = 240.0


@contextmanager
def serving(command: list[str], ready: str, request: Request | None = None, **environment: str) -> Iterator[str]:
    """Start a server, and give its address once it answers.

    Args:
        command: "{port}" in it becomes a free port.
        ready: A path of it: asked until it is answered.
        request: POSTed there until the answer is 200; None: GET, and any answer but 400 and 503 says that it is there.
        **environment: Variables besides this process's.

    Raises:
        EsenError: It does not answer, or ends; with the end of what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tempfile.TemporaryFile()  # noqa: SIM115  closed below
    told: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    made = subprocess.Popen(
        [word.format(port=port) for word in command], env=dict(told), stdout=log, stderr=log, start_new_session=True
    )
    try:
        until = time.monotonic() + READY_S
        while not _answers(f"http://127.0.0.1:{port}{ready}", request):
            if made.poll() is not None or time.monotonic() > until:
                log.seek(0)
                raise EsenError("A server starts", given=log.read().decode(errors="replace")[-2000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(made.pid, signal.SIGTERM)
        try:
            made.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(made.pid, signal.SIGKILL)
            made.wait()
        log.close()


def _answers(url: str, request: Request | None) -> bool:
    try:
        if request is None:
            urllib.request.urlopen(url, timeout=2).close()
        else:
            urllib.request.urlopen(urllib.request.Request(url, request.body, dict(request.headers)), timeout=5).close()
    except urllib.error.HTTPError as problem:
        problem.close()
        return request is None and problem.code not in (400, 503)  # somebody answers, though not there
    except OSError:
        return False
    return True
