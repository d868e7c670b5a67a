"""Which runtime a model given by name runs on, and why: never the CPU in silence where a GPU was meant."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeface.errors import (
    ConfigurationError,
    EngineError,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
)
from edgeface.home import engine_path, model_path
from edgeface.manifest import PRECISIONS, is_stored, read_manifest
from edgeface.runtime.board import read_board
from edgeface.runtime.engine import load_engine, prepares_frames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeface.runtime.engine import Engine
    from edgeface.runtime.frame import Size

logger = logging.getLogger(__name__)

RUNTIMES = ("auto", "tensorrt", "onnxruntime")


@dataclass(frozen=True)
class Choice:
    """What a model runs on.

    Attributes:
        runtime: ``tensorrt``, ``tensorrt-rtx`` or ``onnxruntime``.
        reason: why, for people to read.
        path: of the model file.
        frames: where frames become the network's input, and why.
    """

    runtime: str
    reason: str
    path: Path
    frames: str = "prepared on the CPU, where the network runs"


def choose(
    model: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    runtime: str = "auto",
    threads: int | None = None,
    prepare: str = "auto",
    frame_size: Size = (1080, 1920),
    graphs: str = "off",
) -> tuple[Engine, Choice]:
    """Load a model on the runtime asked for, or on the best one here.

    With ``auto``, a model given by name runs on TensorRT where `edgeface build` made an engine of that precision and
    it loads, otherwise on onnxruntime; every reason for the latter but the absence of an engine is a logged warning.

    Args:
        model: a recipe's name, or the path of a model file with its manifest beside it.
        precision: of a model given by name: the one that its build was asked for. What that gave, such as a mixed plan
            for ``int8``, is said in the reason.
        runtime: ``auto``, ``tensorrt`` or ``onnxruntime``; the latter two accept nothing else.
        threads: CPU threads of one run with onnxruntime.
        prepare, frame_size, graphs: of a TensorRT engine, as for `load_engine`.

    Raises:
        InputError: `runtime` or `precision` is not one of those there are, or the name of the model is empty.
        ModelNotFoundError: there is no such model, or no engine of it with ``tensorrt``.
        ConfigurationError: a model file for another runtime than the one asked for.
        Also all errors of `load_engine`.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if precision not in PRECISIONS:
        raise InputError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if isinstance(model, str) and not model.strip():
        raise InputError(f"model: expected a recipe's name or the path of a model file, got {model!r}")
    options = {"prepare": prepare, "frame_size": frame_size, "graphs": graphs}
    if is_file(model):
        return _given(model, runtime, threads, options)
    assert isinstance(model, str)
    engine_file = engine_path(model, precision)
    if runtime == "tensorrt":
        return _load(_present(engine_file, model, precision, "tensorrt"), "asked for", options, asked=precision)
    reason = "asked for"
    if runtime == "auto":
        if is_stored(engine_file):
            try:
                return _load(engine_file, "an engine for this machine is there", options, asked=precision)
            except (EngineError, ModelError, MissingDependencyError) as error:  # a cut-short build's file, too
                reason = f"its TensorRT engine cannot run: {error}"
                logger.warning("%s runs on the CPU: %s", model, reason)
        else:
            reason = f"there is no TensorRT engine {engine_file}; `{_build(model, precision)}` makes one"
            level = logging.INFO if read_board() is None else logging.WARNING
            logger.log(level, "%s runs on the CPU: %s", model, reason)
    path = _present(model_path(model, precision), model, precision, "onnxruntime")
    return _load(path, reason, {**options, "threads": threads}, asked=precision)


def is_file(model: str | os.PathLike[str]) -> bool:
    """Whether a model is given by its file, not by a recipe's name."""
    return not isinstance(model, str) or "/" in model or "." in model


def _load(
    path: Path, reason: str, options: Mapping[str, Any], *, asked: str | None = None
) -> tuple[Engine, Choice]:
    """Load a file, and say where it runs; and if it is not in the precision that was asked for, what it is in."""
    engine = load_engine(path, **options)
    precision = engine.manifest.precision
    if asked not in (None, precision):  # INT8 that had to grow, say
        reason += f"; the build for {asked} gave {precision}"
    choice = Choice(engine.manifest.runtime, reason, path)
    why = getattr(engine, "prepare_reason", "")
    if why:
        choice = replace(choice, frames=f"prepared on the {'GPU' if prepares_frames(engine) else 'CPU'}: {why}")
    return engine, choice


def _given(
    model: str | os.PathLike[str], runtime: str, threads: int | None, options: Mapping[str, Any]
) -> tuple[Engine, Choice]:
    from pathlib import Path

    path = Path(model)
    made_for = read_manifest(path).runtime
    if runtime != "auto" and not made_for.startswith(runtime):
        raise ConfigurationError(f"{path}: a model for {made_for}, but the runtime {runtime} was asked for")
    return _load(path, "the model file is for it", {**options, "threads": threads})


def _build(model: str, precision: str) -> str:
    return f"edgeface build {model} --precision {precision} --target tensorrt --calibration FOLDER"


def _present(path: Path, model: str, precision: str, runtime: str) -> Path:
    if is_stored(path):
        return path
    if runtime == "tensorrt":
        mend = _build(model, precision)
    elif precision == "fp32":
        mend = f"edgeface models fetch {model}`, or for a model of your own `edgeface models fetch RECIPE_FILE"
    else:
        mend = f"edgeface build {model} --precision {precision} --calibration FOLDER"
    raise ModelNotFoundError(f"{path}: model {model!r} at precision {precision!r} is not there; run `{mend}`")
