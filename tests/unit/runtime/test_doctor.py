"""`edgeface doctor`: every fault is produced, named and given its command; the exit code is that of the worst."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_jetson import BUILD, Jetson

from edgeface import Gallery
from edgeface.contents import content_name
from edgeface.manifest import manifest_path, read_manifest
from edgeface.runtime import cuda_kernels
from edgeface.tools import checks_machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Board:
    """A root folder of a made-up board, and the doctor on it."""

    root: Path
    models: Path
    cli: Callable[..., Any]

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def see(self, *words: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Exit code, and findings by name."""
        ran = self.cli("doctor", "--json", "--root", self.root, *words)
        assert ran.err == ""
        findings = json.loads(ran.out)["findings"]
        for finding in findings:
            assert (finding["state"] == "good") == (finding["mend"] == ""), finding
        return ran.code, {finding["name"]: finding for finding in findings}


@pytest.fixture
def board(
    jetson: Jetson, tmp_path: Path, model_home: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> Board:
    """An Orin with JetPack 6.2 on which everything is well."""
    models = tmp_path / "home" / "models"
    models.mkdir(parents=True)
    for file in (model_home / "models").iterdir():
        (models / file.name).symlink_to(file.resolve())
    monkeypatch.setenv("EDGEFACE_HOME", str(models.parent))
    monkeypatch.delenv("EDGEFACE_GALLERY", raising=False)
    jetson.folder = models
    jetson.write()
    jetson.build_kernels()
    root = tmp_path / "root"
    made = Board(root, models, cli)
    made.write("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n")
    made.write("proc/device-tree/model", "NVIDIA Jetson Orin NX\0")
    made.write("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n")
    made.write("var/lib/nvpmodel/status", "pmode:0002\n")
    made.write("sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n")
    made.write("sys/class/devfreq/17000000.gpu/max_freq", "918000000\n")
    build = "Video I/O:\n    GStreamer:                   YES (1.20.3)\n"
    monkeypatch.setitem(
        sys.modules,
        "cv2",
        SimpleNamespace(__version__="4.10.0", __file__="/usr/lib/cv2.so", getBuildInformation=lambda: build),
    )
    return made


def test_all_well(board: Board) -> None:
    code, findings = board.see()
    assert code == 0
    assert findings["board"]["says"] == "NVIDIA Jetson Orin NX"
    assert findings["jetpack"]["says"] == "6.2 (L4T 36.4.3)"
    assert findings["power"]["says"].startswith("nvpmodel mode 2, GPU at 306 of 918 MHz")
    assert findings["gpu"]["says"] == "Orin, compute capability 8.7, 8192 MB, driver for CUDA 12.6"
    assert findings["tensorrt"]["says"] == "10.3.0"
    assert findings["engine tones.fp32.plan"]["says"].endswith("fits this machine")
    assert findings["cuda kernels"]["says"] == "g++: host"


def test_no_cuda_kernels(board: Board) -> None:
    reason = "nvcc was not found when edgeface was installed"
    cuda_kernels.RECORD.write_text(json.dumps({"absent": reason, "compiler": "", "targets": [], "sha256": ""}))
    code, findings = board.see()
    assert (code, findings["cuda kernels"]["state"]) == (3, "warning")
    assert findings["cuda kernels"]["says"] == f"none, frames are prepared on the CPU: {reason}"
    assert "--force-reinstall --no-deps ." in findings["cuda kernels"]["mend"]


def test_the_report_for_people(board: Board) -> None:
    board.write("var/lib/nvpmodel/status", "")
    ran = board.cli("doctor", "--root", board.root)
    assert ran.code == 3
    assert "ok      jetpack: 6.2" in ran.out
    assert "WARNING power: the power mode cannot be read\n        mend: sudo systemctl restart nvpmodel" in ran.out


@pytest.mark.parametrize(
    ("file", "text", "name", "state", "says"),
    [
        ("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1,", "jetpack", "warning", "not known (L4T 35.4.1)"),
        (
            "var/lib/dpkg/status",
            "Package: nvidia-jetpack\nStatus: ok\nVersion: 5.1.2-b104\n",
            "jetpack",
            "fault",
            "5.1.2",
        ),
        ("var/lib/nvpmodel/status", "", "power", "warning", "cannot be read"),
        ("proc/meminfo", "MemAvailable: 900000 kB\n", "memory", "warning", "878 MB free"),
        ("proc/meminfo", "MemAvailable: 90000 kB\n", "memory", "fault", "87 MB free"),
        ("proc/meminfo", "", "memory", "warning", "cannot be read"),
    ],
)
def test_the_board(board: Board, file: str, text: str, name: str, state: str, says: str) -> None:
    board.write(file, text)
    code, findings = board.see()
    assert findings[name]["state"] == state
    assert says in findings[name]["says"]
    assert code == {"warning": 3, "fault": 4}[state]


@pytest.mark.parametrize(
    ("package", "name", "state", "mend"),
    [
        ("tensorrt", "tensorrt", "fault", "jetson/setup.sh"),
        ("pycuda.driver", "gpu", "fault", "jetson/setup.sh"),
        ("cv2", "opencv", "fault", "jetson/setup.sh"),
        ("onnxruntime", "onnxruntime", "warning", "-m pip install onnxruntime"),
    ],
)
def test_a_package_that_is_not_there(
    board: Board, monkeypatch: pytest.MonkeyPatch, package: str, name: str, state: str, mend: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, findings = board.see()
    assert findings[name]["state"] == state
    assert mend in findings[name]["mend"]
    assert code in (3, 4)
    if name in ("tensorrt", "gpu"):
        assert findings["engine tones.fp32.plan"]["says"].startswith("cannot run: ")


def test_an_opencv_that_shadows_jetpacks(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["cv2"], "getBuildInformation", lambda: "GStreamer:   NO")
    _, findings = board.see()
    assert findings["opencv"]["state"] == "warning"
    assert "pip uninstall -y opencv-python" in findings["opencv"]["mend"]


def test_the_slow_kernels(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeface import kernels

    monkeypatch.setattr(kernels, "IMPLEMENTATION", "python")
    assert board.see()[1]["kernels"]["mend"] == "unset EDGEFACE_KERNELS"


@pytest.mark.parametrize(("free_mb", "state"), [(500, "warning"), (50, "fault")])
def test_a_full_disk(board: Board, monkeypatch: pytest.MonkeyPatch, free_mb: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_mb << 20))
    assert board.see()[1]["disk"]["state"] == state


def test_models(board: Board) -> None:
    (board.models / "yunet.fp32.onnx").unlink()
    whole = (board.models / "sface.fp32.onnx").read_bytes()
    (board.models / "sface.fp32.onnx").unlink()
    (board.models / "sface.fp32.onnx").write_bytes(whole[:-9])
    code, findings = board.see()
    assert code == 4
    assert findings["model yunet"]["mend"] == "edgeface models fetch yunet"
    assert findings["model sface"]["mend"] == "edgeface models fetch sface --force"


def test_engines(board: Board, jetson: Jetson) -> None:
    jetson.write(build={**BUILD, "tensorrt": "8.6.1"})
    jetson.write(name="broken.fp32.plan").write_bytes(b"x")
    (board.models / "bare.fp32.plan").write_bytes(b"x")
    code, findings = board.see()
    assert code == 4
    assert "built by TensorRT 8.6.1, here is 10.3.0" in findings["engine tones.fp32.plan"]["says"]
    rebuild = "edgeface build tones --precision fp32 --target tensorrt --calibration FOLDER"
    assert findings["engine tones.fp32.plan"]["mend"] == rebuild
    assert "fetch or build it again" in findings["engine broken.fp32.plan"]["says"]
    assert "no manifest" in findings["engine bare.fp32.plan"]["says"]
    assert findings["engine bare.fp32.plan"]["mend"] == "edgeface build bare --target tensorrt --calibration FOLDER"


def test_an_engine_is_named_once_though_its_bytes_have_a_file_of_their_own(board: Board, jetson: Jetson) -> None:
    path = jetson.write(name="made.int8.plan")
    manifest = read_manifest(path)
    content = path.rename(path.with_name(content_name(path.name, manifest.sha256)))
    manifest_path(path).write_text(replace(manifest, file=content.name).to_json())
    _, findings = board.see()
    assert findings["engine made.int8.plan"]["says"] == "tones@0/fp32, computes in fp32, fits this machine"
    assert f"engine {content.name}" not in findings
    content.unlink()
    assert f"{content.name}: no such model file" in board.see()[1]["engine made.int8.plan"]["says"]


def test_a_board_without_engines(board: Board) -> None:
    for file in board.models.glob("*.plan*"):
        file.unlink()
    code, findings = board.see()
    assert (code, findings["engines"]["state"]) == (3, "warning")
    assert "edgeface build sface --target tensorrt --calibration FOLDER" in findings["engines"]["mend"]


def test_no_board_and_no_engine_is_no_fault(board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in board.models.glob("*.plan*"):
        file.unlink()
    shutil.rmtree(board.root / "etc")
    board.write("proc/device-tree/model", "A desk")
    for package in ("tensorrt", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, package, None)
    code, findings = board.see()
    assert code == 0
    assert findings["gpu"]["says"].startswith("none in use: ")


def test_a_driver_that_fails(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeface.errors import EngineError
    from edgeface.runtime import cuda

    def fail(driver: Any) -> Any:
        raise EngineError("CUDA call cuDeviceGet failed: unknown error")

    monkeypatch.setattr(cuda, "gpu_facts", fail)
    findings = {finding.name: finding for finding in checks_machine.gpu(wanted=True)}
    assert (findings["gpu"].state, findings["gpu"].mend) == ("fault", "sudo reboot")


def test_galleries(board: Board, tmp_path: Path) -> None:
    path = tmp_path / "kiosk.gallery"
    assert board.see("--gallery", str(path))[1]["gallery"]["state"] == "warning"
    sface = read_manifest(board.models / "sface.fp32.onnx").model_id
    with Gallery.open(path, model_id=sface, dimension=128) as gallery:
        gallery.add("ada", np.eye(1, 128, dtype=np.float32))
    assert board.see("--gallery", str(path))[1]["gallery"]["says"] == (
        f"{path}: 1 people, 1 templates of {sface}, whole; opens with --embedder sface --precision fp32"
    )
    for extra in tmp_path.glob("kiosk.gallery-*"):
        extra.unlink()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    damaged = board.see("--gallery", str(path))[1]["gallery"]
    assert (damaged["state"], damaged["mend"]) == ("fault", f"edgeface gallery check --repair --gallery {path}")
    path.write_bytes(b"no gallery at all" * 1000)
    assert board.see("--gallery", str(path))[1]["gallery"]["state"] == "fault"


@pytest.mark.parametrize(
    ("precision", "mend"),
    [
        ("int8", "edgeface build sface --precision int8 --calibration FOLDER"),
        ("fp16", "edgeface build sface --precision fp16 --target tensorrt --calibration FOLDER"),
        ("fp32; reboot", "edgeface enroll --people FOLDER --gallery NEW_FILE"),
    ],
)
def test_a_whole_gallery_that_no_model_here_opens(board: Board, tmp_path: Path, precision: str, mend: str) -> None:
    """`edgeface identify` refuses it; a kiosk's service would start and end for ever."""
    sface = read_manifest(board.models / "sface.fp32.onnx")
    other = sface.model_id.replace("fp32", precision)
    path = tmp_path / "kiosk.gallery"
    Gallery.open(path, model_id=other, dimension=128, key=lambda: b"k" * 32).close()  # no key is needed to tell
    code, findings = board.see("--gallery", str(path))
    assert (code, findings["gallery"]["state"]) == (4, "fault")
    assert f"its templates are of {other}; the models here make {sface.model_id}" in findings["gallery"]["says"]
    assert findings["gallery"]["mend"].startswith(mend)
    manifest_path(board.models / "sface.int8.plan").write_text(replace(sface, model_id=other).to_json())
    (board.models / "broken.int8.onnx.json").write_text("{")
    assert board.see("--gallery", str(path))[1]["gallery"]["says"].endswith("--embedder sface --precision int8")


def test_a_gallery_where_no_model_was_fetched(board: Board, tmp_path: Path) -> None:
    path = tmp_path / "kiosk.gallery"
    sface = read_manifest(board.models / "sface.fp32.onnx").model_id
    Gallery.open(path, model_id=sface, dimension=128).close()
    for manifest in board.models.glob("*.json"):
        manifest.unlink()
    finding = board.see("--gallery", str(path))[1]["gallery"]
    assert finding["says"].endswith("the models here make none")
    assert finding["mend"] == "edgeface models fetch sface"


def test_a_camera_without_opencv_keeps_the_report(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, findings = board.see("--camera", "rtsp://host/stream")
    assert (code, findings["camera"]["state"], findings["camera"]["mend"]) == (4, "fault", "jetson/setup.sh")
    assert "needs OpenCV" in findings["camera"]["says"]
    shutil.rmtree(board.root / "etc")
    board.write("proc/device-tree/model", "A desk")
    assert board.see("--camera", "rtsp://host/stream")[1]["camera"]["mend"].endswith("-m pip install opencv-python")


class Camera:
    """Stands for cv2.VideoCapture: address 'good' gives a frame, 'mute' opens and gives none."""

    def __init__(self, source: Any, kind: int = 0) -> None:
        self.source = source

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.source in ("good", "mute") or "/dev/video0 " in self.source or "sensor-id=0 " in self.source

    def read(self) -> tuple[bool, Any]:
        return (True, np.zeros((720, 1280, 3), np.uint8)) if self.source != "mute" else (False, None)

    def release(self) -> None:
        self.source = ""


@pytest.mark.parametrize(
    ("source", "state", "says"),
    [
        ("good", "good", "1280 x 720 px"),
        ("mute", "fault", "gives no frame"),
        ("rtsp://nowhere", "fault", "gives no frame"),
        ("/dev/no-such-camera", "fault", "no such camera"),
        ("977", "fault", "/dev/video977: no such camera"),
        ("usb", "good", "usb: 1280 x 720 px"),
        ("csi", "good", "csi: 1280 x 720 px"),
        ("", "fault", "the camera's name is empty"),
    ],
)
def test_cameras(board: Board, monkeypatch: pytest.MonkeyPatch, source: str, state: str, says: str) -> None:
    vars(sys.modules["cv2"]).update(VideoCapture=Camera, CAP_ANY=0, CAP_GSTREAMER=1800)
    monkeypatch.setattr("edgeface.tools.cameras.on_board", lambda: True)
    finding = board.see("--camera", source)[1]["camera"]
    assert finding["state"] == state
    assert says in finding["says"]
