"""The two comm targets: what a comm may bring, with comms that are test doubles."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from waiting import until

from esen_lab import Lab, Plan
from esen_lab.devices import CpuDevice
from esen_lab.errors import UsageError
from esen_lab.planner.plan import Lane
from esen_lab.ui.panel.channel import MOST_PAGES, PROTOCOL
from esen_lab.ui.panel.targets import Targets
from esen_lab.ui.widgets.control import data_of


class Comm:
    """A kernel's side of a comm: a test double."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.open = True
        self.heard: Callable[[Any], None] = lambda message: None
        self.ended: Callable[[Any], None] = lambda message: None

    def on_msg(self, heard: Callable[[Any], None]) -> None:
        self.heard = heard

    def on_close(self, ended: Callable[[Any], None]) -> None:
        self.ended = ended

    def send(self, data: Any) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.open = False


def message(data: Any) -> dict[str, Any]:
    return {"content": {"data": data}}


@pytest.fixture
def targets() -> Targets:
    session: Any = SimpleNamespace(known_lab=lambda: None, front=SimpleNamespace(namespace={}))
    made = Targets(session)
    made.talk._thread = object()  # type: ignore[assignment]  # so that none is started
    return made


def commands(targets: Targets, page: Any) -> Comm:
    comm = Comm()
    targets._commands_opened(comm, message({"protocol": PROTOCOL, "page": page}))
    return comm


@pytest.mark.parametrize("odd", [None, 5, {}, {"content": None}, {"content": 5}, message(None), message([1]), []])
def test_a_message_without_data_is_empty(odd: Any) -> None:
    assert data_of(odd) == {}


@pytest.mark.parametrize("odd", [{}, {"content": 5}, message(5), message({"protocol": 2, "page": {}})])
def test_a_comm_that_is_opened_with_nonsense_is_hung_up_on(targets: Targets, odd: Any) -> None:
    state, other = Comm(), Comm()
    targets._opened(state, odd)
    targets._commands_opened(other, odd)
    assert (state.open, other.open, targets.talk.pages) == (False, False, 0)


def test_nonsense_on_an_open_comm_is_survived(targets: Targets) -> None:
    comm = commands(targets, "p")
    for odd in (None, {}, {"content": 5}, message(5), message({"kind": []})):
        comm.heard(odd)
    assert comm.open


def test_comms_for_commands_are_bounded_and_one_per_page(targets: Targets) -> None:
    made = [commands(targets, f"page {number}") for number in range(1000)]
    assert sum(comm.open for comm in made) == 2 * MOST_PAGES
    again = commands(targets, "page 999")
    assert (made[-1].open, again.open) == (False, True)
    made[-1].ended(None)
    assert targets._commands["page 999"] is again
    again.ended(None)
    assert "page 999" not in targets._commands


@pytest.mark.timing
def test_a_change_in_the_lab_is_in_the_panel_within_a_fifth_of_a_second(tmp_path: Path) -> None:
    with Lab(CpuDevice(cores=[(0,), (0,)]), store=tmp_path / "points.sqlite3") as lab:
        lab.register("a", nn.ReLU(), torch.zeros(1, 8))
        session: Any = SimpleNamespace(known_lab=lambda: lab, front=SimpleNamespace(namespace={}))
        targets, comm = Targets(session), Comm()
        targets._opened(comm, message({"protocol": PROTOCOL, "page": "p", "rate_hz": 10}))
        until(lambda: len(comm.sent) == 2)
        took = []
        for units in (1, 2) * 5:
            time.sleep(0.15)  # the page has had its last news
            began = time.monotonic()
            lab.plan = Plan(lanes=(Lane(units=units, members=("a",)),), units=2)
            until(lambda units=units: shown(comm) == units)
            took.append(time.monotonic() - began)
        assert sorted(took)[1] < 0.2, "others may take the cores now and then"
        targets.close()


def shown(comm: Comm) -> int:
    """The share of the first lane that the page was told last."""
    plans = [sent["sections"]["plan"] for sent in comm.sent if sent.get("sections", {}).get("plan")]
    return plans[-1]["lanes"][0]["units"] if plans else 0


def test_the_cell_of_the_run_button_never_writes_over_a_variable_of_the_users(targets: Targets) -> None:
    def line() -> str:
        (action,) = (each for each in targets.sections()["actions"] if each["id"] == "run")
        return str(action["line"])

    assert line() == "y = %esen run x"
    targets._session.front.namespace["y"] = "the right answers"
    assert line() == "answer = %esen run x"


def test_a_monitor_in_a_kernel_without_bokeh_says_what_to_install(
    targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("esen_lab.ui.panel.monitor", "esen_lab.ui.widgets.live_charts", "esen_lab.ui.widgets.feed"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(UsageError, match=r"need bokeh.*pip install 'esen_lab\[notebook\]'"):
        targets.open_monitor(0.5, 60.0)


class Walked(list[Any]):
    """A list that counts who walks it."""

    walks = 0

    def __iter__(self) -> Any:
        type(self).walks += 1
        return super().__iter__()


class Odd(list[Any]):
    def __iter__(self) -> Any:
        raise OSError("it is read from a disk that is gone")


def test_variables_that_are_long_or_odd_neither_cost_the_panel_time_nor_silence_it(targets: Targets) -> None:
    itself: list[Any] = []
    itself.append(itself)
    names = targets._session.front.namespace
    names.update(long=[Walked([0.0] * 60_000), Walked([0] * 60_000)], odd=Odd([1]), itself=itself)
    x = (torch.ones(2, 4), {"mask": torch.ones(2, 4)})
    names.update(batch=x, other=(x[0], x[0]))
    example = SimpleNamespace(ensemble=SimpleNamespace(submodels=[SimpleNamespace(example=x)]))
    assert targets._input_name(example) == "batch"
    assert Walked.walks == 0


def test_the_cell_of_an_example_never_writes_over_a_variable_of_the_users(targets: Targets) -> None:
    def example() -> str:
        return str(targets.sections()["next_step"]["example"])

    names: dict[str, Any] = {}
    exec(example().partition("%esen")[0], names)
    assert {"x", "wide", "deep"} <= names.keys()
    assert names["wide"](names["x"]).shape == names["deep"](names["x"]).shape
    taken = {"x": 1, "wide": 2, "wide_2": 3, "nn": 4}
    targets._session.front.namespace.update(taken)
    ran = dict(taken)
    exec(example().partition("%esen")[0], ran)
    assert {name: ran[name] for name in taken} == taken
    assert "%esen register wide_3 --example x_2" in example()
    assert "%esen register deep --example x_2" in example()
