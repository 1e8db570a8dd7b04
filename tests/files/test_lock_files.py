"""Where lock files lie, and what somebody else may have left in their place."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from esen_lab.files import lock_files
from esen_lab.files.lock_files import is_still_at, machine_lock_paths, open_lock_file

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file locks of POSIX")
NOBODY = 65534
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to become another user")


def opens(path: Path) -> str:
    """ "" if the lock file at `path` can be opened, else why not."""
    try:
        os.close(open_lock_file(path))
    except OSError as problem:
        return problem.strerror or "?"
    return ""


def as_nobody(path: Path) -> str:
    """What `opens` says as a user without rights."""
    # By `fork`: an interpreter of that user might not get at this checkout.
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.umask(0o077)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.write(into, opens(path).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as said:
        text = said.read()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where everybody may make files and remove own ones."""
    folder = Path(tmp_path_factory.mktemp("common"))
    for parent in (folder.parent, folder.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o011)
    folder.chmod(0o1777)
    return folder


def test_a_file_is_made_that_every_user_may_read_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert opens(tmp_path / "a.lock") == ""
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.lock").stat().st_mode) & 0o444 == 0o444
    assert os.listdir(tmp_path) == ["a.lock"], "nothing else is left"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    assert opens(tmp_path / "a.lock") != ""
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_a_folder_and_a_socket_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert "not a plain file" in opens(tmp_path / "pipe")
    assert "not a plain file" in opens(tmp_path / "folder")


def test_a_file_of_this_user_that_others_cannot_read_is_opened_to_them(tmp_path: Path) -> None:
    (tmp_path / "a.lock").touch(mode=0o600)
    assert opens(tmp_path / "a.lock") == ""
    assert stat.S_IMODE((tmp_path / "a.lock").stat().st_mode) == 0o644


@as_root
def test_users_share_a_file_whoever_made_it(common: Path) -> None:
    assert as_nobody(common / "theirs.lock") == ""
    assert opens(common / "theirs.lock") == ""
    assert opens(common / "mine.lock") == ""
    assert as_nobody(common / "mine.lock") == ""


@as_root
def test_a_file_that_its_owner_keeps_to_himself_is_refused_with_the_reason(common: Path) -> None:
    (common / "a.lock").touch(mode=0o600)
    assert "ermission" in as_nobody(common / "a.lock")


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuses)
    assert opens(tmp_path / "a.lock") == ""
    assert os.listdir(tmp_path) == ["a.lock"]


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    fd = open_lock_file(path)
    try:
        assert is_still_at(fd, path)
        path.unlink()
        assert not is_still_at(fd, path)
        os.close(open_lock_file(path))
        assert not is_still_at(fd, path)
    finally:
        os.close(fd)


def test_the_machines_locks_lie_where_all_may_write_whatever_home_and_temporary_folder_say() -> None:
    code = "from esen_lab.files.lock_files import machine_lock_paths; print(machine_lock_paths('measuring')[0])"
    said = set()
    for name in ("a", "b"):
        environment = {key: value for key, value in os.environ.items() if key != lock_files.OVERRIDE}
        environment |= {"TMPDIR": f"/nowhere/{name}", "HOME": f"/{name}", "ESEN_LAB_HOME": f"/nowhere/{name}/home"}
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.add(out.stdout.strip())
    (path,) = said
    assert Path(path).name == "esen_lab.measuring"


def test_a_folder_that_is_not_for_all_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, linked, common = tmp_path / "private", tmp_path / "linked", tmp_path / "common"
    private.mkdir(mode=0o755)
    common.mkdir()
    common.chmod(0o1777)
    linked.symlink_to(common)
    monkeypatch.delenv(lock_files.OVERRIDE)
    monkeypatch.setattr(lock_files, "_FOLDERS", (tmp_path / "missing", private, linked, common))
    expected = (common / "esen_lab.x",) if common.stat().st_uid == 0 else ()
    assert machine_lock_paths("x") == expected


def test_another_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(lock_files.OVERRIDE, str(tmp_path))
    assert machine_lock_paths("x") == (tmp_path / "esen_lab.x",)
