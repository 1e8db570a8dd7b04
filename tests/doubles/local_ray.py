"""A cluster of Ray on this machine: several raylets, each with cores of its own as far as Ray counts them.

Everything that it writes lies in one folder, which goes with it. Ray gives the agents of a node 15 s to tell their
ports, which a busy machine exceeds, and ends the node then: here the ports are chosen before, and told at once.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
LEAST_STORE_BYTES = 80 * 2**20  # Ray takes no less than 75 MB; of more than fits in, it writes the rest to the disk


class LocalRay:
    """A cluster that ends with its `with` statement.

    Args:
        nodes: Their names.
        cores: Of each.
        store_bytes: The size of each node's object store.
    """

    def __init__(self, *nodes: str, cores: int = 1, store_bytes: int = LEAST_STORE_BYTES) -> None:
        self._store_bytes = store_bytes
        # Before Ray is imported: how long is waited on a busy machine, where its files lie, that it phones nobody.
        self.folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: paths of sockets have 107 characters
        (self.folder / "ray").mkdir()
        os.environ.update(
            RAY_raylet_start_wait_time_s="180",
            RAY_agent_register_timeout_ms="180000",
            RAY_worker_register_timeout_seconds="300",
            RAY_prestart_worker_first_driver="0",  # the driver would wait until idle workers have started
            RAY_enable_worker_prestart="0",
            RAY_USAGE_STATS_ENABLED="0",
            RAY_TMPDIR=str(self.folder),
        )
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=False)
        self.nodes: dict[str, Any] = {}
        try:
            for name in nodes:
                self.add(name, cores)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Where it is reached."""
        return str(self._cluster.address)

    def add(self, name: str, cores: int = 1) -> None:
        """One more node."""
        node_id = uuid.uuid4().hex + uuid.uuid4().hex[:24]
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        done = threading.Event()
        teller = threading.Thread(target=self._tell_ports, args=(node_id, ports, done))
        teller.start()
        try:
            self.nodes[name] = self._cluster.add_node(
                num_cpus=cores,
                node_name=name,
                object_store_memory=self._store_bytes,
                include_dashboard=False,
                temp_dir=str(self.folder) if not self.nodes else None,
                env_vars={"RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id},
                **ports,
            )
        finally:
            done.set()
            teller.join()

    def _tell_ports(self, node_id: str, ports: dict[str, int], done: threading.Event) -> None:
        waiting = dict(ports)
        while waiting and not done.wait(0.05):
            session = self.folder / "session_latest"
            if not session.is_dir() or (len(self.nodes) == 0 and not (session / "sockets").is_dir()):
                continue
            for what, port in list(waiting.items()):
                (session / f"{what}_{node_id}").write_text(str(port))
                del waiting[what]

    def raylet(self, name: str) -> int:
        """The process of a node's raylet."""
        info = self.nodes[name].all_processes["raylet"][0]
        return int(info.process.pid)

    def processes(self) -> list[psutil.Process]:
        """All processes of this cluster, wherever they hang."""
        found = []
        for process in psutil.process_iter():
            try:
                words = " ".join(process.cmdline())
                of_it = str(self.folder) in words or process.environ().get("RAY_TMPDIR") == str(self.folder)
            except (psutil.Error, OSError):
                continue
            if of_it and process.pid != os.getpid():
                found.append(process)
        return found

    def close(self) -> None:
        """End it, and remove its files."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()
        _, alive = psutil.wait_procs(self.processes(), timeout=10.0)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5.0)
        time.sleep(0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> LocalRay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def found_by(program: Path, result: Path, *, timeout_s: float) -> Any:
    """What a program found on a cluster, in a process of its own: Ray stays in the one that had it.

    Args:
        program: Of the tests; it is given where to write what it finds, as JSON.
        result: Where that is.
        timeout_s: The most it may take.
    """
    paths = [str(HERE.parents[1]), str(HERE), str(program.parent), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, str(program), str(result)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert result.exists(), f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return json.loads(result.read_text())


def free_ports(count: int) -> list[int]:
    """Ports that are free now, and different ones."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
