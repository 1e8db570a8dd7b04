"""A notebook to test against: cells run in a `__main__` of its own, their text kept in linecache as IPython does."""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest


class FakeNotebook:
    """Runs cells one after another in one namespace that no other process can import."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.names: dict[str, Any] = self.module.__dict__
        self.names["In"] = [""]
        self._files: list[str] = []

    def run(self, text: str) -> dict[str, Any]:
        filename = f"<fake-notebook-cell-{id(self)}-{len(self._files)}>"
        self._files.append(filename)
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        self.names["In"].append(text)
        exec(compile(text, filename, "exec", dont_inherit=True), self.names)
        return self.names

    def forget(self) -> None:
        for filename in self._files:
            linecache.cache.pop(filename, None)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNotebook]:
    fake = FakeNotebook()
    monkeypatch.setitem(sys.modules, "__main__", fake.module)
    yield fake
    fake.forget()
