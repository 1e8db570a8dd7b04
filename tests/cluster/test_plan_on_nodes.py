"""A plan on nodes that are threads of this process: all that Ray is asked for too, in seconds."""

from __future__ import annotations

from collections.abc import Callable

import contract
import pytest
import torch
from local_nodes import LocalNodes

from esen_lab.cluster import PlanOnNodes
from esen_lab.errors import UsageError
from esen_lab.run import Deadline, RunOptions


class Threads:
    """See `contract.Cluster`."""

    pace = 1.0

    def __init__(self) -> None:
        self.reach = LocalNodes("left", "right")

    def kill_worker(self, running: PlanOnNodes, node: str) -> None:
        self.reach.links[node].kill()

    def kill_node(self, running: PlanOnNodes, node: str) -> None:
        self.reach.links[node].kill(for_good=True)


@pytest.mark.own_helper  # workers of nodes are killed and start again
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_nodes_keep_the_contract(check: Callable[[contract.Cluster], None]) -> None:
    check(Threads())


def test_a_large_input_is_put_once_and_a_small_one_goes_with_the_calls() -> None:
    threads = Threads()
    with contract.Started(threads) as started:
        put = threads.reach.puts  # the bundles
        assert put == 2
        started.run()
        assert threads.reach.puts == put
        started.run(torch.zeros(5_000, 8))
        assert threads.reach.puts == put + 1


def test_a_node_of_which_nobody_is_done_in_time_is_left_out_and_busy_until_then() -> None:
    with contract.Started(Threads(), contract.plan_for(("a", "b", "c"), ("d",)), slow_s=1.6) as started:
        report = started.run(deadline_s=0.8).report
        assert report.answered.names == ("a", "b", "c")
        left, right = report.lanes
        assert left.end_s < right.end_s <= report.jct_s


def test_an_early_stop_over_nodes_is_refused() -> None:
    with contract.Started(Threads()) as started, pytest.raises(UsageError, match="one machine"):
        started.nodes.run(contract.X, deadline=Deadline(10), options=RunOptions(stop_early=0.9))
