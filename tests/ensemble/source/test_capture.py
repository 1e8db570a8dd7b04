from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from esen_lab.ensemble.source import capture_cell, capture_object, capture_objects
from esen_lab.ensemble.source.closure import Closure, run_closure
from esen_lab.errors import StoreError, UsageError

HEAD = "import math\nimport torch\nimport torch.nn as nn\nfrom torch.nn import functional as F\n"


def rebuilt(notebook: Any, name: str) -> Any:
    """The object `name` of the notebook, made again from its kept text alone."""
    kept = capture_object(notebook.names[name])
    saved = Closure.from_dict(json.loads(json.dumps(kept.closure.to_dict())))
    return run_closure(saved, "<kept>")[kept.name]


def text_of(notebook: Any, name: str) -> str:
    return capture_object(notebook.names[name]).closure.text


def test_a_class_comes_with_what_it_uses(notebook: Any) -> None:
    notebook.run(HEAD)
    notebook.run("WIDTH, SCALE = 4, 0.5\ndef squash(x):\n    return F.relu(x) * SCALE")
    notebook.run(
        "class Base(nn.Module):\n    depth = 2\n\n"
        "class Net(Base):\n"
        "    def __init__(self, width=WIDTH):\n        super().__init__()\n        self.one = nn.Linear(2, width)\n"
        "    def forward(self, x):\n        return squash(self.one(x)) + math.pi\n"
    )
    again = rebuilt(notebook, "Net")()
    module = notebook.names["Net"]()
    again.load_state_dict(module.state_dict())
    assert again.depth == 2
    x = torch.randn(3, 2)
    assert torch.equal(again(x), module(x))
    text = text_of(notebook, "Net")
    assert text.count("import") == 4 - 1, "torch itself is not used"
    assert "SCALE = 0.5" in text


def test_only_what_is_used_is_kept(notebook: Any) -> None:
    notebook.run("unused = 3\nused = 4\ndef f():\n    return used\nclass Unused: pass")
    assert "nused" not in text_of(notebook, "f").replace("used = 4", "").replace("return used", "")


def test_bases_decorators_and_defaults_come_before_what_needs_them(notebook: Any) -> None:
    notebook.run(
        "TABLE = {}\n"
        "def register(cls):\n    TABLE[cls.__name__] = cls\n    return cls\n"
        "def default():\n    return 5\n"
        "class Meta(type): pass\n"
        "class Root(metaclass=Meta):\n    def other(self):\n        return Leaf\n"
        "@register\nclass Leaf(Root):\n    size = [default() for _ in range(2)]\n"
        "    def get(self, n=default()):\n        return n"
    )
    # Root is asked for: its method names Leaf, which cannot be made before Root.
    names = run_closure(capture_object(notebook.names["Root"]).closure, "<kept>")
    assert names["Root"]().other()().get() == 5
    assert names["Leaf"].size == [5, 5]
    assert rebuilt(notebook, "Leaf")().get() == 5


def test_functions_that_call_each_other_are_both_kept(notebook: Any) -> None:
    notebook.run("def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)")
    assert rebuilt(notebook, "even")(10) is True


def test_classes_without_methods_are_found_too(notebook: Any) -> None:
    notebook.run("import enum, dataclasses, typing, collections")
    notebook.run(
        "class Mode(enum.Enum):\n    FAST = 1\n    SLOW = 2\n"
        "@dataclasses.dataclass(frozen=True)\nclass Config:\n    width: int = 3\n    mode: Mode = Mode.FAST\n"
        "class Pair(typing.NamedTuple):\n    a: int\n    b: int = 2\n"
        "Point = collections.namedtuple('Point', 'x y')\n"
        "T = typing.TypeVar('T')\nInts = list[int]\n"
        "def f(a: T, b: Ints = None):\n    return Config(), Pair(1), Point(3, 4)"
    )
    config, pair, point = rebuilt(notebook, "f")(1)
    assert (config.width, config.mode.name) == (3, "FAST")
    assert (*pair, *point) == (1, 2, 3, 4)


def test_of_several_versions_of_a_class_the_one_in_use_is_kept(notebook: Any) -> None:
    notebook.run("class A:\n    def f(self):\n        return 1")
    old = notebook.names["A"]
    notebook.run("class A:\n    def f(self):\n        return 2")
    assert rebuilt(notebook, "A")().f() == 2
    assert run_closure(capture_object(old).closure, "<kept>")["A"]().f() == 1
    with pytest.raises(UsageError, match="two different 'A'"):
        capture_objects([old, notebook.names["A"]])


def test_a_class_without_code_is_not_mistaken_for_another_of_its_name(notebook: Any) -> None:
    notebook.run("class A:\n    width = 3")
    kept = notebook.names["A"]
    notebook.run("if False:\n    class A:\n        height = 4")
    notebook.names["A"] = kept
    assert rebuilt(notebook, "A").width == 3


def test_lambdas_partials_and_aliases_are_kept(notebook: Any) -> None:
    notebook.run(
        "from functools import partial\nimport math\nadd = lambda a, b=2: a + b\ndef times(a, b): return a * b"
    )
    notebook.run("twice = partial(times, b=2); also = times; table = {'add': add, 'root': math.sqrt, 'twice': twice}")
    notebook.run("def f(x):\n    return [add(x), twice(x), also(x, 5), table['root'](x), table['twice'](x)]")
    assert rebuilt(notebook, "f")(4) == [6, 8, 20, 2.0, 8]


def test_two_lambdas_on_one_line_are_told_apart(notebook: Any) -> None:
    notebook.run("one, two = (lambda x: x + 1), (lambda x: x * 7)")
    assert rebuilt(notebook, "lambda_1") if "lambda_1" in notebook.names else True
    kept = capture_object(notebook.names["two"])
    assert run_closure(kept.closure, "<kept>")[kept.name](3) == 21


def test_decorated_functions_are_kept_whole(notebook: Any) -> None:
    notebook.run(
        "import functools\n"
        "def loud(f):\n    @functools.wraps(f)\n    def inner(*a):\n        return [f(*a)]\n    return inner\n"
        "def bare(f):\n    def inner(*a):\n        return {f(*a)}\n    return inner\n"
        "@loud\ndef one(x):\n    return x\n@bare\ndef two(x):\n    return x\n@functools.lru_cache\n"
        "def three(x):\n    return x\n"
        "def f(x):\n    return one(x), two(x), three(x)"
    )
    assert rebuilt(notebook, "f")(1) == ([1], {1}, 1)


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "True",
        "-3",
        "1.5",
        "float('inf')",
        "1j",
        "'quo\\'te\\n'",
        "b'\\x00'",
        "(1,)",
        "()",
        "[1, [2, (3, 'a')]]",
        "{'a': {1: 2}}",
        "frozenset({1, 2})",
        "set()",
        "slice(1, None)",
        "range(3)",
        "OrderedDict(a=1)",
        "torch.float16",
        "torch.device('cpu')",
        "torch.Size([1, 2])",
        "torch.channels_last",
        "torch.nn.ReLU",
        "[torch.relu, torch.nn.functional.gelu, len]",
        "numpy.float32(0.1)",
    ],
)
def test_plain_values_are_written_as_literals(notebook: Any, value: str) -> None:
    notebook.run(f"import torch, numpy\nfrom collections import OrderedDict\nV = {value}\ndef f():\n    return V")
    found = rebuilt(notebook, "f")()
    assert type(found) is type(notebook.names["V"])
    assert found == notebook.names["V"]


@pytest.mark.parametrize("value", ["torch.tensor([0.1, 1/3])", "numpy.array([[0.1, 1/3]])", "torch.tensor([True])"])
def test_small_arrays_are_written_exactly(notebook: Any, value: str) -> None:
    notebook.run(f"import torch, numpy\nV = {value}\ndef f():\n    return V")
    found = rebuilt(notebook, "f")()
    assert found.dtype == notebook.names["V"].dtype
    assert (found == notebook.names["V"]).all()


@pytest.mark.parametrize("value", ["object()", "torch.zeros(5000)", "torch.nn.Linear(1, 1)", "open", "print"])
def test_anything_else_is_named_with_who_uses_it(notebook: Any, value: str) -> None:
    notebook.run(f"import torch\nthing = {value}\ndef f():\n    return thing")
    if value in ("open", "print"):
        assert rebuilt(notebook, "f")() in (open, print)
        return
    with pytest.raises(UsageError, match=r"function f uses.*thing, of type"):
        capture_object(notebook.names["f"])


def test_what_only_a_notebook_has_is_refused(notebook: Any) -> None:
    notebook.run("def f(x):\n    display(x)\n    return x")
    with pytest.raises(UsageError, match="display, which only a notebook has"):
        capture_object(notebook.names["f"])


def test_what_is_made_inside_a_function_is_refused(notebook: Any) -> None:
    notebook.run("def make():\n    class Inner:\n        def f(self): return 1\n    return Inner\nmade = [make()]")
    with pytest.raises(UsageError, match=r"make\.<locals>\.Inner, which is defined inside a function"):
        capture_object(notebook.names["made"][0])


def test_a_function_from_a_factory_is_kept_by_its_assignment(notebook: Any) -> None:
    notebook.run(
        "def make(n):\n    def inner(x):\n        return x * n\n    return inner\ntriple = make(3)\n"
        "def f(x): return triple(x)"
    )
    assert rebuilt(notebook, "f")(2) == 6


def test_text_that_is_gone_is_said_to_be_gone() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("class Lost:\n    def f(self): pass", names)
    with pytest.raises(UsageError, match=r"Lost \(type Lost\), for which there is no text"):
        capture_object(names["Lost"])


def test_modules_that_cannot_be_imported_are_refused(notebook: Any) -> None:
    notebook.run("import types\nhand = types.ModuleType('hand_made')\ndef f():\n    return hand")
    with pytest.raises(UsageError, match="hand = hand_made"):
        capture_object(notebook.names["f"])


def test_submodules_reached_through_their_package_are_imported(notebook: Any) -> None:
    notebook.run(
        "import xml.dom.minidom\nimport os\ndef f():\n    return xml.dom.minidom.Node.ELEMENT_NODE, os.path.sep"
    )
    assert "import xml.dom.minidom" in text_of(notebook, "f")
    assert rebuilt(notebook, "f")() == (1, "/")


def test_names_that_nobody_has_are_left_alone(notebook: Any) -> None:
    notebook.run("def f(x):\n    return undefined_thing(x) if x else 0")
    assert rebuilt(notebook, "f")(0) == 0


def test_postponed_annotations_stay_postponed(notebook: Any) -> None:
    notebook.run(
        "from __future__ import annotations\nclass A:\n    def f(self, x: Unknown = 1) -> Later:\n        return x"
    )
    assert rebuilt(notebook, "A")().f() == 1


def test_a_definition_inside_an_if_is_kept(notebook: Any) -> None:
    notebook.run("if True:\n    def f():\n        return '''a\n  b'''\n")
    assert rebuilt(notebook, "f")() == "a\n  b"


def test_strings_and_comments_in_a_class_stay_as_they_were(notebook: Any) -> None:
    notebook.run("class A:\n    # why\n    text = '''x\n  y'''  # é\n    def f(self): return self.text  # end")
    assert "# why" in text_of(notebook, "A")
    assert rebuilt(notebook, "A")().f() == "x\n  y"


# --- cells ----------------------------------------------------------------------------------------------------------


def test_a_cell_takes_only_what_it_does_not_bind_first(notebook: Any) -> None:
    notebook.run("import torch\nwidth = 3\ndepth = 9\nheavy = object()\ndef helper(x): return x + width")
    cell = "depth = 2\nheavy = [helper(i) for i in range(depth)]\nwidth = width + 1\nresult = (heavy, width)\n"
    kept = capture_cell(cell, notebook.names, "the cell")
    assert "depth" not in kept.text
    assert "heavy" not in kept.text
    names = run_closure(kept, "<kept>")
    exec(cell, names)
    assert names["result"] == ([3, 4], 4)


def test_a_function_of_the_cell_may_use_what_the_cell_binds_later(notebook: Any) -> None:
    notebook.run("late = object()")
    assert capture_cell("def f():\n    return late\nlate = 1\nf()", notebook.names, "the cell").text == ""


def test_a_counter_of_the_notebook_is_taken(notebook: Any) -> None:
    notebook.run("n = 3")
    assert capture_cell("n += 1", notebook.names, "the cell").text == "n = 3\n"


def test_a_cell_that_is_not_python_is_refused(notebook: Any) -> None:
    for cell in ("!pip install x", "%time x", "def f(:", "await thing()"):
        with pytest.raises(UsageError, match="plain Python"):
            capture_cell(cell, notebook.names, "the cell of 'a'")


def test_a_cell_that_uses_a_live_object_names_it(notebook: Any) -> None:
    notebook.run("from torch import nn\ntrained = nn.Linear(1, 1)")
    with pytest.raises(UsageError, match=r"cell of 'a' uses.*trained, of type torch.nn.modules.linear.Linear"):
        capture_cell("nn.Sequential(trained)", notebook.names, "the cell of 'a'")


def test_saved_source_must_be_saved_source() -> None:
    for data in (None, [], {}, {"text": 3}):
        with pytest.raises(StoreError):
            Closure.from_dict(data)
