"""What a page asks for, and the button that asks to stop a job.

Commands come through a hidden widget of their own. While a cell is busy, kernels read no comm of a widget: so the page
sends on the control channel, to the same comm (`control.py`), where it has a way to send there (JupyterLab and Notebook
7 have); elsewhere a command is heard when the cell is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets
from ipywidgets import widget_serialization

from esen_lab.ui.widgets import control

CHILD = """
function child(model, name) { // a widget that another one refers to
  return model.widget_manager.get_model(model.get(name).replace("IPY_MODEL_", "").replace("anywidget:", ""));
}
"""
SEND = (
    CHILD
    + """
async function command(model, content) {
  const hidden = await child(model, "commands");
  const kernel = model.widget_manager.kernel;
  if (!hidden.get("control") || !hidden.comm || !kernel?.sendControlMessage) return hidden.send(content);
  const header = {
    msg_id: crypto.getRandomValues(new Uint32Array(4)).join("-"),
    msg_type: "comm_msg",
    session: kernel.clientId,
    username: kernel.username,
    date: new Date().toISOString(),
    version: "5.3",
  };
  const message = { channel: "control", header, parent_header: {}, metadata: {}, buffers: [] };
  const data = { method: "custom", content };
  kernel.sendControlMessage({ ...message, content: { comm_id: hidden.comm.comm_id, data } }, false, true);
}
"""
)
_BUTTON = (
    SEND
    + """
export default {
  render({ model, el }) {
    const button = document.createElement("button");
    button.className = "esen-stop jp-mod-styled";
    button.textContent = model.get("text");
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Stopping…";
      await command(model, { kind: "stop" });
      setTimeout(() => {
        button.textContent = "Stops when the running cell is done (at once: interrupt the kernel first)";
      }, 3000);
    });
    el.replaceChildren(button);
  },
};
"""
)

Act = Callable[[dict[str, Any]], object]


class Commands(anywidget.AnyWidget):
    """What one widget is asked: `act` is called with each command, from any thread. It shows nothing.

    Attributes:
        control: Whether the page is to send on the control channel.
    """

    _esm = "export default {}"
    control = traitlets.Bool(default_value=False).tag(sync=True)

    def __init__(self, act: Act) -> None:
        self._act = act
        super().__init__(control=control.hear(self))
        self.on_msg(lambda _widget, content, _buffers: self.receive(content))

    def receive(self, content: object) -> None:
        """Take what a page sent."""
        if isinstance(content, dict):
            self._act(content)

    def close(self) -> None:
        """Hear no more."""
        control.leave(self)
        super().close()


class StopButton(anywidget.AnyWidget):
    """A button that calls `stop` once."""

    _esm = _BUTTON
    text = traitlets.Unicode("Stop").tag(sync=True)
    commands = traitlets.Instance(Commands).tag(sync=True, **widget_serialization)

    def __init__(self, stop: Callable[[], object]) -> None:
        super().__init__(commands=Commands(lambda content: stop() if content.get("kind") == "stop" else None))

    def close(self) -> None:
        """Take it from the page."""
        if self.comm is not None:  # a widget's end comes here too where it never began
            self.commands.close()
        super().close()
