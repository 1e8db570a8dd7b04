"""Execute the quickstart notebook without a browser and show what it found: what `make run` calls.

    python notebooks/run_quickstart.py [--out FOLDER] [--notebook FILE] [--cell-timeout SECONDS]

One line per cell with its title and how long it took. The executed notebook, the plan, the exported script and the
figures go to the folder. Ends with status 1, after the cell's own traceback, when a cell fails.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from esen_lab.common.units import format_percent, format_seconds

HERE = Path(__file__).resolve().parent
EXECUTED = "quickstart_executed.ipynb"
FIGURES = "quickstart.json"


def main(words: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description="Execute the quickstart notebook and show what it found.")
    parser.add_argument("--out", type=Path, default=HERE.parent / "out", help="where results go (default: out/)")
    parser.add_argument("--notebook", type=Path, default=HERE / "quickstart.ipynb", help="which notebook")
    parser.add_argument("--cell-timeout", type=float, default=600.0, metavar="S", help="seconds for one cell")
    given = parser.parse_args(words)
    if sys.stdout.encoding.lower().replace("-", "") != "utf8" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")  # the table has signs that a plain C locale cannot print
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for stale in (out / FIGURES, out / EXECUTED):
        stale.unlink(missing_ok=True)
    if not execute(given.notebook.resolve(), out, given.cell_timeout):
        return 1
    found = json.loads((out / FIGURES).read_text(encoding="utf-8"))
    print()
    print("\n".join(summary(found)))
    print()
    print("\n".join(places(found, out)))
    return 0


def execute(path: Path, out: Path, cell_timeout_s: float) -> bool:
    """Execute every cell of the notebook at `path`, saving it with its outputs in `out`; False when a cell failed."""
    notebook = nbformat.read(path, as_version=4)
    titles = cell_titles(notebook.cells)
    count = sum(cell.cell_type == "code" for cell in notebook.cells)
    number, started = 0, time.monotonic()

    def begin(cell: Any, cell_index: int) -> None:
        nonlocal number, started
        if cell.cell_type == "code":
            number, started = number + 1, time.monotonic()
            print(f"[{number:2}/{count}] {titles[cell_index]:<44} ", end="", flush=True)

    def end(**cell: Any) -> None:
        state = "" if cell["execute_reply"]["content"]["status"] == "ok" else "   FAILED"
        print(f"{time.monotonic() - started:6.1f} s{state}", flush=True)

    client = NotebookClient(
        notebook,
        timeout=cell_timeout_s,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=begin,
        on_cell_executed=end,
        store_widget_state=False,  # as JupyterLab does: BokehJS alone would be a megabyte
    )
    client.create_kernel_manager().kernel_spec_manager = ThisPython()
    print(f"Executing {path.name} ({count} cells)", flush=True)
    try:
        client.execute(env={**os.environ, "QUICKSTART_OUT": str(out)})
    except CellExecutionError as failure:
        print(f"\n{failure.traceback}", file=sys.stderr)
        return False
    except (CellTimeoutError, DeadKernelError) as failure:
        print(f"\n{failure}", file=sys.stderr)
        return False
    finally:
        nbformat.write(notebook, out / EXECUTED)
    return True


class ThisPython(KernelSpecManager):
    """The only kernel is this very Python, whatever else is installed under the name "python3"."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Its specification, under any name."""
        return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=ERROR"]), name=kernel_name)


def cell_titles(cells: Sequence[Any]) -> list[str]:
    """For each cell, the heading it stands under, without its marks."""
    titles, current = [], ""
    for cell in cells:
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            current = headings[0].lstrip("# ") if headings else current
        titles.append(current)
    return titles


def summary(found: Mapping[str, Any]) -> list[str]:
    """What the notebook found, as lines: accuracy, then the comparison table, then the verdict."""
    right, table = found["accuracy"], found["table"]
    lines = [
        f"Accuracy: best member ({right['best']}) {format_percent(right['members'][right['best']])}, "
        f"ensemble {format_percent(right['ensemble'])}",
        "",
        f"JCT on {table['batch']}, {table['device']}, {table['rounds']} rounds",
    ]
    lines += text_table(comparison_cells(table["rows"]))
    notes = [row["strategy"] + ": " + row["failed"] for row in table["rows"] if row["failed"]]
    lines += ["", "× X: the row's time divided by that of X, in the same rounds; below 1 is faster.", table["verdict"]]
    notes += [f"{row['strategy']}: {row['setting']}" for row in table["rows"] if row["setting"]]
    return lines + [f"- {note}" for note in [*notes, *table["notes"]]]


def comparison_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table as text cells, the heading first; columns for sequential running and for what was fastest."""
    right = [row for row in rows if row["strategy"] != "plan" and row["agrees"]]
    fastest = min(right, key=lambda row: row["median_s"], default={"strategy": "sequential"})
    others = list(dict.fromkeys(["sequential", fastest["strategy"]]))
    heading = ["strategy", "lanes (cores: sub-models)", "median", "spread"]
    heading += [f"× {name}" for name in others] + ["× bound", "outputs"]
    cells = [heading]
    for row in rows:
        ratios = [_ratio(row["ratio_to"].get(name)) for name in others]
        missing = "failed" if row["applicable"] else "not applicable"
        agreement = missing if row["failed"] else row["agreement"]
        times = [format_seconds(row["median_s"]), format_seconds(row["spread_s"])]
        cells.append([row["strategy"], row["lanes"] or "-", *times, *ratios, _ratio(row["ratio_to_bound"]), agreement])
    return cells


def text_table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to one width, a rule under the heading."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def places(found: Mapping[str, Any], out: Path) -> list[str]:
    """Where everything is, as lines."""
    script = out / found["script"]
    rows = [
        ("executed notebook", out / EXECUTED),
        ("plan", out / "plan.json"),
        ("exported script", script),
        ("figures", out / FIGURES),
    ]
    equal = "bit-equal to" if found["bit_equal"] else "NOT bit-equal to"
    return [
        *(f"{what + ':':<19}{path}" for what, path in rows),
        f"The exported script ran by itself; its answers are {equal} the notebook's.",
    ]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
