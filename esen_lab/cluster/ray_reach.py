"""Ray as the way to the nodes: one actor per node holds a `NodeWorker`. The only file that knows Ray.

An actor has a placement group of its own, on its very node, with the cores (or GPUs) that its lanes take: Ray puts
nothing else there. Ray starts it again where it dies, with what it loads, as long as its node lives.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from esen_lab.cluster.node_messages import NodeCores
from esen_lab.cluster.nodes import ClusterNode, NodeLost, deal_cores
from esen_lab.errors import DeviceError, UsageError, first_line

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,48}")
_CONNECT = "Start one first: `ray start --head` there, `ray start --address=HOST:6379` on the others."
_OURS = "esen_lab"
_ANSWERS_S = 5.0  # a host that is there takes a connection, or refuses it, sooner


def _check_answers(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself tries for minutes, and writes of it.

    Raises:
        DeviceError: Nothing does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return  # "auto", a name of Ray's own, or for Ray to refuse
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_S).close()
    except (OSError, OverflowError, UnicodeError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise DeviceError("A cluster of Ray is there", given=f"{address!r}: {why}", hint=_CONNECT) from problem


class RayLink:
    """One actor of Ray.

    Args:
        actor: Its handle.
        group: Its placement group; None for one that has neither lanes nor a share of its own.
    """

    def __init__(self, actor: Any, group: Any = None) -> None:
        self._actor = actor
        self._group = group

    def call(self, method: str, *arguments: Any) -> Any:
        """See `WorkerLink.call`."""
        return getattr(self._actor, method).remote(*arguments)

    def restart(self) -> None:
        """See `WorkerLink.restart`."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor, no_restart=False)

    def close(self) -> None:
        """See `WorkerLink.close`: lanes are asked to end first, and end by themselves where that takes too long."""
        import ray
        from ray.util.placement_group import remove_placement_group

        if self._group is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.wait([self._actor.close.remote()], timeout=2.0)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor, no_restart=True)
        if self._group is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                remove_placement_group(self._group)


class RayReach:
    """The nodes of the cluster that this process is connected to.

    Args:
        address: As for `ray.init`: "auto" for the one that runs on this machine, "HOST:6379", "ray://HOST:10001".
        runtime_env: Of what runs on the nodes, as Ray has it: `{"working_dir": "."}`, `{"env_vars": {...}}`.
        devices: For nodes by name, the device that lanes share there ("cuda:0 mps"); "cpu" for those not named.

    Raises:
        UsageError: Ray is not installed.
        DeviceError: There is no such cluster.
    """

    def __init__(
        self,
        address: str = "auto",
        *,
        runtime_env: Mapping[str, Any] | None = None,
        devices: Mapping[str, str] | None = None,
    ) -> None:
        self._asked = address
        self._module = _ray()
        self._ours = False
        self._env = dict(runtime_env or {})
        self._devices = dict(devices or {})
        ray = self._ray
        self.address = str(ray.get_runtime_context().gcs_address)
        self.dashboard = _dashboard(ray)

    @property
    def _ray(self) -> Any:
        """Ray, connected: again, where the lab was closed meanwhile."""
        ray = self._module
        if not ray.is_initialized():  # else the user has connected, and stays so
            _check_answers(self._asked)
            try:
                ray.init(address=self._asked, log_to_driver=False, namespace=_OURS, configure_logging=False)
            except Exception as problem:  # Ray raises many kinds
                raise DeviceError(
                    "A cluster of Ray is there", given=f"{self._asked!r}: {first_line(problem)}", hint=_CONNECT
                ) from problem
            self._ours = True
        return ray

    # --- nodes ---------------------------------------------------------------------------------------------------

    def nodes(self) -> tuple[ClusterNode, ...]:
        """See `NodeReach.nodes`."""
        found = self._ray.nodes()
        names = _names(found)
        alive = [node for node in found if node["Alive"]]
        hosts: dict[str, list[tuple[str, int]]] = {}
        for node in sorted(alive, key=lambda node: names[node["NodeID"]]):
            hosts.setdefault(_host(node), []).append((names[node["NodeID"]], _count(node, "CPU")))
        here = {_host(node): len(os.sched_getaffinity(0)) for node in alive if _is_here(node)} if _pins() else {}
        dealt = deal_cores(hosts, here)
        taken: Counter[str] = Counter()
        for host, nodes in hosts.items():
            taken[host] = sum(count for _, count in nodes)
        made = []
        for node in found:
            name, host = names[node["NodeID"]], _host(node)
            few = here.get(host, 0) and len(hosts.get(host, [])) > 1 and taken[host] > here[host]
            notes = (f"{host} has {here[host]} CPUs for {taken[host]} that its nodes count: cores are shared.",)
            resources = node["Resources"]
            made.append(
                ClusterNode(
                    name=name,
                    id=node["NodeID"],
                    host=host,
                    units=max(1, _count(node, "CPU")),
                    gpus=_count(node, "GPU"),
                    device=self._devices.get(name, "cpu"),
                    memory_bytes=int(resources.get("memory", 0)),
                    cores=dealt.get(name, NodeCores()),
                    alive=bool(node["Alive"]),
                    kind=_kind(node),
                    notes=notes if few else (),
                )
            )
        return tuple(sorted(made, key=lambda node: (node.name, not node.alive)))

    def start(self, node: ClusterNode, bundle: Any, lane_units: int, *, restarts: int) -> RayLink:
        """See `NodeReach.start`."""
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from esen_lab.cluster.node_worker import NodeWorker

        resources = {"CPU": lane_units} if node.device.startswith("cpu") else {"CPU": 1, "GPU": 1}
        group = placement_group(
            [resources], strategy="STRICT_PACK", bundle_label_selector=[{"ray.io/node-id": node.id}]
        )
        options: dict[str, Any] = {
            "num_cpus": resources["CPU"],
            "num_gpus": resources.get("GPU", 0),
            "max_restarts": restarts,
            "max_task_retries": 0,  # a call is made once: a member may keep state
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
        }
        if self._env:
            options["runtime_env"] = self._env
        actor = self._ray.remote(NodeWorker).options(**options).remote(node.name, node.device, node.cores, bundle)
        return RayLink(actor, group)

    def watch(self, node: ClusterNode) -> RayLink:
        """See `NodeReach.watch`."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from esen_lab.cluster.node_watch import NodeWatch

        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
        }
        return RayLink(self._ray.remote(NodeWatch).options(**options).remote(node.cores))

    # --- calls ---------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> Any:
        """See `NodeReach.put`."""
        return self._ray.put(value)

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """See `NodeReach.wait`."""
        done, _ = self._ray.wait(list(calls), num_returns=1, timeout=timeout_s)
        if done and len(calls) > 1:  # others may be done too
            done, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return list(done)

    def result(self, call: Any) -> Any:
        """See `NodeReach.result`."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(call)
        except exceptions.ActorUnschedulableError as problem:
            raise NodeLost(f"Ray found no room for it: {first_line(problem)}", for_good=True) from problem
        except exceptions.RayActorError as problem:
            raise NodeLost(_short(problem), for_good=not _starts_again(problem)) from problem
        except exceptions.RayTaskError as problem:
            raise DeviceError("What runs on a node answers", given=first_line(problem)) from problem
        except exceptions.RayError as problem:  # its object is lost, with the node that had it
            raise NodeLost(_short(problem)) from problem

    def close(self) -> None:
        """See `NodeReach.close`: a connection that was there before stays."""
        if self._ours:
            self._ours = False
            self._module.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as problem:
        raise UsageError(
            "Plans for several machines need Ray", given="it is not installed", hint="pip install 'esen_lab[ray]'"
        ) from problem
    return ray


def _dashboard(ray: Any) -> str:
    url = None
    with contextlib.suppress(Exception):  # it is not part of Ray's promises
        url = ray._private.worker.get_dashboard_url()
    return f"http://{url}" if url else ""


def _names(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each node what plans call it: the name that it was started with, else a part of its identity."""
    told = Counter(node.get("NodeName", "") for node in found if node["Alive"])
    names = {}
    for node in found:
        name = str(node.get("NodeName", ""))
        own = _NAME.fullmatch(name) and told[name] <= 1 and name != node.get("NodeManagerAddress")
        names[node["NodeID"]] = name if own else f"node-{node['NodeID'][:8]}"
    return names


def _host(node: Mapping[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress"))


def _is_here(node: Mapping[str, Any]) -> bool:
    return _host(node) == os.uname().nodename


def _pins() -> bool:
    return hasattr(os, "sched_getaffinity")


def _count(node: Mapping[str, Any], what: str) -> int:
    return int(node["Resources"].get(what, 0))


def _kind(node: Mapping[str, Any]) -> str:
    """What alike nodes share: profiles are taken once for each."""
    labels = node.get("Labels") or {}
    gpu = labels.get("ray.io/accelerator-type", "")
    return f"{_count(node, 'CPU')} cores" + (f", {_count(node, 'GPU')} {gpu or 'GPU'}" if _count(node, "GPU") else "")


def _short(problem: BaseException) -> str:
    """What Ray says, less its list of possible reasons."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines[:1])[:300] or type(problem).__name__


def _starts_again(problem: BaseException) -> bool:
    """Whether an actor's death is followed by its restart, as far as the error tells."""
    return "max_restarts" not in str(problem)
