"""Views on a simulated device: those with figures say that nothing was measured, and once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from fake_lab import a_plan, point
from past import DEVICE, an_entry

from esen_lab.history import Past
from esen_lab.profiler.records import Profile
from esen_lab.ui import views
from esen_lab.ui.simulated import SaysSimulated, said
from esen_lab.ui.views import Details, Table, View, facts

NOTE = "Simulated: nothing here is measured."
TABLE = Table(columns=("a",), rows=(("1 ms",),))


def device(*, simulated: bool) -> Any:
    return SimpleNamespace(identity=SimpleNamespace(simulated=simulated), notes=(NOTE,))


def test_a_view_with_figures_says_so_and_another_does_not() -> None:
    fake = device(simulated=True)
    assert said(View(blocks=(TABLE,), notes=("first",)), fake).notes == ("first", NOTE)
    for view in (
        View(title="saved"),
        View(blocks=(TABLE,), figures=False),
        View(blocks=(Details(summary="a", text="b"),)),
        View(title="cpu (simulated)", blocks=(TABLE,)),
        View(blocks=(facts(("made for", "cpu (simulated)")),)),
        View(blocks=(TABLE,), notes=(NOTE,)),
    ):
        assert said(view, fake) is view


def test_on_a_real_device_views_are_as_they_are() -> None:
    view = View(blocks=(TABLE,))
    assert said(view, device(simulated=False)) is view


def test_entries_of_a_simulated_device_are_named_where_the_history_lists_them() -> None:
    real = an_entry(number=1, device={**DEVICE, "simulated": False})
    entries = (real, replace(real, number=2, device=DEVICE))
    assert "Simulated, and not measured: number 2." in views.past(Past(project="p", entries=entries)).notes


class _Shown:
    def __init__(self) -> None:
        self.views: list[View] = []
        self.updates_in_place = True

    def show(self, view: View) -> None:
        self.views.append(view)

    def live(self, view: View) -> _Shown:
        self.show(view)
        return self

    def update(self, view: View, *, last: bool = False) -> None:
        self.show(view)


def test_every_door_of_a_notebook_marks_what_goes_through_it() -> None:
    shown, fake = _Shown(), device(simulated=True)
    front = SaysSimulated(shown, lambda view: said(view, fake))
    view = View(blocks=(TABLE,))
    front.show(view)
    live = front.live(view)
    live.update(view, last=True)
    assert [one.notes for one in shown.views] == [(NOTE,)] * 3


def test_a_sub_model_that_is_called_so_says_nothing_of_its_device() -> None:
    fake = device(simulated=True)
    for name in ("simulated_net", "simulated-2", "not_simulated"):
        named = View(title=name, blocks=(Table(columns=("a",), rows=((name,),)),))
        assert said(named, fake).notes == (NOTE,)
    told = View(blocks=(TABLE,), notes=("It is simulated.",))
    assert said(told, fake) is told


def test_plans_and_profiles_say_so_where_python_itself_prints_them() -> None:
    plan = replace(a_plan(), device=DEVICE)
    profile = Profile(device=DEVICE, units=4, points=(point(),))
    for record in (plan, profile):
        assert "For Fake: simulated, and not measured." in str(record)
        assert "simulated" not in str(replace(record, device={**DEVICE, "simulated": False}))
