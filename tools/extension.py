"""The JupyterLab extension's bundle: made from `extensions/esen-lab`, kept in `esen_lab/labextension`.

    python tools/extension.py build      make the bundle anew (needs Node 20 or newer; `jlpm` comes with JupyterLab)
    python tools/extension.py test       its unit tests and its formatting (says so and succeeds where there is no Node)
    python tools/extension.py check      whether the bundle was made from the sources that are here (needs no Node)

The bundle is committed, so that an installation from a clone needs no Node. What it was made from is written beside the
sources as one number, in BUILT_FROM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "extensions" / "esen-lab"
BUNDLE = ROOT / "esen_lab" / "labextension"
RECORD = SOURCE / "BUILT_FROM"
ASSETS = ROOT / "esen_lab" / "ui" / "assets"
QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"
MESSAGES = ROOT / "esen_lab" / "ui" / "panel" / "messages.json"
GENERATED = ("live.css", "live.js", "sections.ts")
# In the notebook these two come with the widget (`ui/widgets/commands.py`); a tab has one conversation for everything.
_LIVE_HEAD = """const child = (model, name) => model.widget_manager.get_model(model.get(name));
const command = (model, content) => content.kind === "resync" && model.ask(); // its rate is the tab's own
"""


_NETWORK = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "ECONNRESET", "EAI_AGAIN", "RequestError", "TimeoutError")


class UnreachableError(Exception):
    """The registry of npm cannot be reached."""


def sources() -> list[Path]:
    """The files that a bundle is made from."""
    own = [SOURCE / name for name in ("package.json", "yarn.lock", "tsconfig.json")]
    for folder, pattern in (("src", "*.ts"), ("style", "*"), ("schema", "*.json")):
        own += sorted(path for path in (SOURCE / folder).glob(pattern) if path.name not in GENERATED)
    return [*own, ASSETS / "live.js", ASSETS / "live.css", MESSAGES]


def digest() -> str:
    """One number for all sources."""
    found = hashlib.sha256()
    for path in sources():
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    found.update(json.dumps(quickstart(), sort_keys=True).encode())
    return found.hexdigest()


def quickstart() -> dict[str, object]:
    """The quickstart as a new notebook: its cells, without outputs."""
    notebook = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    cells = []
    for cell in notebook["cells"]:
        kept = {key: cell[key] for key in ("cell_type", "id", "source") if key in cell} | {"metadata": {}}
        if cell["cell_type"] == "code":
            kept |= {"outputs": [], "execution_count": None}
        cells.append(kept)
    return {
        "cells": cells,
        "metadata": {"kernelspec": notebook["metadata"]["kernelspec"]},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def node() -> str | None:
    """Node, if it is here."""
    return shutil.which("node")


def build() -> int:
    """Make the bundle; returns the exit status."""
    if node() is None:
        print("Building the extension needs Node 20 or newer (Debian: apt install nodejs).", file=sys.stderr)
        return 1
    install()
    shutil.rmtree(SOURCE / "lib", ignore_errors=True)
    shutil.rmtree(BUNDLE, ignore_errors=True)
    _generate()
    _run("jlpm", "build:lib")
    (SOURCE / "lib" / "live.js").write_text(
        _LIVE_HEAD + (ASSETS / "live.js").read_text(encoding="utf-8"), encoding="utf-8"
    )
    _run("jupyter-builder", "build", ".", "--core-package-file", _core())
    for left in (*BUNDLE.rglob("*.map"), BUNDLE / "build_log.json"):
        left.unlink(missing_ok=True)
    RECORD.write_text(digest() + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file())
    print(f"The bundle is in {BUNDLE.relative_to(ROOT)}: {size / 1000:.0f} kB in all")
    return 0


def test() -> int:
    """Run the unit tests; returns the exit status."""
    if node() is None:
        print("There is no Node here: the extension's unit tests were not run. (Debian: apt install nodejs)")
        return check()
    try:
        install()
    except UnreachableError as problem:
        print(f"The extension's unit tests were not run: the npm registry cannot be reached.\n{problem}")
        return check()
    _generate()
    _run("jlpm", "lint")
    _run("jlpm", "test")
    return check()


def check() -> int:
    """Compare the record with the sources; returns the exit status."""
    if RECORD.is_file() and RECORD.read_text(encoding="utf-8").strip() == digest():
        return 0
    print(
        "The extension's bundle was made from other sources than these. Make it anew: make extension", file=sys.stderr
    )
    return 1


def install() -> None:
    """Install what yarn.lock names, unless it is there."""
    lock = SOURCE / "yarn.lock"
    stamp = SOURCE / "node_modules" / ".installed_from"
    wanted = hashlib.sha256(lock.read_bytes() + (SOURCE / "package.json").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    done = subprocess.run(
        ["jlpm", "install", "--immutable"], cwd=SOURCE, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        printed = done.stdout + done.stderr
        if any(sign in printed for sign in _NETWORK):
            raise UnreachableError("\n".join(printed.splitlines()[-5:]))
        raise SystemExit(f"jlpm install failed with status {done.returncode}:\n{printed}")
    stamp.write_text(wanted, encoding="utf-8")


def _generate() -> None:
    """Put what comes from elsewhere in the project where the compiler looks for it."""
    (SOURCE / "src" / "quickstart.json").write_text(json.dumps(quickstart()), encoding="utf-8")
    shutil.copyfile(ASSETS / "live.css", SOURCE / "style" / "live.css")
    shutil.copyfile(MESSAGES, SOURCE / "src" / "messages.json")
    (SOURCE / "src" / "sections.ts").write_text(types(), encoding="utf-8")


def types() -> str:
    """The types of the panel's sections in TypeScript, from the schema that both sides check messages with."""
    schema = json.loads(MESSAGES.read_text(encoding="utf-8"))
    level = _type(schema["to_page"]["said"]["properties"]["level"])
    sections = _type({"type": "object", "required": [*schema["sections"]], "properties": schema["sections"]})
    told = [
        "/** From messages.json: tools/extension.py. */",
        f"export type Level = {level};",
        f"export type Sections = {sections};",
    ]
    return "\n\n".join(told) + "\n"


def _type(rule: dict[str, Any], indent: str = "") -> str:
    """A rule of the schema as a type: what may be missing is marked "?", what may be null says so."""
    kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    return " | ".join(_type_of_kind(kind, rule, indent) for kind in kinds)


def _type_of_kind(kind: str, rule: dict[str, Any], indent: str) -> str:
    if kind == "array":
        return f"Array<{_type(rule['items'], indent)}>"
    if kind == "string" and "enum" in rule:
        return " | ".join(json.dumps(word) for word in rule["enum"])
    if kind != "object":
        return {"integer": "number"}.get(kind, kind)
    below = indent + "  "
    properties = rule.get("properties", {})
    marks = {name: "" if name in rule.get("required", ()) else "?" for name in properties}
    lines = [f"{below}{name}{marks[name]}: {_type(each, below)};" for name, each in properties.items()]
    return "\n".join(["{", *lines, indent + "}"])


def _core() -> str:
    """What JupyterLab provides, in the oldest versions that this extension takes, not in the newest."""
    known = SOURCE / "node_modules" / "@jupyterlab" / "core-meta" / "core.package.json"
    core = json.loads(known.read_text(encoding="utf-8"))
    wanted = json.loads((SOURCE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for group in ("dependencies", "resolutions"):
        core[group] = {name: wanted.get(name, version) for name, version in core.get(group, {}).items()}
    made = SOURCE / "lib" / "core.package.json"
    made.write_text(json.dumps(core), encoding="utf-8")
    return str(made)


def _environment() -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)  # jlpm and jupyter-builder are installed beside this Python
    return {**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", "")])}


def _run(*command: str) -> None:
    try:
        subprocess.run(command, cwd=SOURCE, env=_environment(), check=True)
    except subprocess.CalledProcessError as failed:
        raise SystemExit(f"{' '.join(command)} failed with status {failed.returncode}") from None


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=("build", "test", "check"))
    sys.exit({"build": build, "test": test, "check": check}[words.parse_args().what]())
