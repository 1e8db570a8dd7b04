"""pyproject.toml, constraints.txt, environment.yml and what the code imports say the same."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = {"": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}
# Modules whose distribution has another name.
DISTRIBUTION = {"IPython": "ipython", "pynvml": "nvidia-ml-py", "sklearn": "scikit-learn", "yaml": "pyyaml"}
DISTRIBUTION["opentelemetry"] = "opentelemetry-sdk"
DISTRIBUTION["traitlets"] = "ipython"  # how IPython is configured: a part of its interface
# The parts that work without Jupyter: they may import what a plain `pip install esen_lab` brings.
OUTSIDE_JUPYTER = (
    "common",
    "cost_model",
    "devices",
    "ensemble",
    "export",
    "files",
    "history",
    "lanes",
    "load",
    "planner",
    "profiler",
    "run",
    "studies",
)

# Groups for members of other kinds than networks, and for backends: imported when they are asked for.
KINDS = ("openvino", "onnx", "trees")
SERVING = ("serve", "ray")


def wanted() -> list[Requirement]:
    """Every requirement of every group, the project's own groups left out."""
    texts = [text for group in GROUPS.values() for text in group] + PROJECT["build-system"]["requires"]
    return [found for text in texts if canonicalize_name((found := Requirement(text)).name) != "esen-lab"]


def pins() -> dict[str, Version]:
    """The constraints, by canonical name."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text:
            name, exact, version = text.partition("==")
            assert exact, f"a constraint is NAME==VERSION, and this is none: {line!r}"
            found[canonicalize_name(name)] = Version(version)
    return found


def names_of(group: str) -> set[str]:
    """The distributions that `pip install esen_lab[group]` asks for, groups within groups included."""
    found: set[str] = set()
    for requirement in map(Requirement, GROUPS[group]):
        if canonicalize_name(requirement.name) == "esen-lab":
            found |= {name for extra in requirement.extras for name in names_of(extra)}
        else:
            found.add(canonicalize_name(requirement.name))
    return found | ({canonicalize_name(Requirement(text).name) for text in GROUPS[""]})


def foreign_imports(folder: Path) -> dict[str, str]:
    """Distributions that the Python files of a folder import, each with one file that does."""
    ours = {"esen_lab", *(path.stem for own in ("tests", "tools", "benchmarks") for path in (ROOT / own).rglob("*.py"))}
    found: dict[str, str] = {}
    for source in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for root in {module.partition(".")[0] for module in modules} - ours - sys.stdlib_module_names:
                found[canonicalize_name(DISTRIBUTION.get(root, root))] = str(source.relative_to(ROOT))
    return found


def test_torch_is_pinned_and_its_range_is_open() -> None:
    assert pins()["torch"] == Version("2.13.0")
    torch = next(found for found in wanted() if found.name == "torch")
    assert [str(version) in torch.specifier for version in ("2.8.0", "2.9.0", "2.13.0", "2.20.0")] == [
        False,
        *[True] * 3,
    ]


def test_python_3_11_to_3_13_are_supported() -> None:
    supported = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [version in supported for version in ("3.10.9", "3.11.0", "3.13.9", "3.14.0")] == [False, True, True, False]


@pytest.mark.parametrize("requirement", wanted(), ids=lambda found: found.name)
def test_every_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_dependencies_depend_on_is_pinned_too() -> None:
    known, seen, waiting = pins(), set(), [(found.name, found.extras) for found in wanted()]
    missing = []
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), frozenset(extras)) in seen:
            continue
        seen.add((canonicalize_name(name), frozenset(extras)))
        if canonicalize_name(name) not in known:
            missing.append(name)
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # not installed here: another system's, or a build tool
        waiting += [
            (needed.name, needed.extras)
            for needed in map(Requirement, texts)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        ]
    assert missing == []


def test_the_set_up_installed_what_is_pinned() -> None:
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("these tests do not run in .venv, and another environment is its owner's choice")
    # Only what lies in the environment: setuptools, once imported, shows packages that it carries inside itself too.
    here = [sysconfig.get_path("purelib")]
    found_here = metadata.distributions(path=here)
    installed = {canonicalize_name(found.metadata["Name"]): Version(found.version) for found in found_here}
    loose = {
        name: str(version)
        for name, version in installed.items()
        if name not in {"pip", "esen-lab"} and Version(version.public) != pins().get(name)
    }
    assert loose == {}


def test_conda_gets_the_same_set() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    # All packages come by pip under the same constraints; from conda only what pip cannot bring.
    assert by_pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert sorted(entry.partition("=")[0] for entry in plain) == ["make", "pip", "python"]
    python = next(entry for entry in plain if entry.startswith("python")).partition("=")[2]
    assert python in SpecifierSet(PROJECT["project"]["requires-python"])


def test_make_installs_the_same_set() -> None:
    script = (ROOT / "tools" / "setup.sh").read_text(encoding="utf-8")
    assert "--constraint constraints.txt" in script
    assert "--editable '.[dev]'" in script


def test_dev_contains_every_group_but_what_one_benchmark_compares_with() -> None:
    assert names_of("dev") >= {name for group in GROUPS if group != "bench" for name in names_of(group)}
    assert not names_of("dev") & {"transformers"}, "it is large, and no test needs it"


def test_what_runs_outside_jupyter_is_a_plain_dependency() -> None:
    imported = {
        name: file for part in OUTSIDE_JUPYTER for name, file in foreign_imports(ROOT / "esen_lab" / part).items()
    }
    imported.pop("optuna", None)  # one searcher of many, imported when it is asked for
    imported.pop("psutil", None)  # for watching only, imported when somebody watches
    imported.pop("nvidia-ml-py", None)  # so is this one, where there is an NVIDIA GPU
    imported.pop("pandas", None)  # for estimators that were fitted on its tables: whoever fitted them has it
    imported.pop("cuda", None)  # comes with a torch built for CUDA; green contexts say how to get it
    imported.pop("torch-tensorrt", None)  # a backend where somebody has installed it, which says so where nobody has
    plain = names_of("").union(*map(names_of, KINDS))  # the latter when a member of such a kind is registered
    assert {name: file for name, file in imported.items() if name not in plain} == {}


def test_what_the_package_imports_is_declared() -> None:
    imported = foreign_imports(ROOT / "esen_lab")
    imported.pop("pandas", None)  # optional: `to_frame` says how to get it
    imported.pop("cuda", None)  # comes with a torch built for CUDA; green contexts say how to get it
    imported.pop("torch-tensorrt", None)  # a backend where somebody has installed it, which says so where nobody has
    imported.pop("opentelemetry-sdk", None)  # spans, where somebody has installed it
    here = names_of("notebook").union(*map(names_of, KINDS + SERVING))
    assert {name: file for name, file in imported.items() if name not in here} == {}


@pytest.mark.parametrize("folder", ["tests", "tools", "notebooks", "benchmarks"])
def test_what_is_imported_around_it_is_declared(folder: str) -> None:
    imported = foreign_imports(ROOT / folder)
    for name in ("fastapi", "litserve"):
        imported.pop(name, None)  # servers to compare with, in an environment of their own: tools/rivals_env.sh
    imported.pop("a-package-of-layers", None)  # which a test writes
    declared = names_of("dev") | (names_of("bench") if folder == "benchmarks" else set())
    assert {name: file for name, file in imported.items() if name not in declared} == {}


def test_every_dependency_has_its_reason_in_the_design() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("## Dependencies")[2].partition("\n## ")[0]
    told = {line.split("|")[1].strip(" `") for line in table.splitlines() if line.startswith("| `")}
    assert told == {found.name for found in wanted()}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of a set-up in a folder with a space in its name."""
    folder = tmp_path / "a check out"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "setup.sh", folder / "tools")
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).write_text("")
    (folder / "bin").mkdir()
    return folder


def fake_python(checkout: Path, name: str, body: str) -> None:
    path = checkout / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# A Python whose venv is a folder, and whose pip writes down what it is told.
WORKING = """
case "$1 $2" in
  "--version "*) echo "Python 3.11.7" ;;
  "-m venv") shift 2; [ "$1" = --clear ] && { shift; rm -rf "$1"; }; mkdir -p "$1/bin"; cp "$0" "$1/bin/python" ;;
  "-m pip") echo "$@" >> pip.log; [ ! -e stop ] ;;
esac
"""


def make(checkout: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or f"{checkout / 'bin'}:{os.environ['PATH']}", "HOME": str(checkout)}
    words = ("make", *words)
    return subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=60, check=False)


def installs(checkout: Path) -> int:
    return (checkout / "pip.log").read_text().count("--editable .[dev]")


def test_an_old_python_is_refused_with_what_to_do(checkout: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        fake_python(checkout, name, 'case "$1" in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac')
    ran = make(checkout, "setup")
    assert ran.returncode != 0
    assert "esen_lab needs Python 3.11, 3.12 or 3.13" in ran.stderr
    assert "there is python3: Python 3.9.2" in ran.stderr
    assert "Install one" in ran.stderr


def test_a_set_up_is_made_once(checkout: Path) -> None:
    fake_python(checkout, "python3", WORKING)
    first, second = make(checkout, "setup"), make(checkout, "setup")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "[3/3]" in first.stdout
    assert "[1/3]" not in second.stdout
    assert installs(checkout) == 1


def test_an_interrupted_set_up_is_begun_anew(checkout: Path) -> None:
    fake_python(checkout, "python3", WORKING)
    (checkout / "stop").touch()
    broken = make(checkout, "setup")
    assert broken.returncode != 0
    assert not (checkout / ".venv" / ".ready").exists()
    (checkout / "stop").unlink()
    (checkout / ".venv" / "half").touch()
    assert make(checkout, "setup").returncode == 0
    assert not (checkout / ".venv" / "half").exists()


def test_an_environment_of_another_checkout_is_left_alone(checkout: Path, tmp_path: Path) -> None:
    fake_python(checkout, "python3", WORKING)
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    (checkout / ".venv").symlink_to(other)
    ran = make(checkout, "setup")
    assert ran.returncode != 0
    assert f"is a link to {other}" in ran.stderr
    assert (other / "kept").exists()


def test_new_constraints_are_installed(checkout: Path) -> None:
    fake_python(checkout, "python3", WORKING)
    make(checkout, "setup")
    later = (checkout / ".venv" / ".ready").stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (later, later))
    assert make(checkout, "setup").returncode == 0
    assert installs(checkout) == 2


def test_a_moved_checkout_is_set_up_again(checkout: Path) -> None:
    fake_python(checkout, "python3", WORKING)
    make(checkout, "setup")
    moved = checkout.rename(checkout.with_name("moved"))
    assert make(moved, "setup").returncode == 0
    assert installs(moved) == 2


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_every_pinned_version_may_be_installed_on_the_first_release_of_each_python(python: str) -> None:
    """A pin made on a late bugfix release must not shut out Debian's 3.11.2."""
    refused = []
    for name in pins():
        try:
            allowed = metadata.metadata(name).get("Requires-Python") or ""
        except metadata.PackageNotFoundError:
            continue  # of another system
        if not SpecifierSet(allowed).contains(python):
            refused.append(f"{name} needs Python {allowed}")
    assert not refused
