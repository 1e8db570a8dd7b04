#!/usr/bin/env bash
# Makes an environment with a real Triton server on the CPU and its client, for the tests of docs/triton.md.
#
#     tools/triton_env.sh [FOLDER]      ${XDG_CACHE_HOME:-~/.cache}/esen_lab/triton unless told otherwise
#
# The wheel nvidia-pytriton carries the server and its Python backend. FOLDER/bin/tritonserver starts it; models run in
# FOLDER/bin/python3, which sees the packages of .venv too. What cannot be had (no network, another system) is said and
# is no failure: the tests that need it are skipped. In all it takes LIMIT_S seconds at most (300).
set -uo pipefail
cd "$(dirname "$0")/.."

folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/esen_lab/triton}
packages=("nvidia-pytriton==0.7.0" "tritonclient[http]==2.73.0")
mark=$folder/made_of
python=$PWD/.venv/bin/python
wanted="${packages[*]} $("$python" -c 'import sys; print(sys.version, sys.prefix)')"

[ "$(cat "$mark" 2>/dev/null)" = "$wanted" ] && exit 0

skip() {
    echo "Triton: $1; its tests will be skipped."
    exit 0
}

[ "$(uname -sm)" = "Linux x86_64" ] || skip "there is no wheel for $(uname -sm)"
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
"$python" -m venv "$folder" >/dev/null 2>&1 || skip "no environment could be made in $folder"
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
timeout --kill-after=10 "${LIMIT_S:-300}" "$folder/bin/python" -m pip --no-input --quiet install "${packages[@]}" \
    >"$folder/log" 2>&1 || { tail -n 2 "$folder/log"; rm -rf "$folder"; skip "the server could not be installed"; }
"$python" -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' >"$site/zz_base.pth"

server=$site/pytriton/tritonserver
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ -d "$server/python_backend_stubs/$version" ] || { rm -rf "$folder"; skip "it has no backend for Python $version"; }
cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"
chmod +x "$server/backends/python/triton_python_backend_stub"
cat >"$folder/bin/tritonserver" <<END
#!/usr/bin/env bash
export PATH="$folder/bin:\$PATH"
export LD_LIBRARY_PATH="$site/nvidia_pytriton.libs\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$server/bin/tritonserver" --backend-directory="$server/backends" "\$@"
END
chmod +x "$folder/bin/tritonserver"
echo "$wanted" >"$mark"
echo "Triton: a server in $folder"
