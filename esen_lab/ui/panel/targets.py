"""The panel's two comm targets, and the notebook's session as what pages are told of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from typing import Any

from esen_lab.common.trees import TreeSpec, tree_spec
from esen_lab.errors import UsageError
from esen_lab.ui.panel.channel import MOST_PAGES, Monitor, Talk
from esen_lab.ui.panel.messages import problem, schema
from esen_lab.ui.panel.sections import running_jobs, sections
from esen_lab.ui.session import Session
from esen_lab.ui.widgets import control

STATE_TARGET = "esen_lab.panel"
COMMANDS_TARGET = "esen_lab.panel.commands"
_OUTPUTS = ("y", "answer")  # what an answer is called: the first that is free
_EXAMPLE = """\
import torch

{x} = torch.randn(16, 64)
{wide} = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
{deep} = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(),
                             torch.nn.Linear(64, 10))
%esen register {wide} --example {x}
%esen register {deep} --example {x}"""
_MOST_PARTS = 32  # of an input that is a tuple, a list or a dict, and four more for each tensor of the example


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
        # Often "y" is what the user calls the right answers: a button never writes over that.
        taken = self._session.front.namespace
        output_name = next((name for name in _OUTPUTS if name not in taken), _OUTPUTS[-1])
        return sections(
            lab,
            cell_busy=self._cell_busy,
            input_name=self._input_name(lab),
            output_name=output_name,
            example=_EXAMPLE.format(**{name: _free(name, taken) for name in ("x", "wide", "deep")}),
        )

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
        try:
            from esen_lab.ui.panel.monitor import LabMonitor
        except ImportError as problem:
            hint = "Where the kernel runs: pip install 'esen_lab[notebook]', then restart the kernel."
            raise UsageError("Live plots need bokeh", given=str(problem), hint=hint) from problem
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
            if name[:1] != "_" and _looks_like(value, wanted)
        ]
        return min(found, key=lambda name: (len(name), name), default="")


def _free(name: str, taken: Container[str]) -> str:
    """`name`, with a number behind it where it is a variable of the user's own."""
    numbered = (name, *(f"{name}_{number}" for number in range(2, 100)))
    return next((each for each in numbered if each not in taken), f"{name}_of_the_example")


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


def _looks_like(value: Any, wanted: TreeSpec) -> bool:
    """Whether a variable does. This is asked of every one, several times a second: large ones are never walked."""
    try:
        may_be = _is_tensor(value) or isinstance(value, (tuple, list, dict))
        return may_be and _left_of(_MOST_PARTS + 4 * len(wanted.tensors), value) >= 0 and tree_spec(value) == wanted
    except Exception:  # what a class of the user's does when it is looked at is not the panel's business
        return False


def _left_of(most: int, value: Any) -> int:
    """How many of so many parts are left beside those of a tree; below 0 where it has more."""
    most -= 1
    if _is_tensor(value) or not isinstance(value, (tuple, list, dict)):
        return most
    if len(value) > most:
        return -1
    for part in value.values() if isinstance(value, dict) else value:
        most = _left_of(most, part)
        if most < 0:
            break
    return most


def _is_tensor(value: object) -> bool:
    return type(value).__name__ in ("Tensor", "Parameter")


def _close(comm: Any) -> None:
    if comm is not None:
        with contextlib.suppress(Exception):
            comm.close()
