"""The `Engine` protocol and `load_engine`: the only way in which the SDK runs a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from edgeface.contents import content_path
from edgeface.errors import ConfigurationError, ModelIntegrityError, ModelNotFoundError
from edgeface.manifest import Manifest, check_file, read_manifest
from edgeface.runtime.options import check_options

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from types import TracebackType

    from edgeface.runtime.frame import Size, Work
    from edgeface.types import FloatArray


@runtime_checkable
class Engine(Protocol):
    """A loaded network. Any object with these members serves, a user's own too.

    Attributes:
        manifest: what the network is and how to feed it.
        description: runtime, its version and its device, such as ``onnxruntime 1.22 on CPU, 2 threads``.
    """

    manifest: Manifest
    description: str

    def run(self, tensor: FloatArray) -> Mapping[str, FloatArray]:
        """Run the network once, from any thread.

        Args:
            tensor: (N, 3, H, W) float32, C-contiguous. N is at most ``manifest.max_batch``; H and W are the
                manifest's ``input_size``, or any multiples of 32 where that is None.

        Returns:
            Outputs by the meaning that ``manifest.outputs`` gives them: float32 arrays that the caller owns.

        Raises:
            InputError: the tensor is not of that shape or dtype.
            InferenceError: the runtime failed.
            ClosedError: the engine was closed.
        """
        ...

    def close(self) -> None:
        """Give back memory and device. Closing twice is harmless."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FrameEngine(Engine, Protocol):
    """What an engine may offer besides: to prepare its input itself, straight from a frame, as on the GPU.

    Attributes:
        prepares_frames: whether it does; it may have found that the CPU is faster.
        prepare_reason: why, or why not.
    """

    prepares_frames: bool
    prepare_reason: str

    def run_frame(self, work: Work) -> Mapping[str, FloatArray] | None:
        """Prepare the input and run the network on it, from any thread.

        Args:
            work: what `Letterbox` or `Align` mean. Its frame keeps the copy that is made of it.

        Returns:
            As `Engine.run`; None where this work is the CPU's, which then calls `Engine.run`.

        Raises:
            InferenceError, ClosedError: as `Engine.run`.
        """
        ...


def prepares_frames(engine: Engine) -> bool:
    """Whether an engine is a `FrameEngine` that prepares frames itself."""
    return bool(getattr(engine, "prepares_frames", False))


def run_frame(engine: Engine, work: Work) -> Mapping[str, FloatArray] | None:
    """The outputs of a `FrameEngine` that takes the work; None where it is the CPU's."""
    if not prepares_frames(engine):
        return None
    outputs: Mapping[str, FloatArray] | None = engine.run_frame(work)  # type: ignore[attr-defined]  # it has the other
    return outputs


def load_engine(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    workers: int = 1,
    memory: str = "auto",
    prepare: str = "auto",
    frame_size: Size = (1080, 1920),
    graphs: str = "off",
) -> Engine:
    """Load a model file by the manifest beside it.

    Args:
        path: the model file; its manifest is the same path with ``.json`` added. The bytes may be in a file beside
            it that the manifest names by its checksum, as `edgeface build` stores them.
        threads: CPU threads of one run of an onnxruntime model; None is all processors that this process may use,
            four at most.
        workers: runs of a TensorRT engine that may be on the GPU at the same time.
        memory: of a TensorRT engine, ``auto``, ``mapped`` or ``copied``; see `TensorRtEngine`.
        prepare: where frames become the input of a TensorRT engine: ``cpu``, ``gpu`` or ``auto``, whichever is measured
            faster while loading. onnxruntime's are prepared on the CPU.
        frame_size: height and width in pixels of the frames on which that is measured.
        graphs: whether a TensorRT engine records runs into CUDA graphs: ``off``, ``on`` or ``auto``.

    Raises:
        InputError: an option is out of range, whatever the model runs on.
        ModelNotFoundError: the file or its manifest is absent.
        ModelIntegrityError: the file is not the one that the manifest describes.
        RecipeError: the manifest is malformed.
        ConfigurationError: ``prepare="gpu"`` or ``graphs="on"`` for a model that runs on the CPU.
        EngineIncompatibleError: this machine cannot run it: built for another TensorRT, device or model.
        MissingDependencyError: the runtime's package, the driver or the GPU is not there.
        EngineError: the GPU has not enough memory, or its context was lost.
    """
    check_options(
        threads=threads, workers=workers, memory=memory, prepare=prepare, frame_size=frame_size, graphs=graphs
    )
    file = Path(path)
    while True:
        manifest = read_manifest(file)
        content_path(file, manifest)  # before a runtime is imported
        try:
            return _load(
                file, manifest, threads,
                workers=workers, memory=memory, prepare=prepare, frame_size=frame_size, graphs=graphs,
            )  # fmt: skip
        except (ModelNotFoundError, ModelIntegrityError):
            if read_manifest(file) == manifest:
                raise
            # A build or fetch exchanged the manifest and removed or replaced the old bytes between the two reads: the
            # new ones are there.


def _load(file: Path, manifest: Manifest, threads: int | None, **gpu_options: Any) -> Engine:
    if manifest.runtime == "onnxruntime":
        for option, asked, does in (
            ("prepare", "gpu", "takes frames prepared on the GPU"),
            ("graphs", "on", "records runs into CUDA graphs"),
        ):
            if gpu_options[option] == asked:
                raise ConfigurationError(
                    f"{manifest.name}: only a TensorRT engine {does}, and {file} is a model for onnxruntime; omit "
                    f"`{option}`, or build an engine"
                )
        from edgeface.runtime.onnxrt import OnnxRuntimeEngine

        return OnnxRuntimeEngine(check_file(file, manifest), manifest, threads=threads)
    from edgeface.runtime.tensorrt import TensorRtEngine

    return TensorRtEngine(file, manifest, **gpu_options)
