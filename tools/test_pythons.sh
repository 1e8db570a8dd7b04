#!/usr/bin/env bash
# Runs the quick tests on the other Pythons that the project supports, where they are found.
#
#     tools/test_pythons.sh [VERSION ...]      3.12 and 3.13 unless told otherwise
#
# Each gets a virtual environment in a temporary folder, at the versions of constraints.txt: first without torch, which
# planning does without, then with it, which takes minutes to install. What cannot be installed (no network, no time) is
# said and is no failure; a test that fails is one. In all it takes LIMIT_S seconds at most (600).
set -uo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- 3.12 3.13
light=(cloudpickle cmaes hypothesis ipython msgspec numpy optuna pandas psutil pytest safetensors scipy)
ends=$((SECONDS + ${LIMIT_S:-600}))
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$PWD
status=0

find_python() {  # find_python VERSION: on PATH (a shim may be there and not work), or one of pyenv's
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

within() {  # within COMMAND...: ended when the time is up, with status 124
    local left=$((ends - SECONDS))
    [ "$left" -gt 0 ] || return 124
    timeout --kill-after=10 "$left" "$@"
}

try() {  # try VERSION "PACKAGES" ROOM...: the tests of these rooms, with these packages installed
    local python=$folder/$1/bin/python name="Python $1" packages=$2
    shift 2
    # shellcheck disable=SC2086  # the packages are words
    if ! within "$python" -m pip --no-input --quiet install --constraint constraints.txt $packages >"$folder/log" 2>&1; then
        echo "$name: could not be set up (no network, or no time left); not run: $*"
        grep -v '^WARNING' "$folder/log" | tail -n 2
        return
    fi
    within "$python" -m pytest -q -p no:cacheprovider -m "not slow and not timing and not browser" "$@"
    case $? in
        0) echo "$name: passed: $*" ;;
        124) echo "$name: no time left; not run to the end: $*" ;;
        *)
            echo "$name: FAILED: $*"
            status=1
            ;;
    esac
}

found=()
for version; do
    if ! python=$(find_python "$version"); then
        echo "Python $version: not found here; the tests were not tried on it."
    elif ! within "$python" -m venv "$folder/$version"; then
        echo "Python $version: could not be set up; the tests were not tried on it."
    else
        found+=("$version")
    fi
done
for version in ${found[@]+"${found[@]}"}; do try "$version" "${light[*]}" tests/planner tests/cost_model tests/files; done
for version in ${found[@]+"${found[@]}"}; do try "$version" torch tests/common tests/ensemble; done
exit "$status"
