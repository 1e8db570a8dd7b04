"""Where the files of this machine's locks lie, and how one is opened that anybody may have put there.

A lock of the machine must be found by all its users, whatever their homes, stores and temporary folders are. So its
file lies in a folder where everybody may make files and nobody may remove another's (root's, with the sticky bit).
Such a folder is also where anybody may leave something else under that name:

    a symbolic link, a pipe, a folder     not followed, not opened for what it is: the next folder is taken
    a file that others may not read       made readable where this user may do that, else the next folder
    a file of another user                as good as an own one: nothing is written, and a reader may lock it

All users see the same there, so all take the same folder. A container has folders of its own, and with them locks of
its own, unless `ESEN_LAB_LOCKS` names a folder that is mounted in both.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

OVERRIDE = "ESEN_LAB_LOCKS"
"""The environment variable that names another folder; processes with different ones do not exclude each other."""

# Never TMPDIR: users set it to different folders. In /tmp a service may see a folder of its own, so it comes last.
_FOLDERS = (Path("/run/lock"), Path("/var/lock"), Path("/dev/shm"), Path("/tmp"), Path("/private/tmp"))  # noqa: S108
_FOR_ALL = stat.S_ISVTX | stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
_READABLE = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_TRIES = 3


def machine_lock_paths(name: str) -> tuple[Path, ...]:
    """Where a lock of this machine may lie, without suffix, the best place first; empty where there is none."""
    given = os.environ.get(OVERRIDE)
    folders = [Path(given)] if given else [folder for folder in _FOLDERS if _is_for_all(folder)]
    return tuple(folder / f"esen_lab.{name}" for folder in folders)


def _is_for_all(folder: Path) -> bool:
    """Whether everybody may make files in it, and remove only own ones."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and found.st_mode & _FOR_ALL == _FOR_ALL


def open_lock_file(path: Path) -> int:
    """A descriptor of the plain file at `path`, made if it is not there, that every user of the machine may open.

    The descriptor is for locking only, and is not handed down to programs that are started.

    Raises:
        OSError: There is something else at `path`, or others may not read it, or it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_TRIES):
        try:
            # Without O_CREAT: Linux refuses that for a file of another user in such a folder (fs.protected_regular).
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            _make(path)
            continue
        try:
            _check(fd)
        except OSError:
            os.close(fd)
            raise
        return fd
    raise OSError(errno.ENOENT, "it is removed again and again")


def is_still_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at `path`: whoever tidies up a folder may have removed it meanwhile."""
    try:
        there = path.lstat()
    except OSError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _check(fd: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file")
    if found.st_mode & _READABLE != _READABLE:
        try:
            os.fchmod(fd, stat.S_IMODE(found.st_mode) | _READABLE)
        except PermissionError:
            raise OSError(errno.EACCES, "its owner lets no other user read it") from None


def _make(path: Path) -> None:
    """Make the file whole at once: nobody sees it while others may not read it yet."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.fchmod(fd, _READABLE)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # somebody else was faster
        except OSError:  # a file system without hard links
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _READABLE))
    finally:
        os.close(fd)
        os.unlink(temporary)
