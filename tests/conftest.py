"""For every test: a home and a temporary folder of its own, and the check that nothing is left behind.

The check runs at three levels. A test that uses only fixtures of its own is checked when it ends. One that uses a
fixture shared by its module, or by the whole run, may start what that fixture keeps: it is checked when they end.
"""

from __future__ import annotations

import json
import operator
import os
import random
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import leaks
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from gates import Gate

_SAVED = pytest.StashKey[dict[str, str | None]]()
_FOLDER = pytest.StashKey[Path]()
_FAILED = os.environ.pop("ESEN_LAB_TESTS_FAILED", None)  # of `tools/run_tests.py`: where failing tests are written down
# Of the same: {"rooms": in order, "end": "first" or "last", "taken": a folder}, for two runs side by side.
_SHARED = json.loads(os.environ.pop("ESEN_LAB_TESTS_SHARED", "null"))


def pytest_configure(config: pytest.Config) -> None:
    # Whatever appears in our own temporary folder is ours; nothing is written to the user's home.
    common = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="esen-"))
    folder.chmod(0o755)  # tests of what is forbidden become an ordinary user, who must get in
    home, temporary = folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    # What was made before the tests is found in the cache as it was.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    variables = {
        "ESEN_LAB_TRITON": os.environ.get("ESEN_LAB_TRITON") or str(cache / "esen_lab" / "triton"),
        leaks.MARK: uuid.uuid4().hex,
        "TMPDIR": str(temporary),
        "PYTEST_DEBUG_TEMPROOT": common,  # `tmp_path` stays where people look for it after a failure
        "ESEN_LAB_HOME": str(home / "esen_lab"),
        "ESEN_LAB_BACKENDS": "eager",  # engines take seconds for each sub-model; tests of them ask for them
        "ESEN_LAB_LOCKS": str(home / "locks"),  # else two runs at a time would measure in turns
        "XDG_CACHE_HOME": str(home / "cache"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter-config"),
        "JUPYTER_DATA_DIR": str(home / "jupyter-data"),
        "JUPYTER_RUNTIME_DIR": str(home / "jupyter-run"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    config.stash[_SAVED] = {name: os.environ.get(name) for name in variables}
    config.stash[_FOLDER] = folder
    os.environ.update(variables)
    tempfile.tempdir = None
    # Of what is drawn at random the same each time, however long that takes: `make fuzz` is for new finds.
    slow = [HealthCheck.too_slow]
    settings.register_profile("here", deadline=None, derandomize=True, suppress_health_check=slow)
    settings.load_profile("here")


def pytest_unconfigure(config: pytest.Config) -> None:
    for name, value in config.stash.get(_SAVED, {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    shutil.rmtree(config.stash.get(_FOLDER, None) or "", ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test and its fixtures draw is the same whatever ran before it, in whichever order."""
    random.seed(0)
    for library, seeds in (("numpy", "random.seed"), ("torch", "manual_seed")):
        if (module := sys.modules.get(library)) is not None:  # one that nobody has imported draws nothing
            operator.attrgetter(seeds)(module)(0)
    if "esen_lab.lanes.fork_server" in sys.modules:
        import kept_helpers

        room = item.path.relative_to(Path(__file__).parent).parts[0]
        kept_helpers.keep(room != "lanes" and item.get_closest_marker("own_helper") is None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and _FAILED is not None:
        with open(_FAILED, "a", encoding="utf-8") as file:
            file.write(f"{report.when} {report.nodeid}\n")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run of the tests marked `timing` imports no files without any: to import all takes half a minute."""
    if not config.option.markexpr.startswith("timing") or not collection_path.match("test_*.py"):
        return None
    return "mark.timing" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _SHARED is not None:
        items.sort(key=lambda item: _SHARED["rooms"].index(item.path.relative_to(Path(__file__).parent).parts[0]))
    # A context of CUDA stays with the process and is time-sliced against clients of MPS: who makes one comes last.
    items.sort(key=_starts_cuda)


def _starts_cuda(item: pytest.Item) -> bool:
    return any(mark.args for mark in item.iter_markers("gpu"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Of two runs side by side, each takes modules that the other has not taken, from its end of the list."""
    if _SHARED is None or session.testsfailed or session.config.option.collectonly:
        return None  # as pytest does it
    ours = _ours(session.items)
    item = next(ours, None)
    while item is not None:
        following = next(ours, None)  # before a module's last test, so that what is shared in it ends with it
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def _ours(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    parts: dict[tuple[bool, str], list[pytest.Item]] = {}
    for item in items:
        parts.setdefault((_starts_cuda(item), item.path.name), []).append(item)  # names of files are unique
    order = list(parts) if _SHARED["end"] == "first" else list(reversed(parts))
    for cuda, name in sorted(order, key=lambda part: part[0]):
        try:
            Path(_SHARED["taken"], f"{name}{' CUDA' * cuda}").touch(exist_ok=False)
        except FileExistsError:
            continue
        yield from parts[cuda, name]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Open while lanes start, since they run the example then."""
    from gates import Gate  # with torch, which few tests of programs need

    made = Gate(tmp_path / "gate")
    made.open()
    yield made
    made.open()


@pytest.fixture(autouse=True)
def however_busy_the_machine_is(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests run beside others: what they measure counts as measured on a quiet machine, save in tests of load."""
    with pytest.MonkeyPatch.context() as patch:  # its own: a test's `monkeypatch` must end before what the test started
        if request.node.get_closest_marker("load") is None:
            patch.setattr("esen_lab.profiler.records.LOADED", 1.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_left_by_the_run() -> Iterator[None]:
    """Fails the last test when the run leaves anything behind, orphans of orphans included."""
    before = leaks.take()
    yield
    if "kept_helpers" in sys.modules:
        sys.modules["kept_helpers"].end_all()
    left = leaks.left_since(before)
    left += [words for words in leaks.orphans(os.environ[leaks.MARK]) if words not in left]
    _fail(left, "The test run left behind")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_the_module(request: pytest.FixtureRequest, nothing_left_by_the_run: None) -> Iterator[None]:
    """Fails when a module leaves anything behind, unless it uses a fixture that outlives it."""
    before = leaks.take()
    yield
    items = [item for item in request.session.items if item.getparent(pytest.Module) is request.node]
    if not any(_shares(item, {"session", "package"}) for item in items):
        _fail(leaks.left_since(before), "The module left behind")


@pytest.fixture(autouse=True)
def nothing_left_by_the_test(request: pytest.FixtureRequest, nothing_left_by_the_module: None) -> Iterator[None]:
    """Fails when a test leaves anything behind, unless it uses a fixture that outlives it."""
    before = leaks.take()
    yield
    if not _shares(request.node, {"session", "package", "module", "class"}):
        _fail(leaks.left_since(before), "The test left behind")


def _shares(item: pytest.Item, scopes: set[str]) -> bool:
    """Whether `item` uses a fixture of these scopes that the tests themselves define."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return False
    here = str(Path(__file__).parent)
    return any(
        definition.scope in scopes and definition.func.__code__.co_filename.startswith(here)
        for name, definitions in info.name2fixturedefs.items()
        if not name.startswith("nothing_left_by_")
        for definition in definitions
    )


def _fail(left: list[str], what: str) -> None:
    if left:
        pytest.fail(f"{what}:\n  " + "\n  ".join(left), pytrace=False)
