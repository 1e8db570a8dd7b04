"""What Linux control groups leave to this process: CPU time and memory, under version 1, version 2, or both at once.

    /proc/self/cgroup       the group of this process: "4:memory:/a/b" (version 1), "0::/a/b" (version 2)
    /proc/self/mountinfo    where each tree of groups is mounted, and which of its groups is at the top there

A limit holds for all groups below it, so a process is under the least of its group's and of those above, as far up as
they can be seen: in a container, the top of what is mounted is the container's own group.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_UNLIMITED = 1 << 60  # version 1 writes "none" as a number near 2^63
_USUAL_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    """A tree of groups. `controllers` is empty for version 2, which has one tree for all."""

    controllers: frozenset[str]
    top: PurePosixPath
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlGroups:
    """The groups of this process.

    Args:
        membership: The file that names its groups.
        mounts: The file that names mounted trees; None: they are where they usually are below `root`.
        root: Where trees usually are.
    """

    membership: Path = Path("/proc/self/cgroup")
    mounts: Path | None = Path("/proc/self/mountinfo")
    root: Path = _USUAL_ROOT

    def cpus(self) -> float | None:
        """CPUs' worth of time that this process may use, or None: no limit."""
        limits = []
        for version, folder in self._groups("cpu"):
            if version == 1:
                limit, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
            else:
                limit, period = _cpu_max(folder / "cpu.max")
            if limit is not None and period and limit > 0:  # version 1 writes "none" as -1
                limits.append(limit / period)
        return min(limits, default=None)

    def memory_bytes(self) -> int | None:
        """The most memory that this process's group may have, or None: no limit."""
        return min((limit for _, _, limit in self._memory_limits()), default=None)

    def available_bytes(self) -> int | None:
        """Memory that the groups still leave, counting file pages that nobody needs as free; None: no limit."""
        left = []
        for version, folder, limit in self._memory_limits():
            used = _number(folder / ("memory.usage_in_bytes" if version == 1 else "memory.current"))
            if used is not None:
                spare = _stat(folder / "memory.stat", "total_inactive_file" if version == 1 else "inactive_file")
                left.append(max(0, limit - used + min(spare, used)))
            else:
                left.append(limit)
        return min(left, default=None)

    def _memory_limits(self) -> Iterator[tuple[int, Path, int]]:
        for version, folder in self._groups("memory"):
            # Above `high` a group is slowed down until it gives memory back: for whoever measures, that is the limit.
            for name in ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high"):
                limit = _number(folder / name)
                if limit is not None and limit < _UNLIMITED:
                    yield version, folder, limit

    def _groups(self, controller: str) -> tuple[tuple[int, Path], ...]:
        """The version and folder of each group that may limit `controller`, from this process's own upwards."""
        return _groups(controller, tuple(_lines(self.membership)), self.mounts, self.root)


@functools.lru_cache(maxsize=16)  # asked several times a second, and mounts do not move
def _groups(
    controller: str, memberships: tuple[str, ...], mounts: Path | None, root: Path
) -> tuple[tuple[int, Path], ...]:
    mounted = [] if mounts is None else list(filter(None, map(_mount, _lines(mounts))))
    mounted = mounted or list(_usual(root))
    found: list[tuple[int, Path]] = []
    for line in memberships:
        number, _, rest = line.partition(":")
        names, colon, name = rest.partition(":")
        if not colon or not number.isdigit():
            continue
        controllers, path = set(filter(None, names.split(","))), PurePosixPath(name or "/")
        if controllers and controller not in controllers:
            continue
        if controllers:
            fitting = [mount for mount in mounted if controller in mount.controllers]
        else:
            fitting = [mount for mount in mounted if not mount.controllers]
        mount = _closest(fitting, path)
        if mount is not None:
            found += [(1 if controllers else 2, folder) for folder in _upwards(mount, path)]
    return tuple(found)


def _usual(root: Path) -> Iterator[_Mount]:
    top = PurePosixPath("/")
    for names in ("cpu", "cpu,cpuacct", "cpuacct,cpu", "memory"):
        if (root / names).is_dir():
            yield _Mount(controllers=frozenset(names.split(",")), top=top, folder=root / names)
    unified = root / "unified"
    yield _Mount(controllers=frozenset(), top=top, folder=unified if unified.is_dir() else root)


def _mount(line: str) -> _Mount | None:
    """A line of mountinfo(5): "31 23 0:28 TOP FOLDER rw,… - cgroup2 SOURCE OPTIONS"."""
    before, dash, after = line.partition(" - ")
    words, kind = before.split(), after.split()
    if not dash or len(words) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
        return None
    controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset()
    return _Mount(controllers=controllers, top=PurePosixPath(_unescaped(words[3])), folder=Path(_unescaped(words[4])))


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


def _closest(mounts: list[_Mount], path: PurePosixPath) -> _Mount | None:
    """The mount that shows most of the way to `path`; where none does (a container's is all there is), the first."""
    showing = [mount for mount in mounts if mount.top == path or mount.top in path.parents]
    return max(showing, key=lambda mount: len(mount.top.parts), default=mounts[0] if mounts else None)


def _upwards(mount: _Mount, path: PurePosixPath) -> Iterator[Path]:
    below: tuple[str, ...] = ()
    if mount.top == path or mount.top in path.parents:
        below = path.relative_to(mount.top).parts
    if ".." in below:  # a group outside of what this process may see
        below = ()
    for length in range(len(below), -1, -1):
        yield mount.folder.joinpath(*below[:length])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file; None for "max", and where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # the topmost group has no such file, and inside a container upper groups are not visible


def _cpu_max(path: Path) -> tuple[int | None, int | None]:
    try:
        limit, period = path.read_text().split()
        return (None if limit == "max" else int(limit)), int(period)
    except (OSError, ValueError):
        return None, None


def _stat(path: Path, key: str) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0
