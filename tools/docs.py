"""Build the documentation site: what `make docs` calls. Every warning is an error; nothing is fetched.

    python tools/docs.py [--out FOLDER] [--no-run]

The tutorial is the quickstart notebook as it was executed last (`out/quickstart_executed.ipynb`, made by `make run`);
where that is missing or older than the notebook, it is executed first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from docs_notebook import page_of  # noqa: E402  found in the path that was just set
from docs_pages import LostPageError, copy_pages, fit, site_pages  # noqa: E402
from docs_reference import command_line_page, magics_page  # noqa: E402

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
EXECUTED = "quickstart_executed.ipynb"


def main(words: list[str]) -> int:
    """Build it; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out", help="the site is in its folder docs/html (default: out/)"
    )
    parser.add_argument("--no-run", action="store_true", help="never execute the quickstart: show its cells alone")
    given = parser.parse_args(words)
    out = given.out.resolve()
    executed = out / EXECUTED
    if not given.no_run and not is_current(executed, NOTEBOOK):
        print("The tutorial's notebook is executed first:", flush=True)
        ran = subprocess.run([sys.executable, NOTEBOOK.parent / "run_quickstart.py", "--out", out], check=False)
        if ran.returncode:
            return ran.returncode
    source, html = out / "docs" / "source", out / "docs" / "html"
    shutil.rmtree(out / "docs", ignore_errors=True)
    source.parent.mkdir(parents=True)
    try:
        copy_pages(source)
    except LostPageError as problem:
        print(problem, file=sys.stderr)
        return 1
    (source / "tutorial.md").write_text(tutorial(executed), encoding="utf-8")
    (source / "reference" / "magics.md").write_text(magics_page(), encoding="utf-8")
    (source / "reference" / "command_line.md").write_text(command_line_page(), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    built = subprocess.run([*command, "--builder", "html", source, html], env=environment, check=False)
    if built.returncode == 0:
        print(f"The site is in {html}: open {html / 'index.html'}")
    return built.returncode


def is_current(executed: Path, notebook: Path) -> bool:
    """Whether an executed notebook is there, and of this very one: the same cells."""
    try:
        ours, theirs = (json.loads(path.read_text(encoding="utf-8"))["cells"] for path in (notebook, executed))
    except (OSError, ValueError, KeyError):
        return False
    return [cell["source"] for cell in ours] == [cell["source"] for cell in theirs]


def tutorial(executed: Path) -> str:
    """The tutorial, with outputs where the notebook was executed."""
    path = executed if is_current(executed, NOTEBOOK) else NOTEBOOK
    head = (
        "*This page is `notebooks/quickstart.ipynb` as it was executed when the site was built. "
        "Live plots and sliders need a kernel: `make lab` opens it in JupyterLab.*"
        if path is executed
        else "*This page is `notebooks/quickstart.ipynb`, not executed.*"
    )
    page = page_of(json.loads(path.read_text(encoding="utf-8")), head)
    return fit(page, NOTEBOOK, "tutorial.md", site_pages())


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"  # help is wrapped alike wherever the site is built
    sys.exit(main(sys.argv[1:]))
