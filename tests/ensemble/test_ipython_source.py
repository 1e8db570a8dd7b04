"""The same through a real IPython shell, whose cells and `__main__` are its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = r'''
import json, sys, types
from IPython.core.interactiveshell import InteractiveShell

main = types.ModuleType("__main__")
sys.modules["__main__"] = main
shell = InteractiveShell.instance(user_module=main, user_ns=main.__dict__)

def cell(text):
    result = shell.run_cell(text, store_history=True)
    result.raise_error()

cell("import torch\nfrom torch import nn\nimport torch.nn.functional as F")
cell("%time SCALE = 0.5")
cell("""
from dataclasses import dataclass

@dataclass
class Config:
    width: int = 6

class Block(nn.Module):
    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(4, config.width)

    def forward(self, x):
        return F.gelu(self.linear(x)) * SCALE
""")
cell("net = Block()")
cell("x = torch.randn(2, 4)")
ns = main.__dict__
from esen_lab.ensemble import CellSource, Ensemble, make_combine, make_submodel
from esen_lab.export import export_plan
from esen_lab.planner.plan import sequential_plan

CELL = "hidden = 5\nnn.Sequential(Block(Config(width=hidden)), nn.Linear(hidden, 6))"
cell("rule = lambda outputs: sum(outputs.values()) * SCALE")
live = make_submodel("live", ns["net"], ns["x"])
built = make_submodel("built", CellSource(text=CELL), ns["x"], namespace=ns)
ensemble = Ensemble(submodels=(live, built), combine=make_combine(ns["rule"]))
with __import__("torch").inference_mode():
    outputs = {s.name: s.build()(ns["x"]) for s in ensemble.submodels}
    answer = ensemble.combine(outputs)
    assert (ns["net"](ns["x"]) == outputs["live"]).all()
plan = sequential_plan(ensemble.names, 2, fingerprints=ensemble.fingerprints)
export_plan(plan, ensemble, sys.argv[1])
ns["numpy"] = __import__("numpy")
ns["numpy"].save(sys.argv[2], answer.numpy())
print(json.dumps([live.recipe.problem, live.notes, live.recipe.skeleton["source"]["text"]]))
'''

CHECK = """
import sys
import numpy, torch
from esen_lab.export import load_bundle
plan, ensemble = load_bundle(sys.argv[1])
with torch.inference_mode():
    found = ensemble.combine({s.name: s.build()(s.example) for s in ensemble.submodels})
assert (found.numpy() == numpy.load(sys.argv[2])).all()
assert "IPython" not in sys.modules
print("same")
"""


def python(program: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(Path(args[0]).parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_what_a_notebook_defines_is_rebuilt_without_it(tmp_path: Path) -> None:
    problem, notes, text = json.loads(python(PROGRAM, str(tmp_path / "plan.py"), str(tmp_path / "y.npy")))
    assert problem == ""
    assert notes == ["was in training mode; workers run it in eval mode"]
    assert "SCALE = 0.5" in text
    assert "class Config" in text
    assert python(CHECK, str(tmp_path / "plan_files"), str(tmp_path / "y.npy")) == "same"
