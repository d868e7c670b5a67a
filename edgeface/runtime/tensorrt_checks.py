"""Whether a TensorRT engine fits this machine, found out before TensorRT sees the file.

TensorRT answers an engine of another version or device with None, or with the end of the process; the manifest
says beforehand what the engine was built for. The keys of its `build` table stand in `docs/formats/engine.md`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgeface.errors import EngineIncompatibleError, ModelNotFoundError
from edgeface.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.manifest import Manifest
    from edgeface.runtime.board import Board
    from edgeface.runtime.cuda import GpuFacts


def check_engine(
    path: Path, manifest: Manifest, *, version: str, gpu: GpuFacts | None = None, board: Board | None = None
) -> None:
    """Hold an engine's manifest against this machine.

    Args:
        path: the engine file; the ONNX file that it was built from is looked for beside it.
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
    return f"edgeface build {manifest.name} --precision {manifest.precision} --runtime {manifest.runtime}"


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
    built = manifest.build.get("onnx_sha256")
    name = manifest.build.get("onnx", f"{manifest.name}.{manifest.precision}.onnx")
    if not isinstance(built, str) or not isinstance(name, str) or "/" in name:
        return []
    try:
        source = read_manifest(path.with_name(name))
    except ModelNotFoundError:
        return []  # an engine may travel without the ONNX file
    if source.sha256 != built:
        return [f"built from an ONNX file with sha256 {built[:12]}, {name} beside it has {source.sha256[:12]}"]
    return []


def _hardware(manifest: Manifest, gpu: GpuFacts, board: Board | None) -> list[str]:
    build = manifest.build
    differences = []
    built = build.get("compute_capability")
    # TensorRT-RTX compiles for several compute capabilities at once: a list, or numbers with commas between.
    allowed = built if isinstance(built, list) else re.findall(r"\d+\.\d+", built) if isinstance(built, str) else []
    if not allowed:
        differences.append("its manifest does not say for which compute capability it was built")
    elif gpu.compute_capability not in allowed:
        differences.append(
            f"built for compute capability {', '.join(map(str, allowed))}, the {gpu.name} has {gpu.compute_capability}"
        )
    device = build.get("device")
    if manifest.runtime == "tensorrt" and device and device != gpu.name:
        differences.append(f"built on the GPU {device}, here is {gpu.name}")
    jetpack = build.get("jetpack")
    if jetpack and board is not None and board.jetpack and jetpack != board.jetpack:
        differences.append(f"built on JetPack {jetpack}, here is {board.jetpack}")
    return differences
