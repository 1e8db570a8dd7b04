"""One way to write: only over one's own kind, whole or not at all, with the permissions that the user wants."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esen_lab.errors import StoreError, UsageError
from esen_lab.files import Kind, write_file, write_folder
from esen_lab.files.leftovers import sweep, temporary_file, temporary_name

NOTE = Kind(what="a note", is_one=lambda head: head.startswith(b"note"), example="note.txt")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def umask() -> Iterator[None]:
    """Whatever a test sets, the next one has the usual one."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_note_replaces_a_note_and_leaves_nothing_else(tmp_path: Path) -> None:
    assert write_file(tmp_path / "n", b"note 1", NOTE) == tmp_path / "n"
    write_file(str(tmp_path / "n"), b"note 2", NOTE)
    assert (tmp_path / "n").read_bytes() == b"note 2"
    assert os.listdir(tmp_path) == ["n"]


@pytest.mark.parametrize("there", [b"print('mine')", b"", b"\0" * 10])
def test_anything_else_stays_as_it_was(tmp_path: Path, there: bytes) -> None:
    (tmp_path / "n").write_bytes(there)
    with pytest.raises(
        UsageError, match=r"only in the place of another one.*'.*n', which is another file.*remove that"
    ):
        write_file(tmp_path / "n", b"note", NOTE)
    assert (tmp_path / "n").read_bytes() == there
    assert os.listdir(tmp_path) == ["n"]


@pytest.mark.parametrize("name", ["mine.py", "work.ipynb", "MINE.PY"])
def test_the_name_of_a_script_is_refused_though_nothing_is_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r'such as "note\.txt"'):
        write_file(tmp_path / name, b"note", NOTE)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="special files of POSIX")
@pytest.mark.parametrize("what", ["folder", "pipe", "device"])
def test_what_is_no_ordinary_file_is_not_replaced(tmp_path: Path, what: str) -> None:
    path = Path("/dev/null") if what == "device" else tmp_path / "n"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    with pytest.raises(UsageError, match="which is a folder.*inside it" if what == "folder" else "another file"):
        write_file(path, b"note", NOTE)
    assert not path.is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_stays_a_link_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name in ("n", "new"):
        (tmp_path / name).symlink_to(Path("far") / name)
    (tmp_path / "far" / "n").write_bytes(b"note 1")
    (tmp_path / "foreign").symlink_to("far/script")
    (tmp_path / "far" / "script").write_bytes(b"mine")
    for name in ("n", "new"):
        write_file(tmp_path / name, b"note 2", NOTE)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_bytes() == b"note 2"
    with pytest.raises(UsageError):
        write_file(tmp_path / "foreign", b"note", NOTE)
    assert (tmp_path / "far" / "script").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path / "far")) == ["n", "new", "script"]


def test_a_link_that_leads_nowhere_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "n").symlink_to("n")
    with pytest.raises(StoreError, match="there is room"):
        write_file(tmp_path / "n", b"note", NOTE)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
@pytest.mark.usefixtures("umask")
def test_new_files_have_the_permissions_that_the_umask_leaves(
    tmp_path: Path, mask: int, file: int, folder: int
) -> None:
    os.umask(mask)
    write_file(tmp_path / "n", b"note", NOTE)
    write_folder(tmp_path / "f", {"a": b""})
    assert (mode_of(tmp_path / "n"), mode_of(tmp_path / "f"), mode_of(tmp_path / "f" / "a")) == (file, folder, file)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_replaced_file_keeps_its_permissions_and_a_protected_one_its_content(tmp_path: Path) -> None:
    path = write_file(tmp_path / "n", b"note 1", NOTE)
    path.chmod(0o600)
    write_file(path, b"note 2", NOTE)
    assert (mode_of(path), path.read_bytes()) == (0o600, b"note 2")
    path.chmod(0o444)
    with pytest.raises(StoreError, match="protected"):
        write_file(path, b"note 3", NOTE)
    assert path.read_bytes() == b"note 2"


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    code = """if True:
        import resource, signal, sys
        sys.path.insert(0, "tests/files")
        from test_writing import NOTE
        from esen_lab.errors import StoreError
        from esen_lab.files import write_file
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            write_file(sys.argv[1], b"note" * 10_000, NOTE)
        except StoreError as problem:
            print(problem)
    """
    path = write_file(tmp_path / "n", b"note 1", NOTE)
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "File too large" in done.stdout
    assert path.read_bytes() == b"note 1"
    assert os.listdir(tmp_path) == ["n"]


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is room\. Given: .*: No such file.* Make its folder first"):
        write_file(tmp_path / "gone" / "n", b"note", NOTE)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"there is room\. Given: .*: Not a directory"):
        write_file(tmp_path / "file" / "n", b"note", NOTE)


def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    path = write_file(tmp_path / ("n" * 250), b"note", NOTE)
    assert path.read_bytes() == b"note"


# --- leftovers ------------------------------------------------------------------------------------------------------


def killed_while_writing(folder: Path, what: str) -> None:
    """Let a process begin to write a file or a folder, and kill it in the middle."""
    code = """if True:
        import os, sys, time
        sys.path.insert(0, "tests/files")
        from test_writing import NOTE
        from esen_lab.files import write_file, write_folder
        def last(*_): print("here", flush=True); time.sleep(60)
        os.fsync = last
        write_file(sys.argv[1] + "/n", b"note 2", NOTE) if sys.argv[2] == "file" else write_folder(
            __import__("pathlib").Path(sys.argv[1]) / "f", {"a": b"2"})
    """
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder), what], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        during = set(os.listdir(folder))
        sweep(folder)
        assert set(os.listdir(folder)) == during  # its writer lives
        process.send_signal(signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks that end with their process")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_next_writer_sweeps_up_what_a_killed_one_left(tmp_path: Path, what: str) -> None:
    write_file(tmp_path / "n", b"note 1", NOTE)
    write_folder(tmp_path / "f", {"a": b"1"})
    killed_while_writing(tmp_path, what)
    assert len(os.listdir(tmp_path)) == 3
    assert (tmp_path / "n").read_bytes() == b"note 1"
    assert (tmp_path / "f" / "a").read_bytes() == b"1"
    write_file(tmp_path / "other", b"note", NOTE)
    assert sorted(os.listdir(tmp_path)) == ["f", "n", "other"]


def test_what_looks_alike_but_is_not_ours_is_not_swept_up(tmp_path: Path) -> None:
    names = [".n.tmp", ".n.abcd1234.tmp", ".n.esen-xyz.tmp", "n.esen-0123456789ab.tmp", ".n.esen-0123456789ab.tmp.bak"]
    for name in names:
        (tmp_path / name).touch()
    if sys.platform != "win32":
        (tmp_path / ".p.esen-0123456789ab.tmp").symlink_to(tmp_path / ".n.tmp")
        os.mkfifo(tmp_path / ".q.esen-0123456789ab.tmp")
        names += [".p.esen-0123456789ab.tmp", ".q.esen-0123456789ab.tmp"]
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks that end with their process")
def test_a_folder_that_was_moved_aside_by_a_killed_writer_comes_back(tmp_path: Path) -> None:
    aside = temporary_name(tmp_path / "f", ".old")
    aside.mkdir()
    (aside / "a").write_bytes(b"1")
    sweep(tmp_path)
    assert (tmp_path / "f" / "a").read_bytes() == b"1"
    temporary_name(tmp_path / "f", ".old").mkdir()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["f"]


def test_a_temporary_file_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), temporary_file(tmp_path / "n"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
