"""The notebooks about tuning and about planning, executed; what they leave is what GitHub can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"


class ThisPython(KernelSpecManager):
    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict(), name=kernel_name)


def execute(name: str, timeout_s: int = 300) -> list[Any]:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    before = len(nbformat.writes(notebook))
    client = NotebookClient(
        notebook, timeout=timeout_s, record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.create_kernel_manager().kernel_spec_manager = ThisPython()
    client.execute()
    notebook.metadata.pop("widgets", None)  # what JupyterLab leaves out, unless told otherwise
    assert len(nbformat.writes(notebook)) - before < 50_000
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cells: list[Any]) -> str:
    outputs = [output for cell in cells for output in cell.outputs]
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def kinds(cells: list[Any]) -> set[str]:
    return {kind for cell in cells for output in cell.outputs for kind in output.get("data", {})}


@pytest.mark.slow  # measures three networks at every share
def test_the_editor_notebook_moves_pins_applies_and_measures() -> None:
    cells = execute("tuning.ipynb")
    told = text(cells)
    for words in ("predicted JCT", "still pinned: True", "measured JCT", "Run: JCT", "Saved to"):
        assert words in told
    assert "application/vnd.jupyter.widget-view+json" not in kinds(cells), "saved notebooks hold no widgets"
    assert "when board and sliders were open" in told
    assert "data:image/svg+xml" in str(cells)


def test_the_planning_notebook_needs_no_gpu_and_names_its_source() -> None:
    cells = execute("planning_for_a_gpu.ipynb")
    told = text(cells)
    for words in (
        "one after another",
        "Plan editor:",
        "recorded by MuxServe",
        "lanes that rest on extrapolation",
        "bytes",
    ):
        assert words in told
    assert "application/vnd.jupyter.widget-view+json" in kinds(cells)


@pytest.mark.slow  # trains eight networks on two data sets, profiles and runs them: about two minutes
def test_the_notebook_of_accuracy_and_time_runs_cascades_and_keeps_deadlines() -> None:
    cells = execute("accuracy_and_time.ipynb", timeout_s=900)
    told = text(cells)
    for words in (
        "together",
        "of test pictures, ",
        "rows came",
        "full plan",
        "(top-1)",
        "Thresholds of a cascade",
        "weights were selected on the other",
        " ms: ",
    ):
        assert words in told
    assert "data:image/svg+xml" in str(cells)


@pytest.mark.parametrize("name", ["tuning.ipynb", "planning_for_a_gpu.ipynb", "accuracy_and_time.ipynb"])
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
