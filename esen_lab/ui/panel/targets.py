"""The panel's two comm targets, and the notebook's session as what pages are told of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from esen_lab.common.trees import tree_spec
from esen_lab.errors import EsenError, UsageError
from esen_lab.ui.panel.channel import MOST_PAGES, Monitor, Talk
from esen_lab.ui.panel.messages import problem, schema
from esen_lab.ui.panel.sections import running_jobs, sections
from esen_lab.ui.session import Session
from esen_lab.ui.widgets import control

STATE_TARGET = "esen_lab.panel"
COMMANDS_TARGET = "esen_lab.panel.commands"
_MOST_PARTS = 16  # of an input that is a tuple, a list or a dict


class Targets:
    """Registered while the extension is loaded. Imports neither torch nor the lab."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cell_busy = False
        self._followed = _Followed()
        self._commands: dict[str, Any] = {}  # page -> the comm on which its commands come, oldest first
        self.talk = Talk(self)

    def install(self, shell: Any) -> None:
        """Register the targets with the kernel's comms, where there are any, and hear when cells begin and end."""
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)
        manager = control.manager()
        if manager is not None:
            self.talk.control = control.hear(self)
            manager.register_target(STATE_TARGET, self._opened)
            manager.register_target(COMMANDS_TARGET, self._commands_opened)

    def uninstall(self, shell: Any) -> None:
        """Undo `install`, and say goodbye to the pages."""
        for event, heard in (("pre_run_cell", self._cell_begins), ("post_run_cell", self._cell_ends)):
            with contextlib.suppress(ValueError):
                shell.events.unregister(event, heard)
        control.leave(self)
        manager = control.manager()
        if manager is not None:
            for target, opened in ((STATE_TARGET, self._opened), (COMMANDS_TARGET, self._commands_opened)):
                with contextlib.suppress(KeyError):
                    manager.unregister_target(target, opened)
        self.close()

    def close(self) -> None:
        """Say goodbye to the pages. May be called again."""
        self.talk.close("esen_lab was unloaded from this kernel.")

    # --- what is heard -------------------------------------------------------------------------------------------

    def _cell_begins(self, info: object) -> None:  # noqa: ARG002  the notebook's signature
        self._cell_busy = True
        self.talk.stirred()

    def _cell_ends(self, result: object) -> None:  # noqa: ARG002  the notebook's signature
        self._cell_busy = False
        self.talk.stirred()

    def _opened(self, comm: Any, message: Mapping[str, Any]) -> None:
        comm.on_close(lambda _: self.talk.closed(comm))
        self.talk.opened(comm, control.data_of(message))

    def _commands_opened(self, comm: Any, message: Mapping[str, Any]) -> None:
        data = control.data_of(message)
        if problem(data, schema()["openings"]["commands"]):
            _close(comm)
            return
        page = data["page"]
        surplus = [self._commands.pop(page, None)]
        while len(self._commands) >= 2 * MOST_PAGES:  # a page opens this comm before the one that makes it known
            surplus.append(self._commands.pop(next(iter(self._commands))))
        self._commands[page] = comm
        comm.on_msg(lambda sent: self.talk.command(page, control.data_of(sent)))
        comm.on_close(lambda _: self._commands_closed(page, comm))
        for old in surplus:
            _close(old)

    def _commands_closed(self, page: str, comm: Any) -> None:
        if self._commands.get(page) is comm:
            del self._commands[page]

    # --- what is told --------------------------------------------------------------------------------------------

    def sections(self) -> Mapping[str, Any]:
        """All sections of the notebook's lab as it is now."""
        lab = self._session.known_lab()
        self._followed.follow(lab)
        return sections(lab, cell_busy=self._cell_busy, input_name=self._input_name(lab))

    def listen(self, stirred: Callable[[], None]) -> Callable[[], None]:
        """Call `stirred` whenever the bell rings of the lab that the last look has found in the notebook."""
        self._followed = _Followed(stirred)
        return self._followed.end

    def stop(self, job: str | None) -> None:
        """Cancel one running job, or all of them.

        Raises:
            UsageError: The job that is asked for does not run.
        """
        lab = self._session.known_lab()
        running = {} if lab is None else running_jobs(lab)
        if job is not None and job not in running:
            raise UsageError("A job that runs can be stopped", given=f"{job[:50]}, which does not run (any more)")
        for name, cancel in running.items():
            if job in (None, name):
                cancel()

    def open_monitor(self, interval_s: float, history_s: float) -> Monitor:
        """The readings of the notebook's lab.

        Raises:
            UsageError: There is no lab yet.
            EsenError: Nothing can be read.
        """
        from esen_lab.ui.panel.monitor import LabMonitor

        lab = self._session.known_lab()
        if lab is None:
            raise UsageError("What is watched is the device of a lab", given="no lab yet", hint="Register a sub-model.")
        return LabMonitor(lab, interval_s, history_s)

    def _input_name(self, lab: Any) -> str:
        """What the notebook calls an input that looks like the first sub-model's example; the shortest name, or ""."""
        if lab is None or not lab.ensemble.submodels:
            return ""
        wanted = tree_spec(lab.ensemble.submodels[0].example)
        found = [
            name
            for name, value in list(self._session.front.namespace.items())
            if name[:1] != "_" and _may_be_input(value) and _looks_like(value, wanted)
        ]
        return min(found, key=lambda name: (len(name), name), default="")


class _Followed:
    """The lab whose bell is heard."""

    def __init__(self, stirred: Callable[[], None] | None = None) -> None:
        self._stirred = stirred
        self._lab: Any = None
        self._deaf: Callable[[], None] | None = None

    def follow(self, lab: Any) -> None:
        """Hear this lab from now on, and no other."""
        stirred = self._stirred
        if stirred is None or lab is self._lab:
            return
        self._stop_hearing()
        self._lab = lab
        if lab is not None:
            self._deaf = lab.bell.listen(lambda _: stirred())

    def end(self) -> None:
        """Hear nothing more."""
        self._stirred = None
        self._stop_hearing()

    def _stop_hearing(self) -> None:
        deaf, self._deaf, self._lab = self._deaf, None, None
        if deaf is not None:
            deaf()


def _may_be_input(value: object) -> bool:
    """Whether it is worth a closer look: this is asked of every variable, several times a second."""
    if isinstance(value, (tuple, list, dict)):
        return 0 < len(value) <= _MOST_PARTS
    return type(value).__name__ in ("Tensor", "Parameter")


def _looks_like(value: Any, wanted: object) -> bool:
    try:
        return tree_spec(value) == wanted
    except EsenError:
        return False


def _close(comm: Any) -> None:
    if comm is not None:
        with contextlib.suppress(Exception):
            comm.close()
