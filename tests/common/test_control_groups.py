"""What control groups leave, from trees of files as machines and containers have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from esen_lab.common import free_memory
from esen_lab.common.control_groups import ControlGroups
from esen_lab.common.tensors import check_size
from esen_lab.devices.cpu import device as cpu
from esen_lab.devices.cpu import topology
from esen_lab.errors import UsageError

NONE_V1 = "9223372036854771712"
GIB = 1 << 30


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def groups(root: Path, membership: str, files: dict[str, object], mounts: str | None = None) -> ControlGroups:
    """Groups whose trees are `files` below `root`; R in `mounts` is `root`."""
    tree(root, files)
    (root / "membership").write_text(membership)
    if mounts is not None:
        (root / "mounts").write_text(mounts.replace("R", str(root)))
    return ControlGroups(membership=root / "membership", mounts=None if mounts is None else root / "mounts", root=root)


def test_a_quota_of_version_1_is_seen(tmp_path: Path) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": 150000, "cpu/a/cpu.cfs_period_us": 100000}
    assert groups(tmp_path, "4:cpu:/a\n0::/\n", files).cpus() == 1.5


def test_the_quota_of_a_group_above_counts_and_no_quota_is_none(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": 200000,
        "cpu,cpuacct/a/cpu.cfs_period_us": 50000,
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/a/b/cpu.cfs_period_us": 100000,
    }
    assert groups(tmp_path, "3:cpu,cpuacct:/a/b\n", files).cpus() == 4
    assert groups(tmp_path, "3:cpu,cpuacct:/c\n", files).cpus() is None


def test_a_container_of_version_1_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    """Docker without a namespace of groups: the path is the host's, the mount shows the container's group."""
    files = {"sys/cpu/cpu.cfs_quota_us": 50000, "sys/cpu/cpu.cfs_period_us": 100000}
    mounts = "31 23 0:28 /docker/c1 R/sys/cpu rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
    assert groups(tmp_path, "3:cpu,cpuacct:/docker/c1\n", files, mounts).cpus() == 0.5
    assert groups(tmp_path, "3:cpu,cpuacct:/docker/c1/inner\n", files, mounts).cpus() == 0.5
    assert groups(tmp_path, "3:cpu,cpuacct:/\n", files, mounts).cpus() == 0.5


def test_a_mount_of_other_groups_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    files = {
        "other/cpu.cfs_quota_us": 10000,
        "other/cpu.cfs_period_us": 100000,
        "ours/a/cpu.cfs_quota_us": 300000,
        "ours/a/cpu.cfs_period_us": 100000,
    }
    mounts = (
        "30 23 0:28 /docker/c1 R/other rw - cgroup cgroup rw,cpu\n"
        "31 23 0:28 / R/ours rw shared:9 - cgroup cgroup rw,cpu\n"
        "32 23 0:28 / R/nothing rw - tmpfs tmpfs rw\n"
    )
    assert groups(tmp_path, "3:cpu:/a\n", files, mounts).cpus() == 3


def test_both_versions_at_once_are_both_obeyed(tmp_path: Path) -> None:
    files = {
        "cpu/a/cpu.cfs_quota_us": 300000,
        "cpu/a/cpu.cfs_period_us": 100000,
        "unified/b/cpu.max": "200000 100000",
    }
    assert groups(tmp_path, "4:cpu:/a\n0::/b\n", files).cpus() == 2
    assert groups(tmp_path, "4:cpu:/a\n0::/c\n", files).cpus() == 3


def test_folders_with_spaces_are_found(tmp_path: Path) -> None:
    files = {"a b/cpu.max": "100000 100000"}
    mounts = "31 23 0:28 / R/a\\040b rw - cgroup2 cgroup2 rw\n"
    assert groups(tmp_path, "0::/\n", files, mounts).cpus() == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", None), ("150000 100000", 1.5), ("", None), ("a b", None), ("100000 0", None), ("1", None)],
)
def test_the_quota_of_version_2(tmp_path: Path, content: str, expected: float | None) -> None:
    assert groups(tmp_path, "0::/a\n", {"a/cpu.max": content}).cpus() == expected


def test_a_group_outside_of_what_can_be_seen_is_looked_at_from_the_top(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/../../x\n", {"cpu.max": "100000 100000"}).cpus() == 1


@pytest.mark.parametrize("membership", ["", "\n", "nonsense", "0:", "x:cpu:/a", "0::"])
def test_a_strange_membership_limits_nothing(tmp_path: Path, membership: str) -> None:
    found = groups(tmp_path, membership, {})
    assert (found.cpus(), found.memory_bytes(), found.available_bytes()) == (None, None, None)


def test_a_machine_without_control_groups_limits_nothing(tmp_path: Path) -> None:
    found = ControlGroups(membership=tmp_path / "a", mounts=tmp_path / "b", root=tmp_path / "c")
    assert (found.cpus(), found.memory_bytes(), found.available_bytes()) == (None, None, None)


def test_memory_of_version_1_is_what_the_limit_leaves_with_file_pages_counted_as_free(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": GIB,
        "memory/a/memory.usage_in_bytes": 600 << 20,
        "memory/a/memory.stat": f"cache 5\ntotal_inactive_file {100 << 20}",
        "memory/memory.limit_in_bytes": NONE_V1,
    }
    found = groups(tmp_path, "4:memory:/a\n", files)
    assert found.memory_bytes() == GIB
    assert found.available_bytes() == (1024 - 600 + 100) << 20


def test_memory_of_version_2_is_the_least_that_any_group_above_leaves(tmp_path: Path) -> None:
    files = {
        "a/memory.max": 8 * GIB,
        "a/memory.current": 7 * GIB,
        "a/b/memory.max": "max",
        "a/b/memory.high": 4 * GIB,
        "a/b/memory.current": GIB,
        "a/b/memory.stat": "inactive_file 0",
    }
    found = groups(tmp_path, "0::/a/b\n", files)
    assert found.memory_bytes() == 4 * GIB
    assert found.available_bytes() == GIB


def test_a_group_above_its_limit_leaves_nothing_not_less(tmp_path: Path) -> None:
    files = {"a/memory.max": GIB, "a/memory.current": 2 * GIB}
    assert groups(tmp_path, "0::/a\n", files).available_bytes() == 0


def test_free_memory_is_the_least_of_the_machines_and_the_groups(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 30000000 kB\nMemAvailable: 22800000 kB\n")
    limited = groups(tmp_path, "4:memory:/a\n", {"memory/a/memory.limit_in_bytes": GIB})
    assert free_memory.available_bytes(limited, meminfo) == GIB
    limited = groups(tmp_path, "4:memory:/a\n", {"memory/a/memory.limit_in_bytes": 100 * GIB})
    assert free_memory.available_bytes(limited, meminfo) == 22800000 * 1024


def test_free_memory_is_absent_where_nobody_tells(tmp_path: Path) -> None:
    assert free_memory.available_bytes(groups(tmp_path, "", {}), tmp_path / "nothing") is None


def test_tensors_of_a_call_may_take_what_file_pages_that_nobody_needs_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a/memory.max": GIB, "a/memory.current": GIB, "a/memory.stat": f"inactive_file {600 << 20}"}
    limited = groups(tmp_path, "0::/a\n", files)
    monkeypatch.setattr(free_memory, "ControlGroups", lambda: limited)
    check_size(500 << 20, "the input")
    with pytest.raises(UsageError, match=r"fit into memory, of which 629\.1 MB"):
        check_size(700 << 20, "the input")


def test_a_quota_of_version_1_limits_the_device_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cpu/a/cpu.cfs_quota_us": 50000, "cpu/a/cpu.cfs_period_us": 100000}
    limited = groups(tmp_path, "4:cpu:/a\n", files)
    monkeypatch.setattr(cpu, "ControlGroups", lambda: limited)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(topology, "siblings", lambda number, root: {number})
    device = cpu.CpuDevice()
    assert device.units == 1
    assert "0.5 of 2 cores' time" in device.notes[0]
    assert "stopped for a part of the time" in device.notes[0]
