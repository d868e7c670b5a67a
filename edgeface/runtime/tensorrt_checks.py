"""Whether a TensorRT engine fits this machine, found out before TensorRT sees the file.

TensorRT answers an engine of another version or device with None, or with the end of the process; the manifest
says beforehand what the engine was built for. The keys of its `build` table stand in `docs/formats/engine.md`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from edgeface.errors import EngineIncompatibleError, ModelNotFoundError
from edgeface.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeface.manifest import Manifest
    from edgeface.runtime.board import Board
    from edgeface.runtime.cuda import GpuFacts

UNKNOWN_DEVICE = "this-machine"  # what `edgeface build` writes where no device tree names the board


def check_engine(
    path: Path, manifest: Manifest, *, version: str, gpu: GpuFacts | None = None, board: Board | None = None
) -> None:
    """Hold an engine's manifest against this machine.

    Args:
        path: the engine file; the float32 model that it was built from is looked for beside it.
        manifest: of the engine.
        version: of the TensorRT package here.
        gpu: of this machine; None leaves out what needs a driver.
        board: of this machine; None where it is no Jetson.

    Raises:
        EngineIncompatibleError: names every difference, both sides, and the command that rebuilds.
    """
    differences = [*_software(manifest, version), *_source(path, manifest)]
    if gpu is not None:
        differences += _hardware(manifest, gpu, board)
    if differences:
        raise EngineIncompatibleError(
            f"{path}: this engine does not fit: {'; '.join(differences)}. Build it again on this machine: "
            f"`{rebuild_command(manifest)}`"
        )


def rebuild_command(manifest: Manifest) -> str:
    """The command that builds this engine again."""
    asked = manifest.build.get("asked", manifest.precision)  # null where no precision was asked for
    dla = manifest.build.get("dla_core")
    precision = f" --precision {asked}" if isinstance(asked, str) else ""
    core = f" --dla {dla}" if isinstance(dla, int) else ""
    return f"edgeface build {manifest.name}{precision} --target {manifest.runtime}{core} --calibration FOLDER"


def _software(manifest: Manifest, version: str) -> list[str]:
    built = manifest.build.get("tensorrt")
    if not isinstance(built, str) or not built:
        return ["its manifest does not say which TensorRT built it"]
    # Engines are bound to major.minor.patch; what follows is the package's build and differs between packagings.
    if _numbers(built) != _numbers(version):
        return [f"built by TensorRT {built}, here is {version}"]
    return []


def _numbers(version: str) -> list[str]:
    return re.findall(r"\d+", version)[:3]


def _source(path: Path, manifest: Manifest) -> list[str]:
    """Whether the float32 model beside the engine, if there is one, is the one that it was built from."""
    built = manifest.build.get("fp32_sha256")
    if not isinstance(built, str):
        return []
    name = f"{manifest.name}.fp32.onnx"
    try:
        source = read_manifest(path.with_name(name))
    except ModelNotFoundError:
        return []  # an engine may travel without its source
    if source.sha256 != built:
        return [f"built from a float32 model with sha256 {built[:12]}, {name} beside it has {source.sha256[:12]}"]
    return []


def _hardware(manifest: Manifest, gpu: GpuFacts, board: Board | None) -> list[str]:
    build = manifest.build
    device, jetpack = build.get("device"), build.get("jetpack")
    differences = []
    allowed = _compute_capabilities(build)
    if allowed and gpu.compute_capability not in allowed:
        differences.append(
            f"built for compute capability {', '.join(allowed)}, the {gpu.name} has {gpu.compute_capability}"
        )
    if not allowed and not isinstance(device, str):
        differences.append("its manifest does not say for which compute capability or device it was built")
    here = [gpu.name] if board is None else [gpu.name, board.slug]
    if manifest.runtime == "tensorrt" and isinstance(device, str) and device not in (*here, UNKNOWN_DEVICE):
        differences.append(f"built on the device {device}, here is {' in a '.join(here)}")
    if isinstance(jetpack, str) and board is not None and not board.runs(jetpack):
        differences.append(f"built on JetPack {jetpack}, here is {board.jetpack or board.l4t}")
    return differences


def _compute_capabilities(build: Mapping[str, Any]) -> list[str]:
    """Those that an engine was built for; TensorRT-RTX compiles for several at once and names them ``SM86``."""
    given = build.get("compute_capability")
    if isinstance(given, list):
        return [str(each) for each in given]
    if isinstance(given, str):
        return re.findall(r"\d+\.\d+", given)
    return [f"{major}.{minor}" for major, minor in re.findall(r"\bSM(\d+)(\d)\b", str(build.get("device", "")))]
