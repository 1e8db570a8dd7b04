"""`esen-lab serve FOLDER`: alive at once, ready when lanes are warm, ended by a signal with what has come answered."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from esen_lab.errors import NotTrusted
from esen_lab.serving.exported import ExportedFolder
from esen_lab.serving.logs import log_as_json
from esen_lab.serving.serve_options import name_of, settings_of
from esen_lab.serving.server import Server
from esen_lab.serving.status import ENDED
from esen_lab.terminal import tell

_LOOK_S = 0.5


def serve_folder(folder: Path, options: argparse.Namespace) -> int:
    """Serve an exported folder until a signal comes.

    Args:
        folder: What was exported.
        options: Of `serve_options`.

    Returns:
        The exit status: 0 after a signal, 1 where the server ended by itself or the folder is not trusted.

    Raises:
        EsenError: It cannot be served.
    """
    settings = settings_of(options, name_of(folder))
    log_as_json(options.log_level, sys.stderr)
    try:
        served = ExportedFolder.open(folder, device=options.device, trust=options.trust)
    except NotTrusted as problem:
        tell(f"esen-lab: {problem.in_full}", sys.stderr)
        return 1
    stop, ready = threading.Event(), threading.Event()
    before = {number: signal.signal(number, _setter(stop, ready)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Server(settings).start() as server:  # alive while the lanes start: a probe may ask
            server.warm(served)
            gc.freeze()  # what is there stays: a look at all of it would stop every request for a tenth of a second
            ready.set()
            if server.state == ENDED:  # its log says why
                return 1
            tell(f"esen-lab: {settings.name} at {server.url}")
            sys.stdout.flush()  # a pipe or a file keeps it else until the end: who waits for it would hear of the dead
            while not stop.wait(_LOOK_S) and server.state != ENDED:
                pass
        return 0 if stop.is_set() else 1
    except KeyboardInterrupt:  # while the lanes started: see `_setter`
        if not stop.is_set():
            raise
        return 0
    finally:
        served.close()
        gc.unfreeze()
        for number, handler in before.items():
            signal.signal(number, handler)


def _setter(stop: threading.Event, ready: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  Python's signature
        first = not stop.is_set()
        stop.set()
        if first and not ready.is_set():  # lanes may take long to start: nobody waits for them any more
            raise KeyboardInterrupt  # once: what is ended then is ended to the end

    return handle
