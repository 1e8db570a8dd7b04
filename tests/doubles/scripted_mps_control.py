#!/usr/bin/env python3
"""A test double: a scripted stand-in for `nvidia-cuda-mps-control`. It serves no GPU.

    scripted_mps_control.py -f      the daemon, in the foreground, on a socket in $CUDA_MPS_PIPE_DIRECTORY
    scripted_mps_control.py         reads commands from standard input and passes them to the daemon

It answers as the real programs do (`tests/devices/test_real_mps.py` holds both to the same test). What it does wrong
is said in `script.json` beside this file: {"refuses_to_start", "hangs_on", "ignores_quit", "fault_until_clients_gone",
"fault_for_ever", "clients", "ignores_terminate", "server_exits", "server_starts_s", "loses_answers"}. A double of CUDA
makes its process a client by adding its process id to the file `connected` there; a process that has ended is no client
any more. Two who ask at a time leave the file `overlapped`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
SOCKET = FOLDER / "control"
SERVER_PID = 4242


def script() -> dict[str, Any]:
    path = HERE / "script.json"
    return json.loads(path.read_text()) if path.exists() else {}


def note(words: str) -> None:
    print(f"[2026-11-28 21:08:41.248 Control {os.getpid()}] {words}", flush=True)


def serve() -> int:
    if text := script().get("refuses_to_start"):
        print(text, file=sys.stderr)
        return 1
    if taken():
        print("An instance of this daemon is already running")
        return 1
    SOCKET.unlink(missing_ok=True)  # of one that was killed
    if script().get("ignores_quit"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    starts = HERE / "starts"
    starts.write_text(str(int(starts.read_text()) + 1 if starts.exists() else 1))
    (HERE / "seen.json").write_text(
        json.dumps({key: value for key, value in os.environ.items() if key.startswith("CUDA_") or key == "PATH"})
    )
    clients: list[int] = list(script().get("clients", []))
    servers: list[int] = []
    note(f"Starting control daemon using socket {SOCKET}")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(SOCKET))
        listening.listen()
        while True:
            conversation, _ = listening.accept()
            note("Accepting connection...")
            with conversation, conversation.makefile("rw") as lines:
                for line in lines.read().splitlines():
                    note(f"Cmd:{line}")
                    command = line.split()
                    if command and command[0] == script().get("hangs_on"):
                        time.sleep(60)
                    answer = reply(command, servers, clients)
                    if answer is None:
                        return 0
                    lines.write(answer)
            note("UI closed")


def taken() -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(str(SOCKET))
    except OSError:
        return False
    return True


def starting(servers: list[int]) -> bool:
    """Whether the server is not ready yet; one that cannot start ends when it would be."""
    takes_s = script().get("server_starts_s", 0.0)
    if not takes_s or not servers or time.time() - (HERE / "started_at").stat().st_mtime < takes_s:
        return bool(takes_s and servers)
    if (status := script().get("server_exits")) is not None:
        servers.clear()
        note(f"Server {SERVER_PID} exited with status {status}")
    return False


def reply(command: list[str], servers: list[int], clients: list[int]) -> str | None:
    begins = starting(servers)
    unknown = f"Server {command[1]} not found\n" if len(command) > 1 and command[1] != str(SERVER_PID) else ""
    match command:
        case ["quit"]:
            (HERE / "clients_at_quit").write_text(str(len(connected())))
            return "" if script().get("ignores_quit") else None
        case ["start_server", "-uid", _]:
            return start_server(servers)
        case ["start_server"]:
            return "A user id (UID) is required\n"
        case ["get_default_active_thread_percentage"]:
            return f"{float(os.environ.get('CUDA_MPS_ACTIVE_THREAD_PERCENTAGE', '100'))}\n"
        case ["get_server_list"]:
            return "".join(f"{pid}\n" for pid in servers)
        case ["get_server_status", _]:
            state = "FAULT" if faulty(clients) else "INITIALIZING" if begins else "ACTIVE"
            gone = f"Server {command[1]} not found\n"
            return unknown or (f"{state}\n" if servers else gone)
        case ["get_client_list", _]:
            return unknown or "".join(f"{pid}\n" for pid in [*clients, *connected()])
        case ["terminate_client", server, client]:
            return f"{unknown}Server {server} not found!\n1\n" if unknown else terminate(int(client), clients)
    return f'Unknown command "{" ".join(command)}"\n'


def faulty(clients: list[int]) -> bool:
    told = script()
    fresh = int((HERE / "starts").read_text()) > 1
    return bool(told.get("fault_for_ever") and not fresh) or bool(told.get("fault_until_clients_gone") and clients)


def start_server(servers: list[int]) -> str:
    status = script().get("server_exits")
    if status is None and shutil.which("nvidia-cuda-mps-server") is None:
        status = 1  # the real one says no more
    note(f"Starting new server {SERVER_PID} for user {os.getuid()}")
    (HERE / "started_at").touch()
    if status is None or script().get("server_starts_s"):
        servers[:] = [SERVER_PID]
    else:
        note(f"Server {SERVER_PID} exited with status {status}")
    return ""


def terminate(client: int, clients: list[int]) -> str:
    if script().get("ignores_terminate") or client not in [*clients, *connected()]:
        return "1\n"
    if client in clients:
        clients.remove(client)
    else:
        os.kill(client, signal.SIGTERM)
    with (HERE / "terminated").open("a") as told_of:
        told_of.write(f"{client}\n")
    return "0\n"


def connected() -> list[int]:
    path = HERE / "connected"
    pids = [int(word) for word in path.read_text().split()] if path.exists() else []
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def pass_on() -> int:
    commands = sys.stdin.read()
    asking = HERE / "asking"
    try:
        asking.touch(exist_ok=False)
    except FileExistsError:
        (HERE / "overlapped").touch()
    try:
        return passed_on(commands)
    finally:
        asking.unlink(missing_ok=True)


def passed_on(commands: str) -> int:
    lost = HERE / "lost"
    before = int(lost.read_text()) if lost.exists() else 0
    try:
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(str(SOCKET))
            with daemon.makefile("rw") as lines:
                lines.write(commands)
                lines.flush()
                daemon.shutdown(socket.SHUT_WR)
                answer = lines.read()
    except OSError:
        print("Cannot find MPS control daemon process", file=sys.stderr)
        return 1
    if before < script().get("loses_answers", 0):  # as when another front end takes the turn
        lost.write_text(str(before + 1))
        return 0
    sys.stdout.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(serve() if "-f" in sys.argv[1:] else pass_on())
