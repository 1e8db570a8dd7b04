"""The panel's two comm targets, and the notebook's session as what pages are told of."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from esen_lab.errors import EsenError, UsageError
from esen_lab.notebook import control
from esen_lab.notebook.panel.sections import running_jobs, sections
from esen_lab.notebook.panel.talk import Monitor, Talk
from esen_lab.notebook.session import Session
from esen_lab.trees import tree_spec

STATE_TARGET = "esen_lab.panel"
COMMANDS_TARGET = "esen_lab.panel.commands"
_MOST_PARTS = 16  # of an input that is a tuple, a list or a dict


class Targets:
    """Registered while the extension is loaded. Imports neither torch nor the lab.

    Args:
        session: The notebook's.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cell_busy = False
        self.talk = Talk(self)

    def install(self, shell: Any) -> None:
        """Register the targets with the kernel's comms, where there are any, and hear when cells begin and end."""
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)
        manager = _manager()
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
        manager = _manager()
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
        self.talk.opened(comm, _data(message))

    def _commands_opened(self, comm: Any, message: Mapping[str, Any]) -> None:
        page = str(_data(message).get("page", ""))
        comm.on_msg(lambda sent: self.talk.command(page, _data(sent)))

    # --- what is told --------------------------------------------------------------------------------------------

    def sections(self) -> Mapping[str, Any]:
        """All sections of the notebook's lab as it is now."""
        lab = self._session.known_lab()
        return sections(lab, cell_busy=self._cell_busy, input_name=self._input_name(lab))

    def busy(self) -> bool:
        """Whether a cell or a job is running."""
        lab = self._session.known_lab()
        return self._cell_busy or (lab is not None and bool(running_jobs(lab)))

    def stop(self, job: str | None) -> None:
        """Cancel one running job, or all of them.

        Raises:
            UsageError: The job that is asked for does not run.
        """
        lab = self._session.known_lab()
        running = {} if lab is None else running_jobs(lab)
        if job is not None and job not in running:
            raise UsageError("A job that runs can be stopped", given=f"{job}, which does not run (any more)")
        for name, cancel in running.items():
            if job in (None, name):
                cancel()

    def open_monitor(self, interval_s: float, history_s: float) -> Monitor:
        """The readings of the notebook's lab.

        Raises:
            UsageError: There is no lab yet.
            EsenError: Nothing can be read.
        """
        from esen_lab.notebook.panel.monitor import LabMonitor

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


def _manager() -> Any:
    """The kernel's comm manager; None in a shell without one."""
    try:
        from comm import get_comm_manager
    except ImportError:
        return None
    return get_comm_manager()


def _data(message: Mapping[str, Any]) -> dict[str, Any]:
    found = message.get("content", {}).get("data", {})
    return found if isinstance(found, dict) else {}
