"""`DraftEditor`: one draft that is changed by hand. Safe from any thread.

The lock is held for a move (well under a millisecond), never while listeners are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any

from esen_lab.common.bell import Listeners
from esen_lab.common.display import Shown
from esen_lab.common.locks import Lock
from esen_lab.common.units import format_seconds
from esen_lab.common.words import listed
from esen_lab.cost_model import CostModel
from esen_lab.errors import UsageError
from esen_lab.planner.editor import moves
from esen_lab.planner.editor.draft import Draft, LaneKey
from esen_lab.planner.editor.editor_state import EditorState
from esen_lab.planner.editor.predictions import Predictions
from esen_lab.planner.editor.undo import History
from esen_lab.planner.plan import Plan


class DraftEditor(Shown):
    """A draft of lanes, the moves that change it, and what cost models say of it; it follows the plan in force.

    Args:
        models: The cost models of all sub-models, as `fit` returns them.
        units: Units of the device.
        unit: What a unit is called.
        start: The plan to begin with; None: everything in one lane.
    """

    def __init__(self, models: Mapping[str, CostModel], units: int, unit: str, start: Plan | None) -> None:
        self._lock = Lock()
        self._unit = unit
        self._units = units
        self._listeners: Listeners[EditorState] = Listeners()
        self._revision = 0
        self._message = ""
        self._failed = False
        self._predictions = Predictions(models, units)
        self._in_force: Plan | None = None
        self._origin = self._predictions.draft_of(start)
        self._history = History(self._origin)

    # --- look ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> EditorState:
        """All there is to show now."""
        with self._lock:
            return self._state()

    @property
    def models(self) -> Mapping[str, CostModel]:
        """The cost models that predictions come from."""
        return dict(self._predictions.models)

    def _state(self) -> EditorState:
        draft = self._history.draft
        promised = self._predictions.forecast(draft)
        warning = self._predictions.warning(draft, self._unit)
        return EditorState(
            revision=self._revision,
            lanes=self._predictions.lanes(draft, promised),
            units=draft.units,
            unit=self._unit,
            oversubscribe=draft.oversubscribe,
            jct_s=promised.jct_s,
            bound_s=promised.bound_s,
            gap=promised.gap,
            limiting=promised.limiting,
            in_force=self._is_in_force(),
            can_undo=self._history.can_undo,
            can_redo=self._history.can_redo,
            message=" ".join(filter(None, (warning, self._message))),
            failed=self._failed or bool(warning),
            proven_s=self._predictions.proven_s,
            **self._use(),
        )

    def _is_in_force(self) -> bool:
        plan = self._in_force
        if plan is None:
            return False
        ours = tuple((lane.units, lane.members) for lane in self._history.draft.lanes)
        return ours == tuple((lane.units, lane.members) for lane in plan.lanes)

    def _use(self) -> dict[str, Any]:
        """What the state says of the use of the draft. Called with the lock held."""
        return {"can_apply": False, "searching": None, "doing": "", "measured": None}

    def _begun_anew(self) -> None:
        """The sub-models are others now. Called with the lock held."""

    def listen(self, listener: Callable[[EditorState], None]) -> Callable[[], None]:
        """Call `listener` with the state after every change, from the thread that changed it.

        A newer state may overtake. A listener that raises is not called again; the state's message says so.

        Returns:
            Call it to stop listening.
        """
        return self._listeners.add(listener)

    def _tell(self) -> EditorState:
        with self._lock:
            self._revision += 1
            state = self._state()
        for problem in self._listeners.tell(state):  # a broken view must not undo a move, nor silence other views
            with self._lock:
                self._message = f"A view of this plan editor stopped: {type(problem).__name__}: {problem}"
        return state

    # --- move ----------------------------------------------------------------------------------------------------

    def share(
        self,
        shares: Mapping[LaneKey, int] | None = None,
        *,
        pin: Iterable[LaneKey] | LaneKey = (),
        unpin: Iterable[LaneKey] | LaneKey = (),
        gesture: object = None,
    ) -> EditorState:
        """Set lanes' shares, fix (`pin`) or free (`unpin`) some. Lanes are named by a sub-model or a number from 1.

        Where room is needed or becomes free, unpinned lanes give and take: see `moves.py`.

        Args:
            shares: Units by lane.
            pin: Lanes whose share the search and other moves must keep; one may stand for a list of itself.
            unpin: Lanes whose share is free again.
            gesture: Moves with the same gesture in a row are one step of undo, and each starts from where the first
                one started: a slider that is dragged forth and back changes nothing.

        Raises:
            UsageError: An unknown lane, a share outside of the device, one lane pinned and freed, or no room. Nothing
                has changed.
        """
        pin, unpin, given = _keys(pin), _keys(unpin), _shares(shares)
        return self._move(
            lambda d: moves.set_shares(d, self._predictions.tables, given, pin=pin, unpin=unpin), gesture=gesture
        )

    def pin(self, *lanes: LaneKey) -> EditorState:
        """Fix the shares of lanes."""
        return self.share(pin=lanes)

    def unpin(self, *lanes: LaneKey) -> EditorState:
        """Free the shares of lanes."""
        return self.share(unpin=lanes)

    def move(self, name: str, to: LaneKey | None = None) -> EditorState:
        """Put a sub-model into the lane `to`; None: into a lane of its own."""
        return self._move(lambda draft: moves.move_member(draft, self._predictions.tables, name, to))

    def split(self, *members: str) -> EditorState:
        """Give these sub-models, all of one lane, a lane of their own."""
        return self._move(lambda draft: moves.split(draft, self._predictions.tables, members))

    def merge(self, *lanes: LaneKey) -> EditorState:
        """Make one lane of several."""
        return self._move(lambda draft: moves.merge(draft, self._predictions.tables, lanes))

    def oversubscribe(self, allowed: bool = True) -> EditorState:
        """Whether shares may sum to more than the device.

        Raises:
            UsageError: `allowed` is neither True nor False, or pinned shares alone are too much.
        """
        if not isinstance(allowed, bool):
            raise UsageError("Shares may sum to more than the device, or not: True or False", given=repr(allowed))
        return self._move(lambda draft: moves.allow_oversubscription(draft, self._predictions.tables, allowed))

    def reset(self) -> EditorState:
        """Back to the plan in force, or to one lane where there is none. Can be undone."""
        with self._lock:
            start = self._predictions.draft_of(self._in_force) if self._in_force is not None else self._origin
        return self._move(lambda _: start, "Reset.")

    def undo(self) -> EditorState:
        """Take the last move back.

        Raises:
            UsageError: There is none.
        """
        return self._step(self._history.undo)

    def redo(self) -> EditorState:
        """Make the move again that was taken back last.

        Raises:
            UsageError: There is none.
        """
        return self._step(self._history.redo)

    def _step(self, step: Callable[[], None]) -> EditorState:
        with self._lock:
            step()
            self._say("")
        return self._tell()

    def _move(self, change: Callable[[Draft], Draft], message: str = "", *, gesture: object = None) -> EditorState:
        with self._lock:
            self._history.move(change, gesture)
            self._message, self._failed = message, False
        return self._tell()

    def _say(self, message: str, *, failed: bool = False) -> None:
        self._message, self._failed = message, failed
        self._history.end_gesture()

    # --- follow the lab ------------------------------------------------------------------------------------------

    def renew(self, models: Mapping[str, CostModel]) -> None:
        """Predict from newer cost models; with other sub-models, begin anew."""
        with self._lock:
            before = self._predictions.models
            if dict(models) == before:
                return
            same = set(models) == set(before)
            self._predictions = Predictions(models, self._units)
            if not same:
                self._begun_anew()
                self._origin = self._predictions.draft_of(self._in_force)
                self._history = History(self._origin)
            self._say("The cost models are new." if same else "The sub-models are others: begun anew.")
        self._tell()

    def follow(self, plan: Plan | None) -> None:
        """Another plan is in force now. The draft follows, unless somebody has moved it away from the old plan.

        Args:
            plan: The plan; None: none that could be moved here (there is none, or it is a cascade). The draft stays.
        """
        if plan is None:
            self._without_plan()
            return
        with self._lock:
            if plan is self._in_force:
                return
            moved = self._history.draft != self._origin and not self._is_in_force()
            self._in_force = plan
            if not moved and set(plan.steps) == set(self._predictions.models) and not self._is_in_force():
                self._origin = self._predictions.draft_of(plan)
                self._history.move(lambda _: self._origin)
        self._tell()

    def _without_plan(self) -> None:
        with self._lock:
            if self._in_force is None:
                return
            if self._is_in_force():
                self._origin = self._history.draft
            self._in_force = None
        self._tell()

    def proved(self, models: Mapping[str, CostModel], bound_s: float) -> None:
        """A search of all plans of one device's units proved that none is faster; it counts if it had these models."""
        with self._lock:
            news = self._predictions.prove(models, bound_s)
        if news:
            self._tell()

    def __repr__(self) -> str:
        state = self.state
        return f"<{type(self).__name__} {state.describe()}, predicted {format_seconds(state.jct_s)}>"


def _keys(lanes: object) -> tuple[LaneKey, ...]:
    """Lanes as they were named, where one may stand for a list of itself."""
    if isinstance(lanes, (str, int)):
        return tuple(listed(lanes)) if isinstance(lanes, str) else (lanes,)
    if isinstance(lanes, Iterable):
        return tuple(lanes)
    raise UsageError("Lanes are named by a sub-model in each, or by their number", given=repr(lanes))


def _shares(shares: object) -> dict[LaneKey, int]:
    """Shares by lane; whole numbers of NumPy become Python's."""
    try:
        given = {} if shares is None else dict(shares)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise UsageError("Shares are given by lane, such as {'wide': 2}", given=repr(shares)) from None
    return {lane: _plain(units) for lane, units in given.items()}


def _plain(units: Any) -> Any:
    return units if isinstance(units, bool) or not isinstance(units, Integral) else int(units)
