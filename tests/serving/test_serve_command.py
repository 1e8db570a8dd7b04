"""The command `esen-lab serve`: how it ends."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from served_doubles import FakeServed, ask
from waiting import until

from esen_lab.serving.exported import ExportedFolder
from esen_lab.serving.serve_command import _setter, serve_folder
from esen_lab.serving.serve_options import serve_options
from esen_lab.serving.server import Server


def test_the_first_signal_ends_a_start_of_lanes_and_the_next_ones_do_not_interrupt_that_end() -> None:
    stop = threading.Event()
    handle = _setter(stop, threading.Event())
    with pytest.raises(KeyboardInterrupt):
        handle(signal.SIGINT, None)
    handle(signal.SIGINT, None)
    handle(signal.SIGTERM, None)
    assert stop.is_set()


def test_a_served_folder_is_ready_without_garbage_to_look_at_and_ends_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen: list[int] = []
    warm = Server.warm

    def warmed(server: Server, served: Any) -> None:
        warm(server, served)
        threading.Thread(target=ends, args=(server,)).start()

    def ends(server: Server) -> None:
        until(gc.get_freeze_count)
        frozen.append(ask(server, "GET", "/v2/health/ready")[0])
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Server, "warm", warmed)
    monkeypatch.setattr("esen_lab.serving.serve_command.log_as_json", lambda *_: None)  # else it would stay set
    monkeypatch.setattr(ExportedFolder, "open", lambda folder, **_: FakeServed())
    before = signal.getsignal(signal.SIGTERM)
    parser = argparse.ArgumentParser()
    serve_options(parser)
    assert serve_folder(tmp_path, parser.parse_args([str(tmp_path), "--port", "0", "--log-level", "error"])) == 0
    assert frozen == [200]
    assert gc.get_freeze_count() == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert "/infer" in capsys.readouterr().out
