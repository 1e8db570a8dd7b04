"""A server in a process group of its own, for as long as it is asked; nothing of it stays."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from esen_lab.errors import EsenError
from esen_lab.load.url import Request

READY_S = 240.0
_MARK = "ESEN_LAB_SERVED"  # in the environment of all that a server starts, whatever group that puts itself into
_SHARED = Path("/dev/shm")
_TRITONS = (Path("/tmp"), "python_env_*")  # an empty folder of Triton's, there whatever TMPDIR says; it may stay


@contextmanager
def serving(command: list[str], ready: str, request: Request | None = None, **environment: str) -> Iterator[str]:
    """Start a server, and give its address once it answers.

    Its temporary files lie in a folder that goes with it, which is also where it runs.

    Args:
        command: "{port}" in it becomes a free port, "{mark}" a word for what it names in shared memory.
        ready: A path of it: asked until it is answered.
        request: POSTed there until the answer is 200; None: GET, and any answer but 400 and 503 says that it is there.
        **environment: Variables besides this process's.

    Raises:
        EsenError: It does not answer, or ends; with the end of what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = {*_TRITONS[0].glob(_TRITONS[1])}
    mark = f"esen_{uuid.uuid4().hex[:12]}"
    with (
        tempfile.TemporaryDirectory(prefix="esen_", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as log,
    ):
        told: Mapping[str, str] = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": folder,
            "RAY_TMPDIR": folder,
            _MARK: mark,
            "SPT_NOENV": "1",  # else Ray's names of processes are written over the mark
            **environment,
        }
        words = [word.replace("{port}", str(port)).replace("{mark}", mark) for word in command]
        made = subprocess.Popen(words, env=dict(told), cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            until = time.monotonic() + READY_S
            while not _answers(f"http://127.0.0.1:{port}{ready}", request):
                if made.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise EsenError("A server starts", given=log.read().decode(errors="replace")[-2000:])
                time.sleep(0.25)
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(made, mark)
            for folder_of_triton in {*_TRITONS[0].glob(_TRITONS[1])} - there:
                with suppress(OSError):  # no empty one: somebody else's
                    folder_of_triton.rmdir()


def _end(made: subprocess.Popen[bytes], mark: str) -> None:
    """End all that was started: asked first, then killed."""
    try:
        made.terminate()  # it alone: whoever loses its children first may wait for them in vain
        with suppress(subprocess.TimeoutExpired):
            made.wait(20)
        for process in marked(mark):
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(marked(mark), timeout=3)
    finally:  # also where somebody cannot wait, and presses Ctrl-C again
        for process in marked(mark):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(marked(mark), timeout=5)
        made.wait()
        for left in _SHARED.glob(f"*{mark}*"):
            with suppress(FileNotFoundError):
                left.unlink()


def marked(mark: str) -> list[psutil.Process]:
    """The processes of a server, wherever they hang."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


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
