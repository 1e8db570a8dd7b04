"""On which NUMA nodes a lane's memory lies: that of its own cores, whoever started the process.

Linux puts a page on the node of the CPU that writes it first. A lane is pinned before it loads anything, so weights and
outputs lie right by themselves, unless the process has inherited another policy, or its cores are on several nodes:
then all that one thread loads would lie on one of them, and the others' threads would wait for it.

    one node          preferred there; where it is full, elsewhere
    several nodes     page by page over them, as `numactl --interleave` does

A policy that the user has set (numactl) is left alone. libc has no names for these calls without libnuma, so they are
made by number.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Collection

from esen_lab.devices.cpu.affinity import ranges

_DEFAULT, _PREFERRED, _INTERLEAVE, _LOCAL = 0, 1, 3, 4  # linux/mempolicy.h
_GET_SET = {"x86_64": (239, 238), "aarch64": (236, 237)}  # get_mempolicy, set_mempolicy
_MOST_NODES = 1024
_WORD = 64


def prefer_nodes(nodes: Collection[int]) -> str:
    """Have the calling thread's memory, and that of threads it starts from now on, lie on these nodes.

    Returns:
        What is in force, for people: "memory on node 1", or why it is not that.
    """
    numbers = _GET_SET.get(platform.machine()) if sys.platform == "linux" else None
    if numbers is None or not nodes or max(nodes) >= _MOST_NODES:
        return "memory where it is written first"
    libc = ctypes.CDLL(None, use_errno=True)
    get, put = numbers
    before = ctypes.c_int(_DEFAULT)
    if _call(libc, get, ctypes.byref(before), None, 0, None, 0):
        return f"memory where it is written first ({_why()})"
    if before.value not in (_DEFAULT, _LOCAL):
        return "memory by the policy that this process was started with"
    mask = (ctypes.c_ulong * (_MOST_NODES // _WORD))()
    for node in nodes:
        mask[node // _WORD] |= 1 << node % _WORD
    mode = _PREFERRED if len(nodes) == 1 else _INTERLEAVE
    if _call(libc, put, mode, mask, _MOST_NODES + 1):
        return f"memory where it is written first ({_why()})"
    listed = ranges(frozenset(nodes))
    return f"memory on node {listed}" if mode == _PREFERRED else f"memory page by page on nodes {listed}"


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return int(libc.syscall(ctypes.c_long(number), *given))


def _why() -> str:
    return f"a policy is refused: {os.strerror(ctypes.get_errno())}"
