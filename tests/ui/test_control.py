"""Commands on the control channel, with a double in place of the kernel; a real one is in the browser tests."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comm
import pytest

from esen_lab.ui.widgets import control
from esen_lab.ui.widgets.commands import Commands


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A double of a kernel without subshells."""
    double = SimpleNamespace(control_handlers={"shutdown_request": print})
    monkeypatch.setattr(control, "_kernel", lambda: double)
    return double


def test_a_kernel_with_subshells_needs_no_help(kernel: SimpleNamespace) -> None:
    kernel._supports_kernel_subshells = True
    assert not control.hear("me")
    assert set(kernel.control_handlers) == {"shutdown_request"}


def test_outside_a_kernel_nothing_is_heard_and_nothing_breaks() -> None:
    assert not control.hear("me")
    control.leave("me")


def test_the_last_owner_takes_the_handler_away(kernel: SimpleNamespace) -> None:
    first, second = object(), object()
    assert control.hear(first)
    assert control.hear(second)
    control.leave(first)
    assert "comm_msg" in kernel.control_handlers
    control.leave(second)
    assert set(kernel.control_handlers) == {"shutdown_request"}


def test_somebody_elses_handler_stays(kernel: SimpleNamespace) -> None:
    kernel.control_handlers["comm_msg"] = print
    assert not control.hear("me")
    control.leave("me")
    assert kernel.control_handlers["comm_msg"] is print


def test_a_message_there_reaches_the_comm_that_the_page_opened(
    kernel: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    commands = Commands(heard.append)
    assert commands.control
    opened: list[Callable[[dict[str, Any]], object]] = []
    page = SimpleNamespace(on_msg=opened.append)
    from esen_lab.ui.widgets.commands import _open

    _open(page, {"content": {"data": {"key": commands.key}}})
    manager = SimpleNamespace(comm_msg=lambda stream, ident, message: opened[0](message))
    monkeypatch.setattr(comm, "get_comm_manager", lambda: manager)
    kernel.control_handlers["comm_msg"](None, b"", {"content": {"comm_id": "c", "data": {"kind": "stop"}}})
    assert heard == [{"kind": "stop"}]
    monkeypatch.undo()
    commands.close()


@pytest.mark.parametrize(
    "odd", [None, {}, {"content": 5}, {"content": {"data": 5}}, {"content": {"data": {"key": []}}}]
)
def test_a_comm_that_is_opened_with_nonsense_is_hung_up_on(odd: Any) -> None:
    from esen_lab.ui.widgets.commands import _open

    page = SimpleNamespace(closed=False)
    page.close = lambda: setattr(page, "closed", True)
    _open(page, odd)
    assert page.closed
