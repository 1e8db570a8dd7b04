"""Where a lane's memory lies: asked of the kernel, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from esen_lab.devices.cpu.memory_policy import prefer_nodes

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="calls of Linux, by number"
)
ASK = """
import ctypes, sys
from esen_lab.devices.cpu import memory_policy as policy
libc = ctypes.CDLL(None, use_errno=True)
get, put = policy._GET_SET[policy.platform.machine()]
def mode():
    found = ctypes.c_int(-1)
    assert policy._call(libc, get, ctypes.byref(found), None, 0, None, 0) == 0
    return found.value
"""


def told(code: str) -> str:
    out = subprocess.run([sys.executable, "-c", ASK + code], capture_output=True, text=True, check=True)
    return out.stdout.strip()


def _refused() -> bool:
    return "refused" in told("print(policy.prefer_nodes([0]))")


def test_one_node_is_preferred_and_the_kernel_says_so() -> None:
    if _refused():
        pytest.skip("this container may not set policies")
    assert told("print(policy.prefer_nodes([0]), mode(), sep='; ')") == "memory on node 0; 1"


def test_a_policy_of_the_users_is_left_alone() -> None:
    if _refused():
        pytest.skip("this container may not set policies")
    interleave = "mask = (ctypes.c_ulong * 16)(); mask[0] = 1; assert policy._call(libc, put, 3, mask, 1025) == 0\n"
    assert told(interleave + "print(policy.prefer_nodes([0]), mode(), sep='; ')").endswith("started with; 3")


def test_a_node_that_is_not_there_is_no_reason_to_fail() -> None:
    said = told("print(policy.prefer_nodes([900]), mode(), sep='; ')")
    assert said.startswith("memory where it is written first")
    assert said.endswith("; 0")


def test_elsewhere_it_says_what_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert prefer_nodes([0]) == "memory where it is written first"


@pytest.mark.parametrize(("nodes", "word"), [((0,), "1 thread, memory"), ((), "1 thread")])
def test_a_lane_says_where_its_memory_lies_where_there_are_several_nodes(nodes: tuple[int, ...], word: str) -> None:
    said = told(
        "import os; from esen_lab.devices.cpu.device import CpuPlacement; cpu = min(os.sched_getaffinity(0)); "
        f"print(CpuPlacement(cores=((cpu,),), pin=True, nodes={nodes}).apply().description)"
    )
    assert word in said
    assert ("memory" in said) == bool(nodes)
