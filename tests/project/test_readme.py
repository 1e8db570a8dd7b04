"""What the README and its companions promise is there, and nothing of a particular machine is in any file."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))

# Written in pieces, so that this file holds none of them.
PACKAGE_INDEXES = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "download.py" + "torch.org",
    "npmjs" + ".org",
    "anaconda" + ".org",
]
HOMES = re.compile(r"(?<![\w.])/(?:ho" + r"me|Us" + r"ers|ro" + r"ot|wo" + r"rk)/[\w.-]+")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tracked_files() -> list[Path]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_readme_opens_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md", "bash")[0]
    assert [line.partition("#")[0].strip() for line in first.splitlines()] == ["make run", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join([*blocks(page, "bash"), *re.findall(r"`(make [^`]+)`", text)])
    assert set(re.findall(r"^\s*make ([a-z-]+)", code, re.MULTILINE)) <= TARGETS


def test_make_lists_every_command() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"^make ([a-z-]+)", shown.stdout, re.MULTILINE)) == TARGETS - {"help"}


def test_the_ci_runs_lint_and_every_test() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert {"make lint", "make test-extension", "make test-all", "make test-pythons"} <= set(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_the_planning_example_runs() -> None:
    (block,) = [block for block in blocks(ROOT / "README.md", "python") if "allocate" in block]
    names: dict[str, object] = {}
    exec(block, names)
    assert sum(units for units, _ in names["found"].lanes) <= 4  # type: ignore[attr-defined]


def test_the_magics_of_the_tour_are_verbs() -> None:
    from esen_lab.ui.magics.verbs import VERBS

    used = set(re.findall(r"%esen ([a-z]+)", README))
    assert used <= set(VERBS)


def test_the_magics_of_the_quickstart_are_verbs() -> None:
    from esen_lab.ui.magics.verbs import VERBS

    cells = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    used = set(re.findall(r"%esen ([a-z]+)", source))
    assert used >= {"model", "register", "profile", "search", "run", "compare", "save", "load", "export"}
    assert used <= set(VERBS)


def test_the_quickstart_is_kept_without_outputs() -> None:
    cells = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert lost == []


def test_the_structure_names_every_part() -> None:
    told = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    parts = {
        f"`esen_lab/{path.name}`" if path.is_file() else f"`esen_lab/{path.name}/`"
        for path in (ROOT / "esen_lab").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"`esen_lab/__main__.py`"}
    assert {part for part in parts if part not in told} == set()


@pytest.mark.parametrize("name", ["structure.md", "glossary.md"])
def test_the_files_that_structure_and_glossary_name_are_there(name: str) -> None:
    """A name stands below the checkout, the package, or what its row is about."""
    lost = []
    told = (ROOT / "docs" / name).read_text(encoding="utf-8").partition("## For those who knew")[0]
    for line in told.splitlines():
        row = re.match(r"\| `([\w./-]+)`", line)
        about = [ROOT / row[1], (ROOT / row[1]).parent] if row else []
        files = re.findall(r"`([\w./-]+\.(?:py|json|md|ts|sh|js))`", line)
        homes = (ROOT, ROOT / "esen_lab", *about)
        lost += [file for file in files if not any((home / file).is_file() for home in homes)]
    assert lost == []


def test_decisions_are_numbered_and_in_the_overview() -> None:
    assert [path.name[:5] for path in DECISIONS] == [f"{n:04}-" for n in range(1, len(DECISIONS) + 1)]
    overview = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert [path.name for path in DECISIONS if f"(decisions/{path.name})" not in overview] == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name[:4])
def test_a_decision_says_what_led_to_it_and_what_was_rejected(page: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0].startswith(page.name[:5].rstrip("-") + " ")
    assert headings[1:] == ["Context", "Choice", "Rejected", "Consequence"]


def test_no_file_names_a_package_index() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked_files()
        for host in PACKAGE_INDEXES
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_no_file_names_a_folder_of_somebody_s_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in HOMES.findall(text)]
    assert found == []
