"""Nodes without Ray: each a thread of this process with a `NodeWorker`, and the failures that a cluster has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any

from esen_lab.cluster.node_watch import NodeWatch
from esen_lab.cluster.node_worker import NodeWorker
from esen_lab.cluster.nodes import ClusterNode, NodeLost


class ThreadLink:
    """What one node has, in a thread."""

    def __init__(self, node: ClusterNode, make: Callable[[], Any]) -> None:
        self._node, self._make = node, make
        self.dead_for_good = False
        self._ending: list[ThreadPoolExecutor] = []
        self._begin()

    def _begin(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"node {self._node.name}")
        self._made: Future[Any] = self._pool.submit(self._make)
        self._calls: list[Future[Any]] = []

    @property
    def worker(self) -> Any:
        return self._made.result()

    def call(self, method: str, *arguments: Any) -> Any:
        if self.dead_for_good:
            return Future()  # nobody answers
        made = self._made

        def ask() -> Any:
            given = [value.result() if isinstance(value, Future) else value for value in arguments]
            return getattr(made.result(), method)(*given)

        future = self._pool.submit(ask)
        self._calls.append(future)
        return future

    def kill(self, *, for_good: bool = False) -> None:
        """As kill -9 of an actor, or of its node: what was asked fails."""
        self.dead_for_good = for_good
        pool, made, calls = self._pool, self._made, self._calls
        lost = [call for call in calls if not call.done()]
        pool.submit(lambda: made.result().close())
        self._ending.append(pool)
        if not for_good:
            self._begin()
        for call in lost:  # last: whoever hears of it asks the worker that comes after
            call.lost = True  # type: ignore[attr-defined]

    def restart(self) -> None:
        self.kill()

    def close(self) -> None:
        if not self.dead_for_good:
            made = self._made
            self._pool.submit(lambda: made.result().close())
            self._ending.append(self._pool)
        for pool in self._ending:
            pool.shutdown(wait=True)


class LocalNodes:
    """A cluster of threads."""

    address, dashboard = "threads of this process", ""

    def __init__(self, *names: str, units: int = 1) -> None:
        self.units = units
        self._nodes = {
            name: ClusterNode(name=name, id=f"id-{name}", host="here", units=units, kind="a thread") for name in names
        }
        self.links: dict[str, ThreadLink] = {}
        self.watches: dict[str, ThreadLink] = {}
        self.puts = 0

    def nodes(self) -> tuple[ClusterNode, ...]:
        dead = {name for name, link in self.links.items() if link.dead_for_good}
        return tuple(replace(node, alive=name not in dead, units=self.units) for name, node in self._nodes.items())

    def put(self, value: Any) -> Any:
        self.puts += 1
        return value

    def start(self, node: ClusterNode, bundle: Any, lane_units: int, *, restarts: int) -> ThreadLink:
        self.links[node.name] = ThreadLink(node, lambda: NodeWorker(node.name, "cpu", node.cores, bundle))
        return self.links[node.name]

    def watch(self, node: ClusterNode) -> ThreadLink:
        self.watches[node.name] = ThreadLink(node, lambda: NodeWatch(node.cores))
        return self.watches[node.name]

    def wait(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        if any(getattr(call, "lost", False) for call in calls):
            return [call for call in calls if getattr(call, "lost", False)]
        done, _ = wait_for(calls, timeout=timeout_s, return_when=FIRST_COMPLETED)
        return [call for call in calls if call in done]

    def result(self, call: Any) -> Any:
        if getattr(call, "lost", False):
            raise NodeLost("it was killed")
        try:
            return call.result()
        except CancelledError as problem:
            raise NodeLost("it was killed") from problem

    def close(self) -> None:
        """Nothing to leave."""
