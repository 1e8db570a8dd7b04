#!/usr/bin/env bash
# Makes `.venv` with everything that the project's commands use, at the versions of constraints.txt.
#
#     tools/setup.sh                set up; what was there is brought up to date, an interrupted set-up is begun anew
#     tools/setup.sh --is-current   status 0 when `.venv` works and was made for this very folder
#
# PYTHON names the Python to use; else the first fit one of python3, python3.13, python3.12, python3.11.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.ready
unfinished=$venv/.unfinished
python=$venv/bin/python
here=$(pwd -P)

if [ "${1:-}" = --is-current ]; then
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$here" ] && "$python" -c '' 2>/dev/null
    exit
fi

fits() {  # Python 3.11 to 3.13, as pyproject.toml says
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

find_python() {
    local seen=()
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if fits "$candidate"; then
            command -v "$candidate"
            return
        fi
        seen+=("$candidate: $("$candidate" --version 2>&1 | head -n 1)")
        [ "$candidate" != "${PYTHON:-}" ] || break
    done
    {
        echo "esen_lab needs Python 3.11, 3.12 or 3.13, and none was found."
        [ ${#seen[@]} -eq 0 ] || printf '  there is %s\n' "${seen[@]}"
        echo "Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12;"
        echo "conda: conda env create -f environment.yml), or name it: make PYTHON=/path/to/python3.12 setup"
    } >&2
    return 1
}

if [ -L "$venv" ]; then  # making it anew would empty the folder that the link points to
    echo "$venv is a link to $(readlink -f "$venv"), which belongs to another checkout. Given: $here" >&2
    echo "Remove the link and set up again, or use $python as it is." >&2
    exit 1
fi

system_python=$(find_python)

rm -f "$stamp"
clear=""
# A set-up that broke off, a Python that is gone, a folder that was moved: nothing of it can be trusted.
if [ -e "$unfinished" ] || { [ -d "$venv" ] && ! "$python" -m pip --version >/dev/null 2>&1; }; then clear=--clear; fi
if [ -d "$venv" ] && [ "$(cat "$venv/.made_in" 2>/dev/null)" != "$here" ]; then clear=--clear; fi

if [ -n "$clear" ] || [ ! -d "$venv" ]; then
    echo "[1/3] Making $venv with $("$system_python" --version)"
    mkdir -p "$venv" && touch "$unfinished"
    if ! "$system_python" -m venv ${clear:+"$clear"} "$venv"; then
        echo "The module venv of $system_python does not work. On Debian and Ubuntu: apt install python3-venv" >&2
        touch "$unfinished"
        exit 1
    fi
    printf '%s\n' "$here" >"$venv/.made_in"
else
    echo "[1/3] $venv is there; bringing it up to date"
fi
touch "$unfinished"

pip() { "$python" -m pip --disable-pip-version-check --no-input install --constraint constraints.txt "$@"; }

# The build tools first: with them here, pip needs no build environment of its own with versions of its own.
echo "[2/3] Installing the build tools"
pip --quiet hatchling editables
echo "[3/3] Installing esen_lab and all it uses (a few minutes the first time; torch is the large one)"
pip --no-build-isolation --editable '.[dev]'

rm -f "$unfinished"
printf '%s\n' "$here" >"$stamp.new" && mv "$stamp.new" "$stamp"
echo "Set up: $("$python" --version) in $venv"
