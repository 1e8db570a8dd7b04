"""What is read of machines: caches, nodes, kinds of cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import machine_doubles as machines
import pytest
from machine_doubles import machine

from esen_lab.devices.cpu.topology import Topology, read_topology


def topology(root: Path, cpus: Iterable[int]) -> Topology:
    return read_topology(set(cpus), root)


@pytest.mark.parametrize(
    ("make", "cpus", "cores", "l3_domains", "nodes"),
    [
        (machines.epyc_7763, 128, 64, (8,) * 8, (64,)),
        (lambda root: machines.epyc_7763(root, 4), 128, 64, (8,) * 8, (16,) * 4),
        (machines.two_xeons, 112, 56, (28, 28), (28, 28)),
        (lambda root: machines.two_xeons(root, alternating=True), 112, 56, (28, 28), (28, 28)),
        (machines.graviton3, 64, 64, (64,), (64,)),
        (machines.two_altras, 160, 160, (), (80, 80)),
        (machines.bare_vm, 8, 8, (), ()),
        (machines.vm_with_an_l3_each, 8, 8, (), (8,)),
    ],
    ids=["EPYC", "EPYC, 4 nodes", "Xeons", "alternating Xeons", "Graviton3", "Altras", "bare VM", "VM, an L3 each"],
)
def test_servers_have_their_domains_and_nodes(
    tmp_path: Path,
    make: Callable[[Path], Path],
    cpus: int,
    cores: int,
    l3_domains: tuple[int, ...],
    nodes: tuple[int, ...],
) -> None:
    found = topology(make(tmp_path), range(cpus))
    assert (len(found.cores), found.l3_domains, found.nodes, found.kinds) == (cores, l3_domains, nodes, ())


@pytest.mark.parametrize(
    ("make", "cpus", "fast", "slow"),
    [
        (machines.i7_1260p, 16, [0, 2, 4, 6], list(range(8, 16))),
        (machines.strix_point, 24, [0, 1, 2, 3], list(range(4, 12))),
        (machines.big_little, 8, [4, 5, 6, 7], [0, 1, 2, 3]),
    ],
    ids=["Intel", "AMD", "Arm"],
)
def test_fast_and_slow_cores_are_told_apart(
    tmp_path: Path, make: Callable[[Path], Path], cpus: int, fast: list[int], slow: list[int]
) -> None:
    found = topology(make(tmp_path), range(cpus))
    assert found.kinds == ("fast", "slow")
    assert [core.cpus[0] for core in found.of_kind("fast").cores] == fast
    assert [core.cpus[0] for core in found.of_kind("slow").cores] == slow


def test_slow_cores_are_slow_even_where_no_others_may_be_used(tmp_path: Path) -> None:
    assert topology(machines.i7_1260p(tmp_path / "a"), [9, 10]).kinds == ("slow",)
    assert topology(machines.big_little(tmp_path / "b"), [0, 1]).kinds == ("slow",)


def test_ranks_of_cores_of_one_kind_do_not_make_them_slow(tmp_path: Path) -> None:
    ranks = [236, 231, 226, 221, 216, 211, 166, 171]  # a Ryzen 9 7950X's
    equal = machine(tmp_path / "a", [[n] for n in range(8)], each=lambda n: {"acpi_cppc/highest_perf": ranks[n]})
    assert topology(equal, range(8)).kinds == ()
    dense = machine(tmp_path / "b", [[n] for n in range(2)], each=lambda n: {"acpi_cppc/highest_perf": (208, 110)[n]})
    assert topology(dense, range(2)).kinds == ("fast", "slow")


def test_cpus_that_may_not_be_used_are_left_out(tmp_path: Path) -> None:
    found = topology(machines.epyc_7763(tmp_path), [6, 7, 8, 9, 70, 71])
    assert [core.cpus for core in found.cores] == [(6, 70), (7, 71), (8,), (9,)]
    assert found.l3_domains == (2, 2)


def test_cpus_that_are_off_and_holes_in_the_numbers_do_no_harm(tmp_path: Path) -> None:
    off = topology(machines.with_offline_cpus(tmp_path / "off"), [0, 1, 3, 4, 6, 7])
    assert (off.l3_domains, off.nodes) == ((3, 3), (6,))
    holes = topology(machines.with_holes(tmp_path / "holes"), [0, 1, 2, 3, 8, 9, 10, 11])
    assert (holes.l3_domains, holes.nodes) == ((4, 4), (4, 4))
    assert [core.cpus[0] for core in holes.cores] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_without_nodes_sockets_count_where_cores_share_one(tmp_path: Path) -> None:
    root = machine(tmp_path, [[cpu] for cpu in range(4)], sockets=[[0, 1], [2, 3]])
    assert topology(root, range(4)).nodes == (2, 2)


def test_cores_without_an_l3_beside_others_have_none_in_common(tmp_path: Path) -> None:
    root = machine(tmp_path, [[cpu] for cpu in range(4)], l3=[[0, 1]], nodes=[range(4)])
    assert topology(root, range(4)).l3_domains == (2, 1, 1)


@pytest.mark.parametrize("text", ["", "0-99999999999", "5-1", "-3", "a", "0-1,", "\0", "9" * 100_000])
def test_files_may_hold_anything(tmp_path: Path, text: str) -> None:
    root = machines.epyc_7763(tmp_path)
    for name in (
        "cpu/cpu0/topology/thread_siblings_list",
        "cpu/cpu0/cache/index3/shared_cpu_list",
        "cpu/cpu0/cache/index3/level",
        "cpu/cpu0/cache/index3/size",
        "cpu/cpu0/cpufreq/cpuinfo_max_freq",
        "node/node0/cpulist",
    ):
        (root / "system" / name).write_text(text)
    found = topology(root, range(128))
    assert sorted(cpu for core in found.cores for cpu in core.cpus) == list(range(128))


def test_nothing_told_is_nothing_known(tmp_path: Path) -> None:
    found = topology(tmp_path / "nothing", [3, 1])
    assert [core.cpus for core in found.cores] == [(1,), (3,)]
    assert (found.l3_domains, found.nodes, found.kinds, found.place_of([0, 1])) == ((), (), (), "")


@pytest.mark.parametrize(
    ("cpus", "place"),
    [
        (range(8), "one L3"),
        ([7, 8], "one node"),
        ([0, 16], "two nodes"),
        ([0, 16, 32], "three nodes"),
        (range(0, 64, 8), "four nodes"),
    ],
)
def test_a_place_is_named_by_what_its_cores_share(tmp_path: Path, cpus: Iterable[int], place: str) -> None:
    assert topology(machines.epyc_7763(tmp_path, 4), range(64)).place_of(list(cpus)) == place


def test_a_place_says_that_cores_are_slow(tmp_path: Path) -> None:
    found = topology(machines.i7_1260p(tmp_path), range(16))
    assert found.place_of([0, 1]) == "one L3"
    assert found.place_of([4, 5]) == "one L3, slow cores"
    assert found.place_of([3, 4]) == "one L3, fast and slow cores"


def test_it_is_described_in_a_few_lines(tmp_path: Path) -> None:
    epyc = topology(machines.epyc_7763(tmp_path / "a", 2), range(128)).describe()
    assert epyc[0] == (
        "inside",
        "64 cores of 2 hardware threads; 8 L3 domains of 8 cores (268.4 MB in all); 2 nodes of 32 cores",
    )
    assert epyc[1] == ("node 0", "[0-7,64-71] [8-15,72-79] [16-23,80-87] [24-31,88-95]")
    assert len(epyc) == 3
    ((_, vm),) = topology(machines.bare_vm(tmp_path / "b"), range(8)).describe()
    assert vm == "8 cores; L3 domains are not told of; nodes are not told of"
    laptop = topology(machines.i7_1260p(tmp_path / "c"), range(16)).describe()
    assert "4 fast, 8 slow" in laptop[0][1]


def test_this_machine_can_be_read() -> None:
    import os

    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    found = read_topology(cpus)
    assert {cpu for core in found.cores for cpu in core.cpus} == cpus
    assert found.describe()
