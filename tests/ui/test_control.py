"""Commands on the control channel, with a double in place of the kernel; a real one is in the browser tests."""

from __future__ import annotations

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


def test_a_message_there_reaches_the_widget_that_it_is_for(
    kernel: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[dict[str, Any]] = []
    commands = Commands(heard.append)
    assert commands.control
    manager = SimpleNamespace(
        comm_msg=lambda stream, ident, message: commands._handle_msg(message), unregister_comm=lambda comm: None
    )
    monkeypatch.setattr(comm, "get_comm_manager", lambda: manager)
    data = {"method": "custom", "content": {"kind": "stop"}}
    kernel.control_handlers["comm_msg"](None, b"", {"content": {"comm_id": "c", "data": data}, "buffers": []})
    assert heard == [{"kind": "stop"}]
    commands.close()
    assert "comm_msg" not in kernel.control_handlers


@pytest.mark.parametrize("odd", [None, 5, "stop", ["stop"]])
def test_what_is_no_command_is_dropped(odd: Any) -> None:
    heard: list[dict[str, Any]] = []
    commands = Commands(heard.append)
    commands.receive(odd)
    commands.close()
    assert heard == []
