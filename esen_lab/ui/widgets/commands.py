"""What a page asks for, and the button that asks to stop a job.

Commands come through a comm of their own that the page opens and on which the kernel never sends. While a cell is
busy, ipykernel 7 reads such a comm (JupyterLab gives each comm target a subshell of its own); a comm on which the
kernel pushes it does not read then. Without subshells (ipykernel 6) commands go through the control channel, to the
same comm (`control.py`); a page that has no way to send there is heard when the cell is done.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import anywidget
import traitlets

from esen_lab.ui.widgets import control

TARGET = "esen_lab.commands"
SEND = """
const opened = new Map();
function commandsOf(model) { // early, while the kernel is free: opening is not read while a cell is busy
  const key = model.get("key");
  if (!opened.has(key)) opened.set(key, model.widget_manager._create_comm("esen_lab.commands", undefined, { key }));
  return opened.get(key);
}
async function command(model, content) {
  const comm = await commandsOf(model);
  const kernel = model.widget_manager.kernel;
  if (!model.get("control") || !kernel?.sendControlMessage) return comm.send(content);
  const header = {
    msg_id: crypto.getRandomValues(new Uint32Array(4)).join("-"),
    msg_type: "comm_msg",
    session: kernel.clientId,
    username: kernel.username,
    date: new Date().toISOString(),
    version: "5.3",
  };
  const message = { channel: "control", header, parent_header: {}, metadata: {}, buffers: [] };
  kernel.sendControlMessage({ ...message, content: { comm_id: comm.comm_id, data: content } }, false, true);
}
"""
_BUTTON = (
    SEND
    + """
export default {
  render({ model, el }) {
    commandsOf(model);
    const button = document.createElement("button");
    button.className = "esen-stop jp-mod-styled";
    button.textContent = model.get("text");
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Stopping…";
      await command(model, { kind: "stop" });
      setTimeout(() => {
        button.textContent = "Stops when the running cell is done (at once: interrupt the kernel, then %esen cancel)";
      }, 3000);
    });
    el.replaceChildren(button);
  },
};
"""
)

Act = Callable[[dict[str, Any]], object]
_acts: weakref.WeakValueDictionary[str, Commands] = weakref.WeakValueDictionary()


class Commands:
    """One widget's commands: `act` is called with each, from any thread.

    Attributes:
        key: What the page opens the comm with.
        control: Whether the page is to send on the control channel.
    """

    def __init__(self, act: Act) -> None:
        self.key = uuid4().hex
        self.control = control.hear(_acts)
        self._act = act
        _acts[self.key] = self
        with contextlib.suppress(Exception):  # without a kernel there is no page that could ask
            control.manager().register_target(TARGET, _open)

    def receive(self, content: object) -> None:
        """Take what a page sent."""
        if isinstance(content, dict):
            self._act(content)

    def close(self) -> None:
        """Hear no more; the last one takes the comm target with it."""
        _acts.pop(self.key, None)
        if not _acts:
            control.leave(_acts)
            with contextlib.suppress(Exception):
                control.manager().unregister_target(TARGET, _open)


def _open(comm: Any, message: dict[str, Any]) -> None:
    key = control.data_of(message).get("key")
    if not isinstance(key, str):  # nobody's, whatever it is
        with contextlib.suppress(Exception):
            comm.close()
        return

    def receive(sent: dict[str, Any]) -> None:
        found = _acts.get(key)
        if found is not None:
            found.receive(control.data_of(sent))

    comm.on_msg(receive)


class StopButton(anywidget.AnyWidget):
    """A button that calls `stop` once."""

    _esm = _BUTTON
    text = traitlets.Unicode("Stop").tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)
    control = traitlets.Bool(default_value=False).tag(sync=True)

    def __init__(self, stop: Callable[[], object]) -> None:
        self._commands = Commands(lambda content: stop() if content.get("kind") == "stop" else None)
        super().__init__(key=self._commands.key, control=self._commands.control)

    def close(self) -> None:
        """Take it from the page."""
        if hasattr(self, "_commands"):
            self._commands.close()
        super().close()
