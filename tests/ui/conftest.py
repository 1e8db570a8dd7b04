"""A session over a fake notebook, an IPython shell, and a real kernel."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fake_front import FakeFront
from fake_lab import FakeLab
from real_kernel import Kernel

from esen_lab.common import surroundings
from esen_lab.planner.editor import PlanEditor
from esen_lab.ui.colours import COLOURS
from esen_lab.ui.session import Session


@pytest.fixture(autouse=True)
def no_colours_of_other_tests() -> Iterator[None]:
    """Sub-models keep their colours as long as the process lives."""
    COLOURS.forget()
    yield
    COLOURS.forget()


@pytest.fixture(autouse=True)
def the_magics_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook that has loaded the extension: the shells of these tests are not the process's own one."""
    monkeypatch.setattr(surroundings, "magics_here", lambda: True)


@pytest.fixture
def front() -> FakeFront:
    return FakeFront(x=[1, 2], x_val=[1, 2], y_val=[0, 1], wide="a module", stem="mine")


@pytest.fixture
def session(front: FakeFront) -> Iterator[Session]:
    made = Session(front, lambda: FakeLab)
    yield made
    made.close()


@pytest.fixture
def lab(session: Session) -> FakeLab:
    found = session.lab()
    assert isinstance(found, FakeLab)
    return found


@pytest.fixture
def editor(lab: FakeLab) -> PlanEditor:
    """The lab's editor, with the sub-model `deep` in a lane of its own."""
    made = lab.tune()
    made.split("deep")  # 2: wide + slim | 2: deep
    return made


@pytest.fixture
def shell() -> Iterator[Any]:
    """A terminal's IPython shell without the extension."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    made = InteractiveShell(config=config)
    yield made
    made.atexit_operations()
    atexit.unregister(made.atexit_operations)


@pytest.fixture
def magics(shell: Any) -> Iterator[SimpleNamespace]:
    """The shell with the extension over `FakeLab`."""
    from esen_lab.ui.magics.magics import install, uninstall

    install(shell, lambda: FakeLab)
    yield SimpleNamespace(shell=shell, run=shell.run_cell)
    uninstall(shell)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A real kernel process with the extension loaded, in a folder of its own."""
    folder = tmp_path_factory.mktemp("kernel")
    with Kernel(folder) as made:
        assert made.run("%load_ext esen_lab").status == "ok"
        yield made
