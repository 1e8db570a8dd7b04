#!/usr/bin/env bash
# Makes an environment with the servers that benchmarks/load/bench_rivals.py compares ours with: LitServe, FastAPI, Ray.
#
#     tools/rivals_env.sh [FOLDER]      ${XDG_CACHE_HOME:-~/.cache}/esen_lab/rivals unless told otherwise
#
# FOLDER/bin/python sees the packages of .venv too (torch). What cannot be had (no network, another system) is said and
# is no failure: its row of the table says so. It takes LIMIT_S seconds at most for each package (300). A real
# Triton is an environment of its own: tools/triton_env.sh.
set -uo pipefail
cd "$(dirname "$0")/.."

folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/esen_lab/rivals}
packages=("fastapi==0.163.2 uvicorn[standard]==0.54.0" "litserve==0.2.19" "ray[serve]==2.60.0")
mark=$folder/made_of
python=$PWD/.venv/bin/python
wanted="${packages[*]} $("$python" -c 'import sys; print(sys.version, sys.prefix)')"

[ "$(cat "$mark" 2>/dev/null)" = "$wanted" ] && exit 0

mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
"$python" -m venv "$folder" >/dev/null 2>&1 || { echo "rivals: no environment could be made in $folder"; exit 0; }
for each in "${packages[@]}"; do
    # shellcheck disable=SC2086  several in one line are several
    timeout --kill-after=10 "${LIMIT_S:-300}" "$folder/bin/python" -m pip --no-input --quiet install $each \
        >>"$folder/log" 2>&1 || { tail -n 2 "$folder/log"; echo "rivals: no $each"; }
done
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' >"$site/zz_base.pth"
echo "$wanted" >"$mark"
echo "rivals: servers in $folder"
