"""The IPython extension: `%esen`, `%%esen model`, tab completion, rich display. The only file that imports IPython.

Everything done to the shell is undone by `uninstall`, found again through the registered magic itself: the module
keeps no state.
"""

from __future__ import annotations

import ast
import atexit
import os
import re
import shutil
import sys
import traceback
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.inputtransformer2 import TokenTransformBase
from IPython.core.magic import needs_local_scope, no_var_expand
from IPython.utils.dir2 import get_real_method
from IPython.utils.text import DollarFormatter

import esen_lab
from esen_lab.common.fitting import beginning, terminal_columns, wrapped
from esen_lab.common.words import unknown
from esen_lab.errors import EsenError, ModelError, UsageError, WorkerError
from esen_lab.terminal import visible_line
from esen_lab.ui import views
from esen_lab.ui.html import bundle, to_text
from esen_lab.ui.magics.completion import complete
from esen_lab.ui.magics.lines import interrupted, run_cell, run_line
from esen_lab.ui.magics.output_prompt import LatePrompt
from esen_lab.ui.magics.outputs import Outputs
from esen_lab.ui.panel.targets import Targets
from esen_lab.ui.session import Session, ShownWidget, lab_class
from esen_lab.ui.views import Details, Progress, View
from esen_lab.ui.widgets.live_displays import Live

MAGIC = "esen"
_PACKAGE = os.path.dirname(os.path.abspath(str(esen_lab.__file__)))


def install(shell: Any, lab_class: Callable[[], type[Any]] = lab_class) -> None:
    """Register everything with `shell`. Once is enough; twice does nothing more.

    Args:
        shell: An IPython shell.
        lab_class: Returns the class of labs; called when the first verb needs it.
    """
    if _installed(shell) is None:
        _Extension(shell, lab_class).install()


def uninstall(shell: Any) -> None:
    """Undo `install`; does nothing where it was not installed."""
    extension = _installed(shell)
    if extension is not None:
        extension.uninstall()


def _installed(shell: Any) -> _Extension | None:
    magic = shell.magics_manager.magics["line"].get(MAGIC)
    owner = getattr(magic, "__self__", None)
    return owner if isinstance(owner, _Extension) else None


class _Extension:
    """One shell's extension, between `install` and `uninstall`."""

    def __init__(self, shell: Any, lab_class: Callable[[], type[Any]]) -> None:
        self.shell = shell
        self.front = _IPythonFront(shell)
        self.session = Session(self.front, lab_class)
        self._matcher = self._make_matcher()
        self._panel = Targets(self.session)
        self._prompt = LatePrompt(shell)

    def install(self) -> None:
        self.shell.register_magic_function(self.esen, "line_cell", MAGIC)
        self.shell.input_transformer_manager.token_transformers.append(_Question)
        self.shell.Completer.custom_matchers.append(self._matcher)
        for name in views.RECORDS:
            home, _, kind = name.rpartition(".")
            self.shell.display_formatter.ipython_display_formatter.for_type_by_name(home, kind, self.front.skip_shown)
        self._prompt.install()
        self.shell.events.register("pre_run_cell", self.front.cell_begins)
        self._panel.install(self.shell)
        atexit.register(self._close)

    def _close(self) -> None:
        self._panel.close()
        self.session.close()
        self.front.outputs.close()

    def uninstall(self) -> None:
        atexit.unregister(self._close)
        self._panel.uninstall(self.shell)
        self._prompt.uninstall()
        for name in views.RECORDS:
            self.shell.display_formatter.ipython_display_formatter.pop(name, None)
        self.front.show_again()
        with suppress(ValueError):
            self.shell.events.unregister("pre_run_cell", self.front.cell_begins)
        transformers = self.shell.input_transformer_manager.token_transformers
        transformers[:] = [transformer for transformer in transformers if transformer is not _Question]
        # Only what was put there: other extensions' matchers stay.
        matchers = self.shell.Completer.custom_matchers
        matchers[:] = [matcher for matcher in matchers if matcher is not self._matcher]
        manager = self.shell.magics_manager
        for kind in ("line", "cell"):
            manager.magics[kind].pop(MAGIC, None)
        if hasattr(manager.user_magics, MAGIC):
            delattr(manager.user_magics, MAGIC)
        self.session.close()
        self.front.outputs.close()

    @needs_local_scope
    @no_var_expand
    def esen(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Share one device between the sub-models of an ensemble: `%esen help` lists the verbs."""
        try:
            with self.front.inside(local_ns):
                return run_line(self.session, line) if cell is None else run_cell(self.session, line, cell)
        except EsenError as error:
            details = _details(error)
            if details is not None:
                self.front.show(View(blocks=(details,)))
            _show_as(error, *wrapped(_one_line(error), terminal_columns()))
            raise
        except KeyboardInterrupt as stop:
            _show_as(stop, interrupted(line))
            raise

    def _make_matcher(self) -> Any:
        # A function, because IPython writes the priority on it, which a bound method refuses.
        def matcher(context: CompletionContext) -> SimpleMatcherResult:
            return self._offers(context)

        return context_matcher(identifier="esen_lab", priority=100)(matcher)

    def _offers(self, context: CompletionContext) -> SimpleMatcherResult:
        before = context.full_text.split("\n")[context.cursor_line][: context.cursor_position]
        completion = complete(self.session, before)
        if completion is None:
            return {"completions": []}
        fragment, offers = completion
        return {
            "completions": [SimpleCompletion(text=offer, type="magic") for offer in offers],
            "matched_fragment": fragment,
            "ordered": True,
            "suppress": True,  # Python's own completers see no Python on this line
        }


class _Question(TokenTransformBase):
    """`%esen run?` asks what the verb takes, as `%esen run -h`; IPython alone would look for a variable `run`.

    `%esen?` asks which verbs there are.
    """

    priority = 1  # before IPython's own look at question marks
    _ASKED = re.compile(rf"(\s*%{MAGIC}(?:\s+[\w-]+)?)\s*\?\??\s*")

    @classmethod
    def find(cls, tokens_by_line: Sequence[Sequence[Any]]) -> _Question | None:
        """The first such line, or None."""
        asked = (line[0].start for line in tokens_by_line if line and cls._ASKED.fullmatch(line[0].line))
        return next(map(cls, asked), None)

    def transform(self, lines: list[str]) -> list[str]:
        """The lines with that one as a magic that asks for help."""
        asked = self._ASKED.fullmatch(lines[self.start_line])
        assert asked is not None
        return [*lines[: self.start_line], f"{asked[1]} -h\n", *lines[self.start_line + 1 :]]


class _IPythonFront:
    """`session.Notebook` on an IPython shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.outputs = Outputs(shell)
        self._shown: list[tuple[int, object]] = []  # (execution, record): already on the screen
        self._hidden: list[type] = []  # whose results were hidden: asked about each time one is shown
        self._cell = ""  # the text of the running cell
        # The names of the function that a line stands in; of each thread and task its own.
        self._local: ContextVar[Mapping[str, Any] | None] = ContextVar("esen_local", default=None)

    @contextmanager
    def inside(self, local: Mapping[str, Any] | None) -> Iterator[None]:
        """Let expressions mean the names of the function that the line stands in, where it stands in one."""
        before = self._local.get()
        self._local.set(None if local is self._shell.user_ns else local)
        try:
            yield
        finally:
            self._local.set(before)

    @property
    def namespace(self) -> MutableMapping[str, Any]:
        names: MutableMapping[str, Any] = self._shell.user_ns
        return names

    @property
    def names(self) -> Mapping[str, Any]:
        local = self._local.get()
        # Only read: a chain's first mapping is the one that is written to.
        return self.namespace if local is None else ChainMap(dict(local), self.namespace)

    @property
    def updates_in_place(self) -> bool:
        return hasattr(self._shell, "kernel")

    def evaluate(self, expression: str) -> Any:
        # Compiled under a name of IPython's own, so that tracebacks show the expression as they show a cell.
        name = self._shell.compile.cache(expression, self._shell.execution_count)
        try:
            code = compile(expression, name, "eval")
        except (SyntaxError, ValueError) as error:
            raise UsageError(
                "A Python expression is needed here",
                given=expression,
                hint=f"Python says: {getattr(error, 'msg', error)}. Names and numbers go as they are, text in quotes.",
            ) from None
        local = self._local.get()
        try:
            return self._shell.ev(code) if local is None else self._in_function(expression, name, local)
        except Exception as error:
            if isinstance(error, NameError) and self._frames(error)[-1] == name:
                raise self._no_such(str(error.name)) from None
            _show_as(error, *self._users_traceback(error, name))
            raise

    def _in_function(self, expression: str, name: str, local: Mapping[str, Any]) -> Any:
        """The value of an expression in a function of the notebook; comprehensions in it see its names, too."""
        body = ast.parse(expression, name, "eval").body
        named = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
        used = {key: value for key, value in local.items() if key in named}
        # As parameters: what is only the mapping of `eval` is not seen by functions and comprehensions inside.
        given = ast.arguments([], [ast.arg(key) for key in used], None, [], [], None, [])
        function = ast.fix_missing_locations(ast.Expression(ast.Lambda(given, body)))
        return eval(compile(function, name, "eval"), self._shell.user_global_ns)(**used)  # noqa: S307

    def _no_such(self, name: str) -> UsageError:
        hidden = self._shell.user_ns_hidden
        known = [other for other in self.names if other not in hidden and not other.startswith("_")]
        rule = f"A verb takes variables of this notebook, and there is no {name!r}"
        return unknown(rule, name, known, hint="Run the cell that defines it first.")

    @staticmethod
    def _frames(error: BaseException) -> list[str]:
        """The files of the frames that an error went through, the innermost last."""
        return [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]

    def _users_traceback(self, error: BaseException, name: str) -> list[str]:
        # From the user's expression inwards: the frames between the cell and the expression are ours.
        inner = error.__traceback__
        while inner is not None and inner.tb_frame.f_code.co_filename != name:
            inner = inner.tb_next
        render = self._shell.InteractiveTB.structured_traceback
        lines: list[str] = render(type(error), error, inner or error.__traceback__)
        return lines

    def expand(self, text: str) -> str:
        # As `var_expand` of the shell, which looks at its caller's local names: here there are none a user could mean.
        try:
            filled: str = DollarFormatter().vformat(text, [], dict(self.names))
        except Exception:  # what cannot be filled in stays as it is
            return text
        return filled

    def show(self, view: View) -> None:
        self._shell.display_pub.publish(data=bundle(view))

    def show_widget(self, widget: Any, still: View | None = None, then: str = "") -> ShownWidget:
        return self.outputs.widget(widget, still, then)

    def live(self, view: View) -> Live:
        return self.outputs.live(view) if self.updates_in_place else _TerminalLive()

    def hidden(self, result: Any) -> Any:
        formatter, kind = self._shell.display_formatter.ipython_display_formatter, type(result)
        if formatter.type_printers.get(kind, self.skip_shown) != self.skip_shown:
            return None  # the user's own way to show these
        if kind not in formatter.type_printers:
            formatter.for_type(kind, self.skip_shown)
            self._hidden.append(kind)
        if self._ends_in_semicolon():
            self.mark_shown(result)
        return result

    def _ends_in_semicolon(self) -> bool:
        """Whether the running cell does: a result that is not its last expression is none that it shows."""
        last = self._cell.rstrip().rpartition("\n")[2]
        return any(part.rstrip().endswith(";") for part in (last, last.partition(" #")[0]))

    def cell_begins(self, info: Any) -> None:
        """Heard from the shell: `info` has the cell's text."""
        self._cell = str(info.raw_cell)

    def show_again(self) -> None:
        """Undo what `hidden` has done to the shell."""
        kinds, self._hidden = self._hidden, []
        for kind in kinds:
            self._shell.display_formatter.ipython_display_formatter.pop(kind, None)

    def mark_shown(self, record: object) -> None:
        self._shown = [(self._shell.execution_count, record)]

    def skip_shown(self, record: object) -> None:
        """Formatter that comes before all others: swallows what the running cell has shown already."""
        now = self._shell.execution_count
        if any(count == now and shown is record for count, shown in self._shown):
            self._shown.clear()
            return
        own = get_real_method(record, "_ipython_display_")
        if own is None:
            raise NotImplementedError  # IPython's sign for "not me": the other formatters get it
        own()


_ONE_LINE = 10_000  # columns: nothing wraps


class _TerminalLive:
    """One line of a terminal, overwritten; the last view is printed whole."""

    def update(self, view: View, *, last: bool = False) -> None:
        bars = [block for block in view.blocks if isinstance(block, Progress)]
        if last:
            sys.stdout.write(f"\r\x1b[K{to_text(view)}\n")
        elif bars:
            room = shutil.get_terminal_size().columns - 1  # a longer line would scroll, and could not be overwritten
            sys.stdout.write(f"\r\x1b[K{beginning(to_text(View(blocks=(bars[0],)), _ONE_LINE), room)}")
        sys.stdout.flush()


def _one_line(error: EsenError) -> str:
    notes = getattr(error, "__notes__", [])
    return visible_line(views.one_line(" ".join([f"{type(error).__name__}: {error}", *notes])))


def _show_as(error: BaseException, *lines: str) -> None:
    """Make `error` show as `lines` instead of a traceback; the cell still ends in an error, so Run All stops."""
    error._render_traceback_ = lambda: list(lines)  # type: ignore[attr-defined]


def _details(error: EsenError) -> Details | None:
    """The long part of an error: the worker's traceback and log, or where the user's own code raised."""
    if isinstance(error, WorkerError) and error.details():
        return Details(summary="The worker's traceback", text=error.details())
    cause = error.__cause__
    if isinstance(error, ModelError) and cause is not None:
        lines = [*_foreign_frames(cause.__traceback__), *traceback.format_exception_only(cause)]
        return Details(summary="Where it was raised", text="".join(lines).rstrip())
    return None


def _foreign_frames(tb: TracebackType | None) -> list[str]:
    frames = [frame for frame in traceback.extract_tb(tb) if not frame.filename.startswith(_PACKAGE + os.sep)]
    return traceback.format_list(frames)
