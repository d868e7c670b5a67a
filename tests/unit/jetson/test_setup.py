"""`jetson/setup.sh` on made-up boards: the system in a folder, its commands as scripts that note their calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETUP = Path(__file__).parents[3] / "jetson" / "setup.sh"
PACKAGES = ("python3-venv", "python3-dev", "g++", "python3-libnvinfer", "libopencv-python")
PIP = """#!/bin/sh
echo "pip $*" >>"$LOG"
case "$*" in
*"uninstall"*) rm -rf "$SHADOW" ;;
esac
"""
PYTHON = """#!/bin/sh
echo "python3 $*" >>"$LOG"
mkdir -p "$4/bin" "$4/lib/python3.10/site-packages"
echo 'include-system-site-packages = true' >"$4/pyvenv.cfg"
cp "$(dirname "$0")/pip-of-venv" "$4/bin/python"
"""
APT = """#!/bin/sh
echo "apt-get $*" >>"$LOG"
for name in "$@"; do
    case $name in -* | install) ;; *)
        printf 'Package: %s\\nStatus: install ok installed\\n\\n' "$name" >>"$ROOT/var/lib/dpkg/status" ;;
    esac
done
"""
NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >>"$LOG"\n'
USERADD = NOTE + 'echo "edgeface:x:999:999::/var/lib/edgeface:/usr/sbin/nologin" >>"$ROOT/etc/passwd"\n'


@dataclass
class Ran:
    """What the script did."""

    code: int
    out: str
    err: str


@dataclass
class Machine:
    """A board in a folder."""

    root: Path
    prefix: Path
    log: Path
    commands: Path

    def status(self, jetpack: str, packages: tuple[str, ...] = ()) -> None:
        lines = "".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1\n\n" for name in packages)
        if jetpack:
            lines += f"Package: nvidia-jetpack\nStatus: install ok installed\nVersion: {jetpack}\n\n"
        (self.root / "var/lib/dpkg/status").write_text(lines)

    def run(self, *words: str) -> Ran:
        environment = {
            **os.environ,
            "PATH": f"{self.commands}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "ROOT": str(self.root),
            "SHADOW": str(self.shadow),
        }
        command = ["bash", str(SETUP), "--root", str(self.root), "--prefix", str(self.prefix), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    @property
    def shadow(self) -> Path:
        return self.prefix / "venv/lib/python3.10/site-packages/opencv_python-4.14.0.dist-info"

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def files(self) -> set[str]:
        return {str(path) for folder in (self.root, self.prefix) if folder.exists() for path in folder.rglob("*")}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A board with JetPack 6.2, freshly flashed."""
    made = Machine(tmp_path / "root", tmp_path / "opt/edgeface", tmp_path / "calls", tmp_path / "bin")
    for folder in ("var/lib/dpkg", "etc/systemd/system", "run/systemd/system", "usr/local/cuda/bin"):
        (made.root / folder).mkdir(parents=True)
    (made.root / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
    (made.root / "usr/local/cuda/bin/nvcc").write_text("#!/bin/sh\n")
    (made.root / "usr/local/cuda/bin/nvcc").chmod(0o755)
    made.commands.mkdir()
    scripts = {"apt-get": APT, "python3": PYTHON, "pip-of-venv": PIP, "useradd": USERADD, "systemctl": NOTE}
    for name, text in scripts.items():
        (made.commands / name).write_text(text)
        (made.commands / name).chmod(0o755)
    made.status("6.2+b77")
    return made


def needs_of_a_build() -> list[str]:
    """Packages that `edgeface build` wants beside JetPack's: engines are built on the board, or nowhere."""
    extras = tomllib.loads((SETUP.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return sorted(need for need in extras["build"] if not need.startswith("opencv"))


def test_a_fresh_board_and_again(machine: Machine) -> None:
    ran = machine.run("--service")
    assert (ran.code, ran.err) == (0, "")
    calls = "\n".join(machine.calls())
    assert "apt-get install -y --no-install-recommends python3-venv python3-dev g++ python3-libnvinfer" in calls
    assert f"python3 -m venv --system-site-packages {machine.prefix}/venv" in calls
    assert f"pip -m pip install --no-binary pycuda -c {machine.prefix}/constraints.txt pycuda" in calls
    (install,) = (call for call in calls.splitlines() if "..[video]" in call)
    assert install.split("[video] ")[1].split() == needs_of_a_build()
    assert "useradd --system" in calls
    assert "systemctl daemon-reload" in calls
    assert (machine.prefix / "constraints.txt").read_text() == "numpy<2\n"
    assert (machine.root / "etc/systemd/system/edgeface.service").exists()
    before = machine.calls()
    again = machine.run("--service")
    assert again.code == 0
    assert machine.calls() == before
    assert "doing" not in again.out
    assert machine.run("--check", "--service").code == 0


def test_in_an_image_that_is_being_made_no_systemd_runs(machine: Machine) -> None:
    (machine.root / "run/systemd/system").rmdir()
    (machine.commands / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    assert machine.run("--service").code == 0
    assert machine.run("--check", "--service").code == 0


@pytest.mark.parametrize("service", [[], ["--service"]])
def test_check_changes_nothing(machine: Machine, service: list[str]) -> None:
    before = machine.files()
    ran = machine.run("--check", *service)
    assert ran.code == 1
    assert "to do system packages: python3-venv" in ran.out
    assert "to do pycuda, built with" in ran.out
    assert ("to do service edgeface" in ran.out) == bool(service)
    assert machine.files() == before
    assert machine.calls() == []


def test_another_cuda_builds_pycuda_again(machine: Machine) -> None:
    machine.status("6.2", PACKAGES)
    assert machine.run().code == 0
    before = len(machine.calls())
    (machine.root / "usr/local/cuda").rename(machine.root / "usr/local/cuda-13")
    (machine.root / "usr/local/cuda").symlink_to("cuda-13")
    assert "doing pycuda, built with" in machine.run().out
    assert [call for call in machine.calls()[before:] if "pycuda" in call] == machine.calls()[before:]


def test_a_package_that_hides_jetpacks_opencv_goes(machine: Machine) -> None:
    machine.status("6.2", PACKAGES)
    assert machine.run().code == 0
    machine.shadow.mkdir()
    assert machine.run("--check").code == 1
    assert "remove opencv_python-4.14.0, which hides JetPack's OpenCV" in machine.run().out
    assert not machine.shadow.exists()
    assert machine.run("--check").code == 0


@pytest.mark.parametrize(
    ("jetpack", "release", "code", "says"),
    [
        ("6.1+b123", "", 0, "JetPack 6.1"),
        ("7.2.2-b1", "", 0, "JetPack 7.2.2"),
        ("", "# R36 (release), REVISION: 4.3, GCID: 38968081", 0, "JetPack 6.2"),
        ("", "# R38 (release), REVISION: 2.0, GCID: 1", 0, "JetPack 7.0"),
        ("5.1.2", "", 1, "JetPack 5.1.2: edgeface needs 6.1, 6.2 or 7.x"),
        ("", "# R35 (release), REVISION: 4.1", 1, "no JetPack found"),
        ("", "", 1, "no JetPack found"),
    ],
)
def test_jetpacks(machine: Machine, jetpack: str, release: str, code: int, says: str) -> None:
    machine.status(jetpack, PACKAGES)
    if release:
        (machine.root / "etc/nv_tegra_release").write_text(release + "\n")
    ran = machine.run()
    assert ran.code == code
    assert says in ran.out + ran.err


def test_no_cuda(machine: Machine) -> None:
    machine.status("6.2", PACKAGES)
    shutil.rmtree(machine.root / "usr/local/cuda")
    ran = machine.run()
    assert ran.code == 1
    assert "no CUDA compiler in" in ran.err


def test_an_environment_that_cannot_see_tensorrt(machine: Machine) -> None:
    machine.status("6.2", PACKAGES)
    (machine.prefix / "venv").mkdir(parents=True)
    (machine.prefix / "venv/pyvenv.cfg").write_text("include-system-site-packages = false\n")
    ran = machine.run()
    assert ran.code == 1
    assert "does not see the system's packages" in ran.err


def test_a_step_that_fails_stops_with_its_command(machine: Machine) -> None:
    (machine.commands / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    ran = machine.run()
    assert ran.code == 1
    assert "this failed: apt-get install" in ran.err


def test_wrong_usage(machine: Machine) -> None:
    assert machine.run("--frobnicate").code == 2
    assert "--check" in machine.run("--help").out
