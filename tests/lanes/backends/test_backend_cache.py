"""What engines have prepared is kept in a folder of the user's own, within a bound; damage is met by making anew."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from backend_nets import executed, lacking
from models import mlp

from esen_lab.common.trees import flatten
from esen_lab.ensemble.fingerprint import text_digest
from esen_lab.errors import DeviceError
from esen_lab.lanes.backends import _cache, backend, kept_graph, refused_before, remember_refusal
from esen_lab.lanes.backends._agreement import Questions
from esen_lab.lanes.backends._cache import Cache, cache_for, prune
from esen_lab.lanes.backends._findings import Findings
from esen_lab.lanes.backends._protocol import form_of

ENGINES = [pytest.param(name, marks=lacking(name)) for name in ("openvino", "onnxruntime")]
X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESEN_LAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "backends-1"


def made(fingerprint: str = "f", version: str = "1") -> Cache:
    found = cache_for(fingerprint, "openvino", version)
    assert found is not None
    return found


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def test_what_is_kept_is_found_again_under_the_same_key_only(folder: Path) -> None:
    made().keep("look", b"blob")
    assert made().take("look") == b"blob"
    assert made().take("another look") is None
    assert made(fingerprint="g").take("look") is None
    assert made(version="2").take("look") is None


def test_what_one_gpu_refuses_another_one_is_asked_and_a_lack_of_memory_is_forgotten(folder: Path) -> None:
    remember_refusal("inductor", "f", "a look", "it does not compile", "NVIDIA H200, 580")
    assert refused_before("inductor", "f", "a look", "NVIDIA H200, 580") == "it does not compile"
    assert refused_before("inductor", "f", "a look", "NVIDIA H200, 590") == ""
    assert refused_before("inductor", "f", "a look") == ""
    remember_refusal("inductor", "f", "a look", "it answers otherwise")
    assert refused_before("inductor", "f", "a look") == "it answers otherwise"
    for why in (
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        "DefaultCPUAllocator: can't allocate memory",
    ):
        remember_refusal("cuda-graph", "f", "a look", why, "NVIDIA H200, 580")
        assert refused_before("cuda-graph", "f", "a look", "NVIDIA H200, 580") == ""


def test_what_int8_of_one_calibration_was_refused_for_is_asked_anew_with_other_data(folder: Path) -> None:
    remember_refusal("openvino@int8", "f", "a look", "it answers otherwise", calibration=X)
    assert refused_before("openvino@int8", "f", "a look", calibration=X.clone()) == "it answers otherwise"
    assert refused_before("openvino@int8", "f", "a look", calibration=X + 1) == ""
    assert refused_before("openvino@int8", "f", "a look") == ""
    remember_refusal("openvino", "f", "a look", "it has no rule", calibration=X)
    assert refused_before("openvino", "f", "a look") == "it has no rule", "of data that int8 alone is made of"


def test_the_folder_is_closed_to_others_and_that_of_others_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True, mode=0o777)
    folder.chmod(0o777)
    made().keep("look", b"blob")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in entries(folder)] == [0o600]
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert cache_for("f", "openvino", "1") is None


def test_a_link_in_the_place_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert cache_for("f", "openvino", "1") is None


def test_a_damaged_entry_is_removed(folder: Path) -> None:
    made().keep("look", b"blob")
    (path,) = entries(folder)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert made().take("look") is None
    assert entries(folder) == []
    path.write_bytes(b"")
    assert made().take("look") is None


def test_the_entries_that_were_not_used_for_longest_go(folder: Path) -> None:
    cache = made()
    cache.most_bytes = 300
    for number, look in enumerate(("a", "b", "c")):
        cache.keep(look, b"x" * 90)
        os.utime(folder / text_digest(cache.owner, look), (number, number))
    assert [look for look in ("a", "b", "c") if cache.take(look)] == ["b", "c"]
    cache.keep("too large", b"x" * 300)
    assert cache.take("too large") is None


def test_files_that_are_just_in_use_stay(tmp_path: Path) -> None:
    for name, age in (("old", 1.0), ("new", 100.0)):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (age, age))
    prune(iter(tmp_path.iterdir()), 0, used_before=50.0)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_processes_that_keep_the_same_entry_at_once_do_not_meet(folder: Path) -> None:
    caches = [made() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda cache: [cache.keep("look", b"x" * 100_000) for _ in range(20)], caches))
    assert made().take("look") == b"x" * 100_000
    assert len(list(folder.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_done_without(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    assert cache_for("f", "openvino", "1") is None


def test_a_folder_that_torch_cannot_have_is_done_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = made()
    (folder / "inductor").write_text("a file")
    assert cache.folder_for("inductor") is None
    (folder / "inductor").unlink()
    monkeypatch.setattr(os, "access", lambda path, how: False)  # as on a disk that is read-only
    assert cache.folder_for("inductor") is None
    assert cache.working_folder is None


def test_folders_that_other_processes_take_away_meanwhile_are_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Path, __: str) -> Iterator[Path]:
        yield folder / "nothing"
        raise FileNotFoundError("a folder that was there")

    monkeypatch.setattr(Path, "rglob", gone)
    assert made().folder_for("inductor") == folder / "inductor"


@pytest.mark.parametrize("name", ENGINES)
def test_a_second_session_traces_nothing(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = executed(mlp(), name, made())
    with torch.inference_mode():
        wanted = mlp()(X)
        torch.testing.assert_close(first(X), wanted)
        # What probes have shown; the graph. OpenVINO keeps the graph for any machine, and one compiled for this.
        assert len(entries(folder)) == (3 if name == "openvino" else 2)
        monkeypatch.setattr(torch.export, "export", None)
        torch.testing.assert_close(executed(mlp(), name, made())(X), wanted)


@pytest.mark.parametrize("name", ENGINES)
def test_an_entry_of_another_network_is_found_out_and_made_anew(name: str, folder: Path) -> None:
    with torch.no_grad():
        executed(mlp(seed=1), name, made())(X)
        before = {path.name: path.read_bytes() for path in entries(folder)}
        torch.testing.assert_close(executed(mlp(seed=2), name, made())(X), mlp(seed=2)(X))
        after = {path.name: path.read_bytes() for path in entries(folder)}
        assert after.keys() == before.keys()
        graphs = [key for key, entry in before.items() if len(entry) > 200]  # probes have shown the same of both
        assert len(graphs) == len(before) - 1
        assert all(after[key] != before[key] for key in graphs)
        torch.testing.assert_close(executed(mlp(seed=2), name, made())(X), mlp(seed=2)(X))


@pytest.mark.parametrize("name", ENGINES)
def test_an_entry_of_another_network_that_cannot_be_removed_is_passed_over(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that is mounted read-only: it was taken again and again, without an end."""
    with torch.no_grad():
        executed(mlp(seed=1), name, made())(X)
    tries: list[Path] = []

    def stays(path: Path) -> None:
        tries.append(path)
        assert len(tries) < 20

    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(_cache, "remove", stays)
    monkeypatch.setattr(_cache, "temporary_file", read_only)
    with torch.no_grad():
        torch.testing.assert_close(executed(mlp(seed=2), name, made())(X), mlp(seed=2)(X))


def test_torch_has_a_folder_of_its_own_within_the_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = made()
    cache.most_bytes = 5
    (cache.folder_for("inductor") / "deep").mkdir()
    for name, age in (("old", 1.0), ("new", None)):
        (folder / "inductor" / "deep" / name).write_bytes(b"x" * 10)
        if age is not None:
            os.utime(folder / "inductor" / "deep" / name, (age, age))
    monkeypatch.setattr(_cache, "_AT_WORK_S", 1000.0)
    assert [path.name for path in (cache.folder_for("inductor") / "deep").iterdir()] == ["new"]


def of_engine(name: str, brought: dict[str, bytes] | None = None) -> Cache | None:
    return cache_for("f", name, backend(name).version(), brought)


def graph_of(name: str, folder: Path) -> dict[str, bytes]:
    """The graph that an engine keeps of a network, as an export takes it along."""
    with torch.no_grad():
        executed(mlp(), name, of_engine(name))(X)
    kept = kept_graph(name, "f", X)
    assert kept is not None
    for path in entries(folder):
        path.unlink()
    return dict([kept])


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_serves_any_number_of_threads_and_is_not_traced_again(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.set_num_threads(1)
            executed(mlp(), name, made())(X)
            torch.set_num_threads(2)
            monkeypatch.setattr(torch.export, "export", None)
            torch.testing.assert_close(executed(mlp(), name, made())(X), mlp()(X))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ENGINES)
def test_of_a_graph_that_was_brought_along_nothing_is_kept_but_what_probes_have_shown(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = graph_of(name, folder)
    monkeypatch.setattr(torch.onnx, "export", None)
    monkeypatch.setattr("openvino.convert_model", None)
    with torch.no_grad():
        torch.testing.assert_close(executed(mlp(), name, of_engine(name, brought))(X), mlp()(X))
    (kept,) = entries(folder)
    assert b'"refused": ""' in kept.read_bytes(), "what another has made would execute this user's own networks"
    own = Findings(cache=of_engine(name), form=form_of(*flatten(([X], {}))))
    assert own.known() is None, "it was found out of another graph"


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_that_is_brought_again_is_not_probed_again(name: str, folder: Path) -> None:
    brought, counted = graph_of(name, folder), []
    for _ in range(2):
        asked: list[int] = []
        fast = executed(mlp(), name, of_engine(name, brought))
        fast.module.register_forward_hook(lambda *_, asked=asked: asked.append(1))
        with torch.no_grad():
            fast(X)
        counted.append(len(asked))
    assert counted[1] <= 1 < counted[0]  # the first answer


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_that_probes_have_refused_is_refused_when_it_is_brought_again(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = graph_of(name, folder)
    with monkeypatch.context() as patch:
        patch.setattr(Questions, "differ", lambda *_, **__: "another number")
        with torch.no_grad(), pytest.raises(DeviceError, match="another number"):
            executed(mlp(), name, of_engine(name, brought))(X)
    with torch.no_grad(), pytest.raises(DeviceError, match="another number"):
        executed(mlp(), name, of_engine(name, brought))(X)


class Rows(torch.nn.Module):
    """Finds rows by floats."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.arange(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w[x.long()]


@pytest.mark.parametrize("name", ENGINES)
def test_a_brought_graph_is_kept_from_indices_that_are_not_there(name: str, folder: Path) -> None:
    with torch.no_grad():
        executed(Rows(), name, of_engine(name))(X.abs())
        kept = kept_graph(name, "f", X)
        assert kept is not None
        for path in entries(folder):
            path.unlink()
        elsewhere = executed(Rows(), name, of_engine(name, dict([kept])))
        elsewhere(X.abs())
        with pytest.raises(IndexError):
            elsewhere(X.abs() + 100)


@pytest.mark.parametrize("name", ENGINES)
def test_a_brought_graph_of_another_network_or_a_damaged_one_is_made_anew(name: str, folder: Path) -> None:
    brought = graph_of(name, folder)
    with torch.no_grad():
        torch.testing.assert_close(executed(mlp(seed=2), name, of_engine(name, brought))(X), mlp(seed=2)(X))


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_that_was_traced_under_autocast_serves_no_session_without_it(name: str, folder: Path) -> None:
    wide = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net = Back()
        wanted, fast = net(wide), executed(net, name, made())
        with torch.autocast("cpu", dtype=torch.bfloat16), contextlib.suppress(DeviceError):
            fast(wide)  # or it is refused, since it rounds otherwise; its graph is kept in any case
        for later in (executed(net, name, made()), fast):
            assert (later(wide) - wanted).abs().max() < 1e-5 * wanted.abs().max()


class Back(torch.nn.Module):
    """Answers in float32 whatever it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x).float()
