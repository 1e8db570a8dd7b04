from __future__ import annotations

import math
import xml.dom.minidom
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from esen_lab.ensemble.origin import deepest, import_path, is_importable


@pytest.mark.parametrize(
    ("thing", "path"),
    [
        (nn.Linear, "torch.nn.modules.linear:Linear"),
        (functional.relu, "torch.nn.functional:relu"),
        (functional.gelu, "torch.nn.functional:gelu"),
        (torch.relu, "torch:relu"),
        (math.sqrt, "math:sqrt"),
        (len, "builtins:len"),
        (OrderedDict, "collections:OrderedDict"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_where_a_thing_can_be_imported_from(thing: Any, path: str) -> None:
    assert import_path(thing) == path


def test_what_is_local_or_bound_has_no_path(notebook: Any) -> None:
    notebook.run("class A: pass\ndef f(): pass")
    for thing in (notebook.names["A"], notebook.names["f"], lambda: 1, nn.Linear(1, 1).forward, 3, "text"):
        assert import_path(thing) == ""


def test_the_notebook_itself_cannot_be_imported(notebook: Any) -> None:
    assert is_importable(torch)
    assert not is_importable(notebook.module)


def test_the_deepest_module_on_a_dotted_way() -> None:
    assert deepest(xml, ["dom", "minidom", "Node"]) == "xml.dom.minidom"
    assert deepest(torch, ["float32"]) == "torch"
