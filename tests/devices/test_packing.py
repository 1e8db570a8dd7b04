"""Which cores lanes get on larger machines: together where they fit, and what is said where they do not."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import machine_doubles as machines
import pytest

from esen_lab.common.control_groups import ControlGroups
from esen_lab.devices import CpuDevice
from esen_lab.devices.cpu import device as cpu
from esen_lab.devices.cpu.core_packing import Packer
from esen_lab.devices.cpu.topology import Core, Kind, Topology, read_topology
from esen_lab.errors import DeviceError, UsageError
from esen_lab.profiler import default_shares


def server(*nodes: Sequence[int], kind: Kind | None = None) -> Topology:
    """Nodes, each with its L3 domains of so many cores."""
    cores, numbers = [], itertools.count()
    for node, domains in enumerate(nodes):
        for size in domains:
            first = next(numbers)
            members = [first, *(next(numbers) for _ in range(size - 1))]
            cores += [Core(cpus=(cpu,), l3=first, node=node, kind=kind) for cpu in members]
    return Topology(cores=tuple(cores))


def places(topology: Topology, *shares: int) -> list[str]:
    found = Packer(topology).pack(shares)
    assert [len(lane) for lane in found.cores] == list(shares)
    taken = [core for lane in found.cores for core in lane]
    assert len(taken) == len(set(taken)), "lanes are disjoint"
    return [topology.place_of(lane) for lane in found.cores]


TWO_DOMAINS = server((8, 8))


def test_lanes_stay_inside_one_l3_where_they_fit() -> None:
    assert places(TWO_DOMAINS, 6, 2, 8) == ["one L3"] * 3
    assert places(server((8, 8), (8, 8)), 5, 3, 5, 3, 5, 3, 5, 3) == ["one L3"] * 8


def test_of_lanes_that_cannot_all_stay_together_as_many_as_possible_do() -> None:
    assert places(TWO_DOMAINS, 6, 6, 4) == ["one L3", "one L3", "one node"]
    packing = Packer(TWO_DOMAINS).pack([6, 6, 4])
    assert (packing.loss, packing.exact) == (1, True)


def test_a_lane_that_no_domain_holds_stays_inside_a_node_in_whole_domains() -> None:
    found = Packer(server((8,) * 8)).pack([16, *[1] * 8])
    domains = [{core // 8 for core in lane} for lane in found.cores]
    assert len(domains[0]) == 2
    assert not domains[0] & set().union(*domains[1:])
    assert places(server((8, 8), (8, 8)), 12, 12) == ["one node"] * 2


def test_a_lane_is_spread_over_nodes_only_where_none_holds_it() -> None:
    two = server((28,), (28,))
    assert places(two, 20, 20, 16) == ["one L3", "one L3", "two nodes"]
    assert places(two, 40) == ["two nodes"]
    assert Packer(two).pack([40]).loss == 0, "alone it would be so too"


def test_small_lanes_lie_far_from_each_other() -> None:
    quarters = server((8, 8), (8, 8))
    found = Packer(quarters).pack([4, 4, 4, 4])
    assert {lane[0] // 8 for lane in found.cores} == {0, 1, 2, 3}
    found = Packer(quarters).pack([4, 4])
    assert {lane[0] // 16 for lane in found.cores} == {0, 1}, "nodes before domains"


def test_the_choice_is_the_best_one() -> None:
    """Against all ways to give lanes to domains, for many small cases."""
    randomly = random.Random(7)
    exact = 0
    for _ in range(60):
        topology = server(*[[randomly.randint(2, 5) for _ in range(2)] for _ in range(2)])
        left, shares = len(topology.cores), []
        while left and len(shares) < 5:
            shares.append(randomly.randint(1, min(6, left)))
            left -= shares[-1]
        found = Packer(topology).pack(shares)
        if found.exact:
            exact += 1
            assert found.loss == _least_loss(topology, shares), (topology.l3_domains, shares)
    assert exact > 50


def _least_loss(topology: Topology, shares: Sequence[int]) -> int:
    """By trying each lane in each domain, in each node, and over nodes."""
    domains: dict[int | None, list[int]] = {}
    for core in topology.cores:
        domains.setdefault(core.l3, [0, core.node or 0])[0] += 1
    sizes, of = [size for size, _ in domains.values()], [node for _, node in domains.values()]
    nodes = [sum(size for size, node in zip(sizes, of, strict=True) if node == n) for n in (0, 1)]
    options = [*(("domain", d) for d in range(4)), *(("node", n) for n in (0, 1)), ("anywhere", 0)]
    cost = {"domain": 0, "node": 1, "anywhere": 100}
    alone = [0 if s <= max(sizes) else 1 if s <= max(nodes) else 100 for s in shares]
    best = 1 << 30
    for chosen in itertools.product(options, repeat=len(shares)):
        used, held = [0] * 4, [0, 0]
        for share, (what, where) in zip(shares, chosen, strict=True):
            if what == "domain":
                used[where] += share
                held[of[where]] += share
            elif what == "node":
                held[where] += share
        fits = all(u <= s for u, s in zip(used, sizes, strict=True)) and all(
            h <= n for h, n in zip(held, nodes, strict=True)
        )
        if fits:
            best = min(best, sum(cost[what] for what, _ in chosen) - sum(alone))
    return best


def test_many_lanes_on_a_large_machine_are_packed_at_once() -> None:
    topology = server(*[(8,) * 12] * 2)
    randomly = random.Random(1)
    for _ in range(5):
        left, shares = 192, []
        while left:
            shares.append(randomly.randint(1, min(14, left)))
            left -= shares[-1]
        begun_s = time.thread_time()
        found = Packer(topology).pack(shares)
        assert time.thread_time() - begun_s < 1.0
        assert sorted(core for lane in found.cores for core in lane) == list(range(192))
        apart = [topology.place_of(lane) for lane in found.cores].count("two nodes")
        assert apart <= 1


def test_on_one_domain_lanes_have_the_cores_in_their_order() -> None:
    assert Packer(server((8,))).pack([1, 4, 2]).cores == ((0,), (1, 2, 3, 4), (5, 6))


def test_shares_beyond_the_device_overlap_as_little_as_possible() -> None:
    found = Packer(TWO_DOMAINS).pack([8, 8, 8, 4])
    assert [{core // 8 for core in lane} for lane in found.cores[:3]] == [{0}, {1}, {0}]
    assert {core // 8 for core in found.cores[3]} == {1}


@pytest.mark.parametrize("kind", ["epyc", "epyc 4", "xeons", "alternating", "graviton", "altras", "vm", "holes"])
def test_hardware_threads_stay_together_and_lanes_disjoint_on_every_machine(tmp_path: Path, kind: str) -> None:
    make = {
        "epyc": machines.epyc_7763,
        "epyc 4": lambda root: machines.epyc_7763(root, 4),
        "xeons": machines.two_xeons,
        "alternating": lambda root: machines.two_xeons(root, alternating=True),
        "graviton": machines.graviton3,
        "altras": machines.two_altras,
        "vm": machines.bare_vm,
        "holes": machines.with_holes,
    }[kind]
    root = make(tmp_path)
    cpus = {int(path.name[3:]) for path in (root / "system/cpu").glob("cpu[0-9]*")}
    device = CpuDevice(topology=read_topology(cpus, root))
    randomly = random.Random(kind)
    for _ in range(10):
        left, shares = device.units, []
        while left and len(shares) < 12:
            shares.append(randomly.randint(1, left))
            left -= shares[-1]
        lanes = device.place(shares)
        taken = [cpu for place in lanes for core in place.cores for cpu in core]
        assert len(taken) == len(set(taken))
        assert all(core in device.cores for place in lanes for core in place.cores)
        assert [place.units for place in lanes] == shares


# --- the device on it ------------------------------------------------------------------------------------------------


def test_a_device_says_which_lanes_are_not_where_they_were_measured(tmp_path: Path) -> None:
    device = CpuDevice(topology=read_topology(range(16), machines.epyc_7763(tmp_path)))
    assert device.remarks_on([6, 6, 2]) == ()
    (said,) = device.remarks_on([6, 6, 4])
    assert "lane 3 (4 cores) on one node, measured on one L3" in said
    assert "No arrangement of these shares does better" in said
    assert device.remarks_on([16, 16]) == (), "who shares cores has other worries"


def test_a_share_is_measured_where_a_lane_of_it_would_be(tmp_path: Path) -> None:
    device = CpuDevice(topology=read_topology(range(128), machines.epyc_7763(tmp_path, 4)))
    kinds = {share: device.place([share])[0].place for share in (1, 8, 9, 16, 17, 64)}
    assert kinds == {1: "one L3", 8: "one L3", 9: "one node", 16: "one node", 17: "two nodes", 64: "four nodes"}
    assert device.place([17])[0].nodes == (0, 1)


def test_shares_on_both_sides_of_a_step_are_measured(tmp_path: Path) -> None:
    server = CpuDevice(topology=read_topology(range(128), machines.epyc_7763(tmp_path / "a", 4)))
    assert server.steps == (8, 16)
    assert {8, 9, 16, 17} <= set(default_shares(server.units, server.steps))
    laptop = CpuDevice(topology=read_topology(range(16), machines.i7_1260p(tmp_path / "b")), wanted="all")
    assert laptop.steps == (4,)
    assert CpuDevice(topology=read_topology(range(64), machines.graviton3(tmp_path / "c"))).steps == ()
    assert default_shares(64, ()) == default_shares(64)
    assert default_shares(20, (28,)) == default_shares(20), "a step beyond the device is none"


def test_domains_are_part_of_what_a_point_was_measured_on(tmp_path: Path) -> None:
    root = machines.epyc_7763(tmp_path)
    one, two = (CpuDevice(topology=read_topology(cpus, root)) for cpus in (range(8), range(4, 12)))
    assert one.units == two.units == 8
    assert one.identity.key != two.identity.key
    assert two.identity.details["l3_domains"] == "2 x 4"
    assert "l3_domains" not in one.identity.details, "a usual machine's points stay what they were"


def test_slow_cores_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    laptop = read_topology(range(16), machines.i7_1260p(tmp_path))
    device = CpuDevice(topology=laptop)
    assert device.cores == ((0, 1), (2, 3), (4, 5), (6, 7))
    (said,) = (note for note in device.notes if "left out" in note)
    assert "8 slow cores (CPUs 8-15)" in said
    assert "cpu:slow" in said


def test_slow_cores_are_taken_when_asked_for_and_points_are_not_mixed(tmp_path: Path) -> None:
    laptop = read_topology(range(16), machines.i7_1260p(tmp_path))
    best, fast = CpuDevice(topology=laptop), CpuDevice(topology=laptop, wanted="fast")
    slow, both = CpuDevice(topology=laptop, wanted="slow"), CpuDevice(topology=laptop, wanted="all")
    assert (fast.units, slow.units, both.units) == (4, 8, 12)
    assert best.identity.key == fast.identity.key
    assert len({device.identity.key for device in (fast, slow, both)}) == 3
    four = CpuDevice(topology=read_topology([8, 9, 10, 11], tmp_path))
    assert four.units == fast.units
    assert four.identity.details["cores"] == "slow"
    assert four.identity.key != fast.identity.key, "four slow cores are not four fast ones"
    assert any("slow cores only" in note for note in four.notes)


def test_with_both_kinds_a_lane_stays_inside_one_and_slow_ones_are_said(tmp_path: Path) -> None:
    both = CpuDevice(topology=read_topology(range(16), machines.i7_1260p(tmp_path)), wanted="all")
    assert [place.place for place in both.place([4, 8])] == ["one L3", "one L3, slow cores"]
    (said,) = both.remarks_on([3, 2, 4])
    assert "slow cores, measured on one L3" in said
    assert both.remarks_on([4, 8]) == (), "eight slow cores are what eight cores were measured on"
    assert any("Fast and slow cores are shared out together" in note for note in both.notes)


def test_a_kind_that_is_not_there_is_refused(tmp_path: Path) -> None:
    alike = read_topology(range(64), machines.graviton3(tmp_path / "a"))
    with pytest.raises(DeviceError, match="cpu:slow needs"):
        CpuDevice(topology=alike, wanted="slow")
    assert CpuDevice(topology=alike, wanted="fast").units == CpuDevice(topology=alike, wanted="all").units == 64
    slow = read_topology([8, 9], machines.i7_1260p(tmp_path / "b"))
    with pytest.raises(DeviceError, match="cpu:fast needs"):
        CpuDevice(topology=slow, wanted="fast")
    with pytest.raises(UsageError, match="cores or of a topology"):
        CpuDevice(cores=[(0,)], topology=alike)


def test_a_quota_takes_cores_that_are_close_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machines.epyc_7763(tmp_path)
    monkeypatch.setattr(ControlGroups, "cpus", lambda groups: 3.5)
    monkeypatch.setattr(cpu, "read_topology", lambda cpus: read_topology(cpus, root))
    monkeypatch.setattr(cpu, "remarks_on_cores", lambda _: [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {6, 7, 8, 9, 10, 70, 71, 72, 73, 74})
    device = CpuDevice()
    assert device.cores == ((8, 72), (9, 73), (10, 74)), "not 6, 7 and 8: those have two L3s"
    assert any("grants 3.5 of 5 cores' time: 3 are shared out" in note for note in device.notes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {6, 7, 8, 9})
    assert CpuDevice().place([3])[0].place == "one node"
