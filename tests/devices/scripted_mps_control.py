#!/usr/bin/env python3
"""A test double: a scripted stand-in for `nvidia-cuda-mps-control`. It serves no GPU.

    scripted_mps_control.py -f      the daemon, in the foreground, on a socket in $CUDA_MPS_PIPE_DIRECTORY
    scripted_mps_control.py         reads commands from standard input and passes them to the daemon

What it does wrong is said in `script.json` beside this file: {"refuses_to_start", "hangs_on", "ignores_quit",
"fault_until_clients_gone", "fault_for_ever", "clients", "ignores_terminate"}. A double of CUDA makes its process a
client by adding its process id to the file `connected` there; a process that has ended is no client any more. Two who
ask at a time leave the file `overlapped`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOCKET = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"], "control")
SERVER_PID = 4242


def script() -> dict[str, Any]:
    path = HERE / "script.json"
    return json.loads(path.read_text()) if path.exists() else {}


def serve() -> int:
    if text := script().get("refuses_to_start"):
        print(text, file=sys.stderr)
        return 1
    if script().get("ignores_quit"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    starts = HERE / "starts"
    starts.write_text(str(int(starts.read_text()) + 1 if starts.exists() else 1))
    (HERE / "seen.json").write_text(
        json.dumps({key: value for key, value in os.environ.items() if key.startswith("CUDA_")})
    )
    clients: list[int] = list(script().get("clients", []))
    servers: list[int] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(SOCKET))
        listening.listen()
        while True:
            conversation, _ = listening.accept()
            with conversation, conversation.makefile("rw") as lines:
                command = lines.readline().split()
                if command and command[0] == script().get("hangs_on"):
                    time.sleep(60)
                answer = reply(command, servers, clients)
                if answer is None:
                    return 0
                lines.write(answer)


def reply(command: list[str], servers: list[int], clients: list[int]) -> str | None:
    told = script()
    fresh = int((HERE / "starts").read_text()) > 1
    match command:
        case ["start_server", "-uid", _]:
            servers[:] = [SERVER_PID]
            return ""
        case ["get_server_list"]:
            return "".join(f"{pid}\n" for pid in servers)
        case ["get_server_status", _]:
            stuck = told.get("fault_for_ever") and not fresh
            return "FAULT\n" if stuck or (told.get("fault_until_clients_gone") and clients) else "ACTIVE\n"
        case ["get_client_list", _]:
            return "".join(f"{pid}\n" for pid in [*clients, *connected()])
        case ["terminate_client", _, client]:
            if told.get("ignores_terminate"):
                return "1\n"
            if int(client) in clients:
                clients.remove(int(client))
            else:
                os.kill(int(client), signal.SIGTERM)
            with (HERE / "terminated").open("a") as told_of:
                told_of.write(f"{client}\n")
            return "0\n"
        case ["quit"]:
            (HERE / "clients_at_quit").write_text(str(len(connected())))
            return "" if told.get("ignores_quit") else None
    return "unknown command\n"


def connected() -> list[int]:
    path = HERE / "connected"
    pids = [int(word) for word in path.read_text().split()] if path.exists() else []
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def pass_on() -> int:
    command = sys.stdin.readline()
    asking = HERE / "asking"
    try:
        asking.touch(exist_ok=False)
    except FileExistsError:
        if not command.startswith("terminate_client"):
            (HERE / "overlapped").touch()
    try:
        return passed_on(command)
    finally:
        asking.unlink(missing_ok=True)


def passed_on(command: str) -> int:
    try:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(str(SOCKET))
            with daemon.makefile("rw") as lines:
                lines.write(command)
                lines.flush()
                sys.stdout.write(lines.read())
    except OSError:
        print("Cannot find MPS control daemon process", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve() if "-f" in sys.argv[1:] else pass_on())
