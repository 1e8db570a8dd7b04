"""A real ipykernel in its own process, spoken to as a frontend does."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]


@dataclass
class Ran:
    """What one cell did."""

    status: str
    outputs: list[dict[str, Any]] = field(default_factory=list)
    streams: str = ""

    @property
    def error(self) -> str:
        return "\n".join("\n".join(o["traceback"]) for o in self.outputs if "traceback" in o)

    @property
    def text(self) -> str:
        return "\n".join(o["data"]["text/plain"] for o in self.outputs if "data" in o) + self.streams

    @property
    def html(self) -> str:
        return "\n".join(o["data"].get("text/html", "") for o in self.outputs if "data" in o)


class Kernel:
    """One kernel; a context manager that leaves no process behind.

    Args:
        folder: Where it runs, and keeps its profile store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.late: list[dict[str, Any]] = []  # outputs that came between cells, or in another cell's name

    def __enter__(self) -> Kernel:
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(self.folder / "k"))
        environment = {**os.environ, "ESEN_LAB_HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        self.manager.start_kernel(
            extra_arguments=["--HistoryManager.enabled=False"], cwd=str(self.folder), env=environment
        )
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=180)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)
        self.manager.cleanup_resources()

    def prepare(self, *codes: str) -> Kernel:
        """Run cells that all end well."""
        for code in codes:
            ran = self.run(code)
            assert ran.status == "ok", ran.error
        return self

    def run(self, code: str, timeout_s: float = 120, interrupt_when: str = "") -> Ran:
        """Run a cell and gather its outputs; interrupt the kernel when `interrupt_when` is printed."""
        asked = self.client.execute(code)
        ran = Ran(status="")
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != asked:
                if kind in ("display_data", "update_display_data"):
                    self.late.append({"kind": kind, **content})
                continue
            if kind == "stream":
                ran.streams += content["text"]
                if interrupt_when and interrupt_when in content["text"]:
                    self.manager.interrupt_kernel()
            elif kind in ("display_data", "execute_result", "error", "update_display_data"):
                ran.outputs.append({"kind": kind, **content})
            elif kind == "status" and content["execution_state"] == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == asked:
                ran.status = reply["content"]["status"]
                return ran

    def updates(self, for_s: float) -> list[dict[str, Any]]:
        """What arrives while no cell runs."""
        found = []
        deadline = time.monotonic() + for_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except Empty:
                break
            if message["msg_type"] in ("display_data", "update_display_data"):
                found.append({"kind": message["msg_type"], **message["content"]})
        return found

    def complete(self, code: str, at: int | None = None) -> list[str]:
        """What the tab key offers at the end of `code`."""
        reply = self.client.complete(code, at if at is not None else len(code), reply=True, timeout=60)
        matches: list[str] = reply["content"]["matches"]
        return matches
