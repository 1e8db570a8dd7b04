"""What others exported is described, and run only when that was asked for by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from esen_lab.cli import main
from esen_lab.ensemble import Ensemble
from esen_lab.errors import EsenError, NotTrusted, StoreError
from esen_lab.export import describe_bundle, export_plan, load_bundle
from esen_lab.export.bundle_files import bundle_files
from esen_lab.export.trust import content_digest, is_remembered, remember, trusted_folder
from esen_lab.planner.plan import Plan

ROOT = Path(__file__).parents[2]
DIGEST = "ab" * 32
Change = Callable[[dict[str, Any], dict[str, bytes]], object]


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path / "home"))
    return trusted_folder()


def foreign(folder: Path, files: dict[str, bytes], change: Change = lambda manifest, files: None) -> Path:
    """A folder as somebody else would send it: sound, every digest right, and never exported here."""
    manifest = json.loads(files["bundle.json"])
    files = {name: data for name, data in files.items() if name != "bundle.json"}
    change(manifest, files)
    manifest["files"] = {n: hashlib.blake2b(data, digest_size=16).hexdigest() for n, data in files.items()}
    folder.mkdir()
    for name, data in {**files, "bundle.json": json.dumps(manifest).encode()}.items():
        (folder / name).write_bytes(data)
    return folder


def command(ran: Path) -> str:
    return f"touch {ran}"


def call_of_the_system(manifest: dict[str, Any], ran: Path) -> None:
    manifest["submodels"][2]["recipe"] |= {"path": "os:system", "args": [command(ran)], "kwargs": {}}


def hostile_program(program: bytes, ran: Path) -> bytes:
    out = BytesIO()
    code = f"__import__('os').system('{command(ran)}')".encode()
    with zipfile.ZipFile(BytesIO(program)) as was, zipfile.ZipFile(out, "w") as made:
        for entry in was.namelist():
            made.writestr(entry, was.read(entry).replace(b"Symbol('s31', positive=True, integer=True)", code))
    return out.getvalue()


def writing(ran: Path) -> bytes:
    """Source text that leaves a trace where it is run."""
    return f"__import__('pathlib').Path({str(ran)!r}).touch()".encode()


def hostile_tree(ran: Path) -> bytes:
    call = ["partial", ["import", "os:system"], ["tuple", command(ran)], ["dict"]]
    tree = ["object", ["import", "types:SimpleNamespace"], [["__call__", call]]]
    return json.dumps({"version": 1, "tree": tree, "source": {"modules": []}}).encode()


def everything_at_once(manifest: dict[str, Any], files: dict[str, bytes], ran: Path) -> None:
    code = f"\nimport os; os.system({command(ran)!r})\n".encode()
    for name in files:
        if name.endswith(".py"):
            files[name] += code
    call_of_the_system(manifest, ran)


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, bytes], Path], object], str]] = {
    "an import path with arguments": (
        lambda manifest, files, ran: call_of_the_system(manifest, ran),
        "sub-model 'path': imports and calls 'os:system' with ('touch ",
    ),
    "the source of a combine rule": (
        lambda m, files, ran: files.update({"combine.py": writing(ran) + b"\nrule = max\n"}),
        "combine rule: runs 'combine.py' (2 lines of Python), and calls 'rule' in this very process",
    ),
    "the import of a combine rule": (
        lambda m, files, ran: m.update(combine={"rule": "import", "path": "antigravity:fly_to"}),
        "combine rule: imports and calls 'antigravity:fly_to' in this very process",
    ),
    "a combine rule by its path": (
        lambda m, files, ran: m.update(combine={"rule": "antigravity:fly_to"}),
        "combine rule: imports and calls 'antigravity:fly_to' in this very process",
    ),
    "a cell": (
        lambda m, files, ran: files.update({"submodel_01.py": writing(ran)}),
        "sub-model 'cell': runs 'submodel_01.py' (1 line of Python), its cell",
    ),
    "what a cell uses": (
        lambda m, files, ran: files.update({"submodel_01_uses.py": writing(ran)}),
        "sub-model 'cell': runs 'submodel_01_uses.py' (1 line of Python), what its cell uses",
    ),
    "the source of a saved module": (
        lambda m, files, ran: files.update({"submodel_00.py": writing(ran)}),
        "sub-model 'live': runs 'submodel_00.py' (1 line of Python), the source of its classes",
    ),
    "a saved module": (
        lambda m, files, ran: files.update({"submodel_00.json": hostile_tree(ran)}),
        "sub-model 'live': makes what 'submodel_00.json' names: 'types:SimpleNamespace', 'os:system'",
    ),
    "a program": (
        lambda m, files, ran: files.update({"submodel_03.pt2": hostile_program(files["submodel_03.pt2"], ran)}),
        "sub-model 'program': loads the torch.export program 'submodel_03.pt2', which may run anything",
    ),
    "everything": (everything_at_once, "os:system"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_others_exported_is_described_and_not_run(
    what: str, tmp_path: Path, plan: Plan, ensemble: Ensemble, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = HOSTILE[what]
    ran = tmp_path / "ran"
    before = set(sys.modules)
    folder = foreign(tmp_path / "theirs", bundle_files(plan, ensemble), lambda m, files: change(m, files, ran))
    with pytest.raises(NotTrusted, match="trust=True") as refused:
        load_bundle(folder)
    assert any(said in line for line in refused.value.runs), refused.value.runs
    assert describe_bundle(folder) == refused.value.runs
    assert main(["run", str(folder)]) == 1
    assert said in capsys.readouterr().err
    assert not ran.exists()
    assert "antigravity" not in set(sys.modules) - before


def test_trust_is_asked_for_by_name(tmp_path: Path, plan: Plan, ensemble: Ensemble, answer: Any) -> None:
    folder = foreign(tmp_path / "theirs", bundle_files(plan, ensemble))
    assert (answer(load_bundle(folder, trust=True)[1]) == answer(ensemble)).all()
    with pytest.raises(NotTrusted):
        load_bundle(folder)  # it was trusted once, not for ever


def test_the_tests_of_hostile_folders_would_see_them_run(tmp_path: Path, plan: Plan, ensemble: Ensemble) -> None:
    ran = tmp_path / "ran"
    change, _ = HOSTILE["the source of a combine rule"]
    folder = foreign(tmp_path / "theirs", bundle_files(plan, ensemble), lambda m, files: change(m, files, ran))
    load_bundle(folder, trust=True)
    assert ran.exists()


def test_what_this_user_exported_needs_no_word_wherever_it_is_moved(
    tmp_path: Path, simple: Ensemble, planned: Any
) -> None:
    found = export_plan(planned(simple), simple, tmp_path / "plan.py")
    load_bundle(found.folder)
    shutil.move(found.folder, tmp_path / "moved")
    assert load_bundle(tmp_path / "moved")[1].names == ("a", "b")


def test_an_exported_folder_whose_content_was_changed_is_somebody_elses(
    tmp_path: Path, plan: Plan, ensemble: Ensemble
) -> None:
    found = export_plan(plan, ensemble, tmp_path / "plan.py")
    files = {path.name: path.read_bytes() for path in found.folder.iterdir()}
    for name, data in files.items():
        changed = {**files, name: data + b"\n"}
        with pytest.raises(NotTrusted):
            load_bundle(foreign(tmp_path / f"with_another_{name}", changed))


def test_a_path_that_was_trusted_lends_nothing_to_what_comes_to_lie_there(
    tmp_path: Path, simple: Ensemble, ensemble: Ensemble, planned: Any
) -> None:
    found = export_plan(planned(simple), simple, tmp_path / "plan.py")
    shutil.rmtree(found.folder)
    foreign(found.folder, bundle_files(planned(ensemble), ensemble))
    with pytest.raises(NotTrusted):
        load_bundle(found.folder)


def python(*args: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", ""), "ESEN_LAB_HOME": str(home)}
    return subprocess.run(
        [sys.executable, *map(str, args)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_a_script_runs_the_folder_it_was_written_with_and_no_other(
    tmp_path: Path, plan: Plan, ensemble: Ensemble
) -> None:
    found = export_plan(plan, ensemble, tmp_path / "plan.py")
    elsewhere = tmp_path / "home_of_another"
    files = {path.name: path.read_bytes() for path in found.folder.iterdir()}
    assert python(found.script, home=elsewhere).returncode == 0
    ran = tmp_path / "ran"
    shutil.rmtree(found.folder)
    foreign(found.folder, files, lambda m, f: HOSTILE["the source of a combine rule"][0](m, f, ran))
    done = python(found.script, home=elsewhere)
    assert done.returncode == 1
    assert "'combine.py' (2 lines of Python)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not ran.exists()
    python(found.script, "--trust", home=elsewhere)
    assert ran.exists()


def test_a_folder_of_any_content_is_described_without_a_traceback(
    tmp_path: Path, plan: Plan, ensemble: Ensemble
) -> None:
    files = bundle_files(plan, ensemble)
    odd: list[Any] = [None, 3, "x", [], {}, [[]], [{}], {"kind": "import"}, {"kind": "import", "kwargs": {"a-b": 1}}]
    odd += [{"kind": kind, "text": [], "uses": {}, "tree": 5, "program": None} for kind in ("source", "skeleton", 4)]
    for number, thing in enumerate(odd):

        def change(manifest: dict[str, Any], files: dict[str, bytes], thing: Any = thing) -> None:
            manifest["submodels"][0]["recipe"] = thing
            manifest["submodels"][1] = thing
            manifest["combine"] = thing

        with pytest.raises((NotTrusted, StoreError)):  # one that is damaged is refused before anybody is asked
            load_bundle(foreign(tmp_path / f"odd_{number}", files, change))
        with pytest.raises(EsenError):
            load_bundle(tmp_path / f"odd_{number}", trust=True)


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_is_this_users_alone(own_list: Path) -> None:
    old = os.umask(0)
    try:
        assert remember(DIGEST, "here")
    finally:
        os.umask(old)
    assert stat.S_IMODE(own_list.stat().st_mode) == 0o700
    assert stat.S_IMODE((own_list / DIGEST).stat().st_mode) == 0o600
    assert is_remembered(DIGEST)
    assert remember(DIGEST, "there"), "twice is once"
    assert not is_remembered("cd" * 32)


@pytest.mark.parametrize("digest", ["", ".", "..", "/", "../x", DIGEST[:-1], DIGEST.upper(), f"{DIGEST}\n"])
def test_only_a_digest_is_looked_up(digest: str, own_list: Path) -> None:
    remember(DIGEST, "here")
    assert not is_remembered(digest)


def test_a_damaged_list_forgets_and_never_trusts_more(own_list: Path, tmp_path: Path) -> None:
    remember(DIGEST, "here")
    entry = own_list / DIGEST
    entry.write_bytes(b"\xff\x00 damaged")
    assert is_remembered(DIGEST), "the text is for people"
    entry.chmod(0o666)
    assert not is_remembered(DIGEST), "somebody else could have put it there"
    entry.unlink()
    (tmp_path / "elsewhere").write_text("")
    entry.symlink_to(tmp_path / "elsewhere")
    assert not is_remembered(DIGEST), "a link is no entry"
    entry.unlink()
    entry.mkdir()
    assert not is_remembered(DIGEST)
    assert not remember(DIGEST, "here")
    entry.rmdir()
    assert remember(DIGEST, "here")
    own_list.chmod(0o777)
    assert not is_remembered(DIGEST), "anybody could write there"
    assert not remember("cd" * 32, "here")


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_is_no_folder_of_ours_is_no_list(what: str, own_list: Path, tmp_path: Path) -> None:
    own_list.parent.mkdir()
    if what == "file":
        own_list.write_text("")
    else:
        (tmp_path / "other").mkdir(mode=0o700)
        own_list.symlink_to(tmp_path / "other")
    assert not remember(DIGEST, "here")
    assert not is_remembered(DIGEST)


def test_an_export_does_not_fail_for_want_of_a_list(
    tmp_path: Path, simple: Ensemble, planned: Any, own_list: Path
) -> None:
    own_list.parent.write_text("no folder")
    found = export_plan(planned(simple), simple, tmp_path / "plan.py")
    with pytest.raises(NotTrusted):
        load_bundle(found.folder)
    files = {path.name: path.read_bytes() for path in found.folder.iterdir()}
    assert load_bundle(found.folder, digest=content_digest(files))[1].names == ("a", "b")


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({"ESEN_LAB_HOME": "/data/esen", "XDG_CONFIG_HOME": "/x"}, "linux", "/data/esen"),
        ({"XDG_CONFIG_HOME": "/x"}, "linux", "/x/esen_lab"),
        ({"XDG_CONFIG_HOME": "x"}, "linux", "~/.config/esen_lab"),
        ({}, "darwin", "~/Library/Application Support/esen_lab"),
    ],
)
def test_the_list_lies_with_the_users_settings(environment: dict[str, str], platform: str, folder: str) -> None:
    assert trusted_folder(environment, platform) == Path(folder).expanduser() / f"trusted.{os.getuid()}"


def test_a_digest_is_of_names_and_content_alike() -> None:
    some = [{}, {"a": b""}, {"a": b"b"}, {"ab": b""}, {"a": b"", "b": b""}, {"b": b"", "a": b"x"}, {"": b"a"}]
    digests = {content_digest(files) for files in some}
    assert len(digests) == 7
    assert content_digest({"a": b"1", "b": b"2"}) == content_digest({"b": b"2", "a": b"1"})
