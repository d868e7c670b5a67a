"""What `edgeface doctor` looks at of the user's own: models, engines, the gallery, the camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.contents import plain_path
from edgeface.errors import EdgefaceError, InputError, MissingDependencyError
from edgeface.home import home
from edgeface.manifest import check_file, read_manifest
from edgeface.tools.cameras import camera_place
from edgeface.tools.checks_machine import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface.runtime.board import Board

BUILD = "edgeface build {} --target tensorrt --calibration FOLDER"


def engine_files() -> list[Path]:
    """The TensorRT engines of the model folder."""
    folder = home() / "models"
    named = {path.with_suffix("") for path in folder.glob("*.plan.json")}
    return sorted(named | {path for path in folder.glob("*.plan") if plain_path(path) == path})


def models() -> Iterator[Finding]:
    """The default models: there, whole."""
    from edgeface.home import model_path
    from edgeface.tools.models import DEFAULT

    for name in DEFAULT:
        path = model_path(name)
        try:
            manifest = read_manifest(path)
            check_file(path, manifest)
        except EdgefaceError as error:
            force = "" if not path.exists() else " --force"
            yield Finding(f"model {name}", "fault", str(error), f"edgeface models fetch {name}{force}")
        else:
            yield Finding(f"model {name}", "good", f"{manifest.model_id}, {manifest.size / 1e6:.1f} MB, whole")


def engines(board: Board | None) -> Iterator[Finding]:
    """Every engine of the model folder: whole, and for this machine."""
    from edgeface.runtime.tensorrt_checks import rebuild_command

    files = engine_files()
    if not files:
        if board is None:
            yield Finding("engines", "good", "none: models run on the CPU")
        else:
            mend = f"{BUILD.format('yunet')}; {BUILD.format('sface')}"
            yield Finding("engines", "warning", "none: models run on the CPU of this board", mend)
    for path in files:
        name = f"engine {path.name}"
        try:
            manifest = read_manifest(path)
        except EdgefaceError as error:
            yield Finding(name, "fault", str(error), BUILD.format(path.name.split(".")[0]))
            continue
        try:
            check_file(path, manifest)
            _check_fit(path)
        except MissingDependencyError as error:
            yield Finding(name, "fault", f"cannot run: {error}", "jetson/setup.sh")
        except EdgefaceError as error:
            yield Finding(name, "fault", str(error), rebuild_command(manifest))
        else:
            yield Finding(name, "good", f"{manifest.model_id}, computes in {manifest.precision}, fits this machine")


def _check_fit(path: Path) -> None:
    from edgeface.runtime.board import read_board
    from edgeface.runtime.cuda import gpu_facts, import_pycuda
    from edgeface.runtime.tensorrt import import_tensorrt
    from edgeface.runtime.tensorrt_checks import check_engine

    manifest = read_manifest(path)
    version = str(import_tensorrt(manifest.runtime).__version__)
    check_engine(path, manifest, version=version, gpu=gpu_facts(import_pycuda()), board=read_board())


def gallery(path: Path) -> Iterator[Finding]:
    """The gallery's file, every row of it."""
    from edgeface.gallery.care import check

    if not path.exists():
        yield Finding("gallery", "warning", f"{path}: not there yet", f"edgeface enroll --gallery {path} NAME PHOTO")
        return
    try:
        report = check(path)
    except EdgefaceError as error:
        yield Finding("gallery", "fault", str(error), f"edgeface gallery check --gallery {path}")
        return
    if report.problems:
        mend = f"edgeface gallery check --repair --gallery {path}"
        yield Finding("gallery", "fault", f"{path}: {'; '.join(report.problems)[:300]}", mend)
    else:
        yield Finding("gallery", "good", f"{path}: {report.people} people, {report.templates} templates, whole")


def camera(source: str) -> Iterator[Finding]:
    """One frame from a camera, by any name that `edgeface watch` takes for one."""
    from edgeface.video.capture import csi_pipeline

    try:
        place = camera_place(source)
    except InputError as error:
        yield Finding("camera", "fault", str(error), "edgeface doctor --camera usb")
        return
    device = Path(f"/dev/video{place}") if place.isdecimal() else Path(place) if place.startswith("/dev/") else None
    if device is not None and not device.exists():
        yield Finding("camera", "fault", f"{device}: no such camera", "ls /dev/video*  # and check the cable")
        return
    import cv2

    sensor = place.removeprefix("csi://") if place.startswith("csi://") else ""
    if sensor.isdecimal():
        place = csi_pipeline(int(sensor), size=(1080, 1920), fps=30.0, pixel_format="bgr")
    kind = cv2.CAP_GSTREAMER if "!" in place else cv2.CAP_ANY
    capture = cv2.VideoCapture(int(place)) if place.isdecimal() else cv2.VideoCapture(place, kind)
    try:
        read, frame = capture.read() if capture.isOpened() else (False, None)
    finally:
        capture.release()
    if not read or frame is None:
        mend = f"sudo usermod -aG video $USER; fuser -v {device or '/dev/video*'}  # who else has it open"
        yield Finding("camera", "fault", f"{source}: gives no frame", mend)
    else:
        yield Finding("camera", "good", f"{source}: {frame.shape[1]} x {frame.shape[0]} px")
