"""The CPU as a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esen_lab.common.control_groups import ControlGroups
from esen_lab.devices import CpuDevice, open_device
from esen_lab.devices.cpu import device as cpu
from esen_lab.devices.cpu import topology
from esen_lab.errors import DeviceError, UsageError

FOUR = CpuDevice(cores=[(0, 4), (1, 5), (2, 6), (3, 7)])


def cores(device: CpuDevice, *shares: int) -> list[tuple[tuple[int, ...], ...]]:
    return [place.cores for place in device.place(shares)]


def test_the_device_has_the_cores_this_process_may_use() -> None:
    device = CpuDevice()
    assert 1 <= device.units <= (os.cpu_count() or 1)
    assert device.identity.kind == "cpu"
    assert device.identity.units == device.units


def test_hardware_threads_of_one_core_are_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(topology, "siblings", lambda number, root: {number % 2, number % 2 + 2})
    monkeypatch.setattr(ControlGroups, "cpus", lambda groups: None)
    assert CpuDevice().units == 2
    assert cores(CpuDevice(), 1, 1) == [((0, 2),), ((1, 3),)]


def test_lanes_are_disjoint_while_the_cores_last() -> None:
    taken = [core for place in cores(FOUR, 2, 1, 1) for core in place]
    assert len(taken) == len(set(taken)) == 4


def test_oversubscribed_lanes_overlap_as_little_as_possible() -> None:
    places = cores(FOUR, 1, 1, 1, 1, 1, 1, 1, 1)
    assert all(places.count(place) == 2 for place in places)
    assert cores(FOUR, 4, 4) == [tuple(FOUR._cores)] * 2


@pytest.mark.parametrize("share", [0, 5, -1, 1.5])
def test_a_share_outside_the_device_is_refused(share: int) -> None:
    with pytest.raises(UsageError):
        FOUR.place([share])


def test_a_control_groups_quota_limits_the_cores_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert ControlGroups(membership=membership, mounts=None, root=tmp_path).cpus() == 1.5
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(topology, "siblings", lambda number, root: {number})
    monkeypatch.setattr(ControlGroups, "cpus", lambda groups: 1.5)
    device = CpuDevice()
    assert device.units == 1
    assert "1.5 of 2 cores' time" in device.notes[0]


def test_cores_that_are_taken_away_later_are_noticed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = {0, 1, 2}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(mask))
    monkeypatch.setattr(topology, "siblings", lambda number, root: {number})
    monkeypatch.setattr(ControlGroups, "cpus", lambda groups: None)
    device = CpuDevice()
    assert device.lost() == ""
    mask.discard(2)
    assert "made of CPUs 0-2; of these this process may use 0-1 now" in device.lost()
    assert any(device.lost() in note for note in device.notes)
    with pytest.raises(DeviceError, match="Make the device anew"):
        device.place([1])
    assert CpuDevice().units == 2
    mask.add(2)
    assert (device.lost(), device.place([3])[0].units) == ("", 3)


def test_a_quota_that_shrinks_later_is_noticed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    quotas = [3.5]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(topology, "siblings", lambda number, root: {number})
    monkeypatch.setattr(ControlGroups, "cpus", lambda groups: quotas[0])
    device = CpuDevice()
    assert device.place([3])
    quotas[0] = 1.5
    assert any("grants 1.5 cores' time now" in note for note in device.notes)
    with pytest.raises(DeviceError, match="Make the device anew"):
        device.place([1])
    assert CpuDevice().units == 1


def test_points_of_less_than_a_cores_time_are_of_that_grant_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    quotas = [0.5]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(topology, "siblings", lambda number, root: {number})
    monkeypatch.setattr(ControlGroups, "cpus", lambda groups: quotas[0])
    half = CpuDevice()
    assert half.place([1])
    quotas[0] = 0.25
    with pytest.raises(DeviceError, match=r"made of 0\.5 cores' time; a control group grants 0\.25 cores' time"):
        half.place([1])
    quarter = CpuDevice()
    quotas[0] = 4.0
    whole = CpuDevice()
    assert half.place([1]), "more than it was made of does no harm"
    assert len({half.identity.key, quarter.identity.key, whole.identity.key}) == 3
    quotas[0] = 1.0
    assert CpuDevice().identity == whole.identity


def test_more_cores_than_before_and_cores_that_were_named_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert CpuDevice(cores=[(0,), (9,)]).lost() == ""
    assert FOUR.place([4])


def test_where_nothing_can_be_pinned_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    device = CpuDevice(cores=[(0,)])
    assert "limit their threads only" in device.notes[0]
    assert not device.place([1])[0].pin


def test_a_place_applied_is_really_in_force() -> None:
    code = (
        "import os, torch; from esen_lab.devices import CpuDevice; place = CpuDevice().place([1])[0]; "
        "found = place.apply(); print(found.units, torch.get_num_threads(), *sorted(os.sched_getaffinity(0)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[:2] == ["1", "1"]
    assert len(out.stdout.split()) >= 3


def test_cpu_sets_are_written_as_ranges() -> None:
    assert cpu._ranges({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    assert open_device("cpu").identity.kind == "cpu"
    assert open_device(FOUR) is FOUR
    with pytest.raises(UsageError, match="one of: cpu"):
        open_device("tpu")
