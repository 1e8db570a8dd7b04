"""`Out[3]:` in terminals, written only where something follows it.

IPython's hook for results writes the prompt first and asks then what there is to show. A record that its own verb has
shown already (`skip_shown`) would leave an empty `Out[3]:` under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXT = "text/plain"


class LatePrompt:
    """The prompt of one terminal; kernels have none, and stay as they are."""

    def __init__(self, shell: Any) -> None:
        hook = shell.displayhook
        self._hook = None if hasattr(shell, "kernel") or not hasattr(hook, "write_output_prompt") else hook

    def install(self) -> None:
        """Write it late from now on."""
        if self._hook is None:
            return
        prompt, write = self._hook.write_output_prompt, self._hook.write_format_data

        def with_prompt(formats: Mapping[str, Any], *rest: Any) -> None:
            if _TEXT in formats:
                prompt()
            write(formats, *rest)

        self._hook.write_output_prompt = lambda: None
        self._hook.write_format_data = with_prompt

    def uninstall(self) -> None:
        """As before."""
        for name in ("write_output_prompt", "write_format_data"):
            if self._hook is not None:
                vars(self._hook).pop(name, None)
