"""What `edgeface doctor` looks at of the user's own: models, engines, the gallery, the camera."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeface.contents import plain_path
from edgeface.errors import EdgefaceError, InputError, MissingDependencyError
from edgeface.home import home
from edgeface.manifest import PRECISIONS, check_file, read_manifest
from edgeface.tools.cameras import camera_place
from edgeface.tools.checks_machine import Finding, opencv_mend

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
    """The gallery's file, every row of it, and whether a model here makes templates that compare with its own."""
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
        return
    embedders = _embedders()
    fits = sorted({asked for asked, model_id in embedders if model_id == report.model_id})
    if fits:
        said = f"{path}: {report.people} people, {report.templates} templates of {report.model_id}, whole; opens with "
        yield Finding("gallery", "good", said + " or ".join(fits))
    else:
        here = ", ".join(sorted({model_id for _, model_id in embedders})) or "none"
        said = f"{path}: cannot be opened: its templates are of {report.model_id}; the models here make {here}"
        yield Finding("gallery", "fault", said, _mend_model(report.model_id))


def _embedders() -> list[tuple[str, str]]:
    """The options that choose each embedder of the model folder, and its model id."""
    found = []
    for path in sorted((home() / "models").glob("*.*.*.json")):
        try:
            manifest = read_manifest(path.with_suffix(""))
        except EdgefaceError:  # other findings say so
            continue
        if manifest.kind == "embedder":
            name, precision, _ = path.name.split(".", 2)
            found.append((f"--embedder {name} --precision {precision}", manifest.model_id))
    return found


def _mend_model(model_id: str) -> str:
    """The command that brings a model of that id, where it is one that this edgeface can make."""
    from edgeface.engines.recipe import load_recipe, shipped

    name, precision = model_id.partition("@")[0], model_id.rpartition("/")[2]
    if precision not in PRECISIONS or name not in shipped() or load_recipe(name).model_id(precision) != model_id:
        return "edgeface enroll --people FOLDER --gallery NEW_FILE  # templates of two models cannot be compared"
    if precision == "fp32":
        return f"edgeface models fetch {name}"
    target = "" if precision == "int8" else " --target tensorrt"
    return f"edgeface build {name} --precision {precision}{target} --calibration FOLDER"


def camera(source: str, board: Board | None) -> Iterator[Finding]:
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
    try:
        import cv2
    except ImportError as error:
        yield Finding("camera", "fault", f"opening it needs OpenCV, which cannot be imported: {error}",
                      opencv_mend(board))  # fmt: skip
        return
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
