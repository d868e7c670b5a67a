#!/usr/bin/env bash
# Sets up edgeface on a Jetson with JetPack 6.1, 6.2 or 7.x. Run it again at any time: it does what is left to do.
#
#   sudo jetson/setup.sh              set up in /opt/edgeface
#   jetson/setup.sh --check           say what is left to do, change nothing; exit code 1 when something is
#   sudo jetson/setup.sh --service    set up, and install the system service as well (it is not started)
#
# Options: --prefix FOLDER (default /opt/edgeface), --root FOLDER (take the system's files from there; for tests).
set -euo pipefail

prefix=/opt/edgeface
root=
check=0
service=0
while [ $# -gt 0 ]; do
    case $1 in
        --check) check=1 ;;
        --service) service=1 ;;
        --prefix) prefix=${2:?--prefix needs a folder}; shift ;;
        --root) root=${2:?--root needs a folder}; shift ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "setup.sh: unknown option $1; --help lists them" >&2; exit 2 ;;
    esac
    shift
done
here=$(cd "$(dirname "$0")" && pwd)
venv=$prefix/venv
left=0

say() { printf '%s\n' "$*"; }
fail() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }
done_already() { say "ok    $1"; }
# todo WHAT COMMAND...: run it, or with --check only say that it would be run.
todo() {
    local what=$1
    shift
    if [ "$check" = 1 ]; then
        say "to do $what"
        left=1
    else
        say "doing $what"
        "$@" || fail "$what: this failed: $*"
    fi
}

jetpack_version() {
    local status=$root/var/lib/dpkg/status release=$root/etc/nv_tegra_release version
    version=$(awk '/^Package: nvidia-jetpack$/ {found = 1} found && /^Version: / {print $2; exit} /^$/ {found = 0}' \
        "$status" 2>/dev/null || true)
    if [ -z "$version" ] && [ -r "$release" ]; then
        case $(sed -n 's/.*R\([0-9]*\).*REVISION: \([0-9.]*\).*/\1.\2/p' "$release" | head -n 1) in
            36.4.0) version=6.1 ;;
            36.4*) version=6.2 ;;
            38.*) version=7.0 ;;
        esac
    fi
    say "${version%%[+-]*}"
}

board() {
    [ -r "$root/etc/nv_tegra_release" ] || [ -r "$root/var/lib/dpkg/status" ] || fail "no system in ${root:-/}"
    jetpack=$(jetpack_version)
    case $jetpack in
        6.1* | 6.2* | 7.*) done_already "JetPack $jetpack" ;;
        "") fail "no JetPack found: /etc/nv_tegra_release names no known release and the package nvidia-jetpack is not
installed. On a Jetson: sudo apt install nvidia-jetpack. On any other machine: python3 -m pip install '.[host]' in edgeface's folder" ;;
        *) fail "JetPack $jetpack: edgeface needs 6.1, 6.2 or 7.x; flash the board with one of them" ;;
    esac
}

installed() {
    awk -v name="$1" '/^Package: / {p = $2} /^Status: / && p == name && /ok installed/ {found = 1} END {exit !found}' \
        "$root/var/lib/dpkg/status" 2>/dev/null
}

# JetPack's own packages, and what pycuda's build wants. libnvinfer's Python package is JetPack's TensorRT.
system_packages() {
    local missing=() name
    for name in python3-venv python3-dev g++ python3-libnvinfer python3-opencv; do
        # JetPack's OpenCV is one package with the bindings in it; Ubuntu's is split.
        if [ "$name" = python3-opencv ] && installed libopencv-python; then continue; fi
        installed "$name" || missing+=("$name")
    done
    if [ ${#missing[@]} = 0 ]; then
        done_already "system packages"
    else
        todo "system packages: ${missing[*]}" apt-get install -y --no-install-recommends "${missing[@]}"
    fi
    cuda=$root/usr/local/cuda
    [ -x "$cuda/bin/nvcc" ] || fail "no CUDA compiler in $cuda: sudo apt install nvidia-jetpack brings it"
    done_already "CUDA in $cuda"
}

# TensorRT and OpenCV are JetPack's: the environment must see the system's packages.
environment() {
    if grep -qs '^include-system-site-packages = true' "$venv/pyvenv.cfg"; then
        done_already "virtual environment $venv"
    elif [ -e "$venv/pyvenv.cfg" ]; then
        fail "$venv does not see the system's packages, so neither TensorRT; move it away and run this again"
    else
        todo "virtual environment $venv" python3 -m venv --system-site-packages "$venv"
    fi
}

pip() { "$venv/bin/python" -m pip "$@"; }

# JetPack's OpenCV is built against numpy 1: with numpy 2 it cannot be imported.
write_constraints() { printf 'numpy<2\n' >"$prefix/constraints.txt"; }

build_pycuda() {
    PATH=$cuda/bin:$PATH CUDA_ROOT=$cuda CPATH=$cuda/include LIBRARY_PATH=$cuda/lib64/stubs:$cuda/lib64 \
        pip install --no-binary pycuda -c "$prefix/constraints.txt" pycuda && readlink -f "$cuda" >"$venv/pycuda-cuda"
}

# With what follows faces over time, for `edgeface watch`, and what calibrates and quantises, for `edgeface build`, which
# runs on the board: the extra "build" without its OpenCV.
install_edgeface() {
    pip install -c "$prefix/constraints.txt" "$here/..[video]" "onnx>=1.16" "onnxruntime>=1.17" &&
        source_id >"$venv/edgeface-source"
}

# Of all sources, so that an update is installed even under the same version; files that a build makes do not count.
source_id() {
    (cd "$here/.." && find pyproject.toml setup.py edgeface engines tools cpp_ext -type f ! -name '_*.cpp' \
        \( -name '*.py' -o -name '*.pyx' -o -name '*.cpp' -o -name '*.hpp' -o -name '*.inl' -o -name '*.cu' \
        -o -name '*.toml' \) -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum) | sha256sum | cut -d ' ' -f 1
}

python_packages() {
    if [ -f "$prefix/constraints.txt" ]; then
        done_already "constraints: numpy below 2"
    else
        todo "constraints: numpy below 2" write_constraints
    fi
    # Built for one CUDA: after an upgrade of JetPack it is built again.
    if [ "$(cat "$venv/pycuda-cuda" 2>/dev/null)" = "$(readlink -f "$cuda")" ]; then
        done_already "pycuda, built with $(readlink -f "$cuda")"
    else
        todo "pycuda, built with $(readlink -f "$cuda") (about 5 minutes)" build_pycuda
    fi
    if [ "$(cat "$venv/edgeface-source" 2>/dev/null)" = "$(source_id)" ]; then
        done_already "edgeface"
    else
        todo "edgeface" install_edgeface
    fi
    local shadow
    shadow=$(find "$venv" -maxdepth 5 -path '*site-packages/opencv_*python*' -name '*.dist-info' 2>/dev/null | head -n 1 || true)
    if [ -n "$shadow" ]; then
        todo "remove $(basename "$shadow" .dist-info), which hides JetPack's OpenCV with its cameras" \
            pip uninstall -y opencv-python opencv-python-headless opencv-contrib-python
    else
        done_already "no package hides JetPack's OpenCV"
    fi
}

add_user() {
    useradd --system --home-dir /var/lib/edgeface --shell /usr/sbin/nologin --groups video,render edgeface
}

install_service() {
    install -D -m 644 "$here/edgeface.service" "$root/etc/systemd/system/edgeface.service" || return
    # Where systemd does not run, as while an image is made, there is nothing to reload (sd_booted(3)).
    if [ -d "$root/run/systemd/system" ]; then systemctl daemon-reload; fi
}

system_service() {
    if grep -qs '^edgeface:' "$root/etc/passwd"; then
        done_already "user edgeface"
    else
        todo "user edgeface" add_user
    fi
    if cmp -s "$here/edgeface.service" "$root/etc/systemd/system/edgeface.service"; then
        done_already "service edgeface"
    else
        todo "service edgeface" install_service
    fi
}

board
[ "$check" = 1 ] || mkdir -p "$prefix" 2>/dev/null || fail "cannot write $prefix: run this with sudo, or give --prefix"
system_packages
environment
python_packages
if [ "$service" = 1 ]; then system_service; fi
if [ "$check" = 1 ]; then exit "$left"; fi
say "set up; examine it with: $venv/bin/edgeface doctor"
if [ "$service" = 1 ]; then say "start the service with: sudo systemctl enable --now edgeface"; fi
