"""`jetson/setup.sh` in a real Debian: its apt, dpkg, useradd, venv and pip, on a JetPack that is made up.

Made up are the packages that only NVIDIA has, the CUDA compiler, and pycuda, which notes what it was built with. Needs
root, debootstrap and Debian's archive; minutes, most of them downloads.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: What `setup.sh` installs edgeface with, and its build take, as wheels, so that the root needs no package index.
WHEELS = ("numpy<2", "hnswlib", "click", "rich", "platformdirs", "lapx", "onnx", "onnxruntime", "setuptools>=77",
          "cython>=3.1", "wheel")  # fmt: skip
PYCUDA = """
import os
from setuptools import setup
os.makedirs("pycuda", exist_ok=True)
with open("pycuda/__init__.py", "w") as file:
    file.write(f"CUDA_ROOT = {os.environ['CUDA_ROOT']!r}\\nPATH = {os.environ['PATH']!r}\\n")
setup(name="pycuda", version="2026.1", packages=["pycuda"])
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=1500, check=False, **options)  # type: ignore[call-overload, no-any-return]


def must(*command: str | Path) -> None:
    done = run(*command)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def debian(folder: Path) -> None:
    """Debian of this machine's release in a folder, with what every board has."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if release.get("ID", "").strip('"') != "debian" or not suite:
        pytest.skip("not a Debian machine, so neither its suite nor its Python is known")
    cache = Path(os.environ.get("EDGEFACE_CI_CACHE") or folder.parent) / f"debian-{suite}.tar"
    folder.mkdir()
    if cache.exists():
        must("tar", "-C", folder, "-xf", cache)
        return
    made = run("debootstrap", "--variant=minbase", "--include=systemd,udev,python3", suite, folder)
    if made.returncode:
        pytest.skip(f"debootstrap cannot make a root folder here: {(made.stdout + made.stderr).strip()[-300:]}")
    must("tar", "-C", folder, "-cf", f"{cache}.new", ".")
    Path(f"{cache}.new").replace(cache)


def package(folder: Path, name: str, version: str) -> Path:
    """A Debian package with nothing in it."""
    control = folder / name / "DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a test <test@localhost>\n"
        "Description: made up\n"
    )
    must("dpkg-deb", "--build", folder / name, folder / f"{name}.deb")
    return folder / f"{name}.deb"


def add(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root folder of a board with JetPack 6.2, freshly flashed; the sources are in /src, wheels in /wheels."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap (apt-get install debootstrap) to make a Debian root folder")
    work = tmp_path_factory.mktemp("debian")
    root = work / "root"
    debian(root)
    python = run("chroot", root, "python3", "-c", "import sys; print(*sys.version_info[:2])").stdout.split()
    if python != [str(number) for number in sys.version_info[:2]]:
        pytest.skip(f"Debian's Python here is {'.'.join(python)}: wheels made by this one do not fit it")
    wheels = root / "wheels"
    made = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", wheels, *WHEELS)
    if made.returncode:
        pytest.skip(f"no package index: {made.stderr.strip()[-300:]}")
    with tarfile.open(wheels / "pycuda-2026.1.tar.gz", "w:gz") as archive:
        add(archive, "pycuda-2026.1/setup.py", PYCUDA)
        add(archive, "pycuda-2026.1/PKG-INFO", "Metadata-Version: 2.1\nName: pycuda\nVersion: 2026.1\n")
    # As NVIDIA's image has them; python3-opencv is in JetPack's libopencv-python.
    for name, version in (("nvidia-jetpack", "6.2+b77"), ("python3-libnvinfer", "10.3.0.30-1"),
                          ("libopencv-python", "4.8.0-1")):  # fmt: skip
        shutil.copy(package(work, name, version), root / "tmp")
        must("chroot", root, "dpkg", "--install", f"/tmp/{name}.deb")
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    nvcc = root / "usr/local/cuda-12.6/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    (root / "usr/local/cuda").symlink_to("cuda-12.6")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("not a checkout: the sources' list comes from git")
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / "src" / name)
    return root


def setup(board: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "DEBIAN_FRONTEND": "noninteractive",
                   "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PIP_CONFIG_FILE": os.devnull}  # fmt: skip
    return run("chroot", board, "bash", "/src/jetson/setup.sh", *words, env=environment)


def test_a_board_from_nothing(board: Path) -> None:
    status = (board / "var/lib/dpkg/status").read_text()
    looked = setup(board, "--check", "--service")
    assert looked.returncode == 1
    assert "ok    JetPack 6.2" in looked.stdout
    assert "to do system packages: python3-venv python3-dev g++" in looked.stdout
    assert "python3-opencv" not in looked.stdout
    assert (board / "var/lib/dpkg/status").read_text() == status
    assert not (board / "opt/edgeface").exists()

    done = setup(board, "--service")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for what in ("system packages", "virtual environment", "pycuda", "edgeface", "user edgeface", "service edgeface"):
        assert f"doing {what}" in done.stdout

    def python(code: str) -> str:
        ran = run("chroot", board, "/opt/edgeface/venv/bin/python", "-c", code)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    assert python("import numpy; print(numpy.__version__.split('.')[0])") == "1"
    assert python("import pycuda; print(pycuda.CUDA_ROOT)") == "/usr/local/cuda"
    assert python("import pycuda; print(pycuda.PATH.split(':')[0])") == "/usr/local/cuda/bin"
    assert python("from edgeface import kernels; import edgeface.video; print(kernels.IMPLEMENTATION)") != "python"
    assert "SOURCE" in run("chroot", board, "/opt/edgeface/venv/bin/edgeface", "watch", "--help").stdout
    python("import onnxruntime, edgeface.engines.build")  # engines are built on the board
    groups = run("chroot", board, "id", "--groups", "--name", "edgeface").stdout.split()
    assert {"edgeface", "video", "render"} <= set(groups)
    verified = run("chroot", board, "systemd-analyze", "verify", "--man=no", "/etc/systemd/system/edgeface.service")
    assert "edgeface.service" not in verified.stderr, verified.stderr

    again = setup(board, "--service")
    assert again.returncode == 0, again.stderr
    assert "doing" not in again.stdout
    assert setup(board, "--check", "--service").returncode == 0

    source = board / "src/edgeface/overlap.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert "to do edgeface" in setup(board, "--check").stdout
