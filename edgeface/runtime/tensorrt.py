"""TensorRT engines behind the `Engine` protocol: the only module of the SDK that imports TensorRT.

TensorRT 10.3 to 11.4 and TensorRT-RTX share every call used here; `tests/contract` holds that against their bindings.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import logging
import os
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import (
    ClosedError,
    EngineError,
    EngineIncompatibleError,
    InferenceError,
    InputError,
    MissingDependencyError,
)
from edgeface.manifest import check_file
from edgeface.runtime.board import read_board
from edgeface.runtime.cuda import acquire_gpu, explain, inference_error, release_gpu
from edgeface.runtime.frame import Letterbox
from edgeface.runtime.preparer import FORMATS
from edgeface.runtime.tensor import check_tensor
from edgeface.runtime.tensorrt_checks import check_engine, rebuild_command
from edgeface.runtime.tensorrt_log import TensorRtLog
from edgeface.runtime.tensorrt_slot import Signature, Slot
from edgeface.runtime.tensorrt_trials import choose_graphs, choose_memory, choose_preparation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from edgeface.manifest import Manifest
    from edgeface.runtime.frame import Size, Work
    from edgeface.types import FloatArray

logger = logging.getLogger(__name__)

#: The wheels of TensorRT-RTX's bindings name their module so; `tensorrt_rtx` is a package of its own above them.
PACKAGES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
EXIT_PATIENCE_S = 5.0  # how long the interpreter's exit waits for a run in a daemon thread

_logs: dict[str, TensorRtLog] = {}
_open_engines: weakref.WeakSet[TensorRtEngine] = weakref.WeakSet()


def import_tensorrt(runtime: str) -> Any:
    """The package that runs engines of the runtime ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        MissingDependencyError: it is not installed, or cannot be loaded.
    """
    failed: list[tuple[bool, str, Exception]] = []
    for package in PACKAGES[runtime]:
        try:
            return importlib.import_module(package)
        except (ImportError, OSError) as error:  # OSError: the bindings are there, a library of theirs is not
            failed.append((isinstance(error, ModuleNotFoundError) and error.name == package, package, error))
    _, package, cause = min(failed, key=lambda one: one[0])  # what is there and broken, before what is not there
    mend = (
        "it is a part of JetPack: make the virtual environment with --system-site-packages (`jetson/setup.sh` does)"
        if runtime == "tensorrt"
        else "`pip install tensorrt_rtx_cu13_bindings tensorrt_rtx_cu13_libs`"
    )
    raise MissingDependencyError(f"the Python package {package} cannot be imported ({cause}); {mend}") from cause


class TensorRtEngine:
    """A network that TensorRT runs on the GPU. Safe to call from several threads; each run waits for a free worker.

    The outputs are copies, page-locked buffers are allocated once, and nothing is allocated on the GPU after loading.
    A CUDA error that ends the GPU's context closes no door: close every engine, load them again.

    Args:
        path: the engine file, with its manifest beside it.
        manifest: of that file.
        workers: runs that may be on the GPU at the same time, each with an execution context, a stream and buffers.
        memory: ``mapped`` (page-locked memory that the GPU addresses), ``copied`` (page-locked, and copies), or
            ``auto``: on a GPU that shares the processor's memory whichever is measured faster, otherwise ``copied``.
        prepare: where frames become the network's input: ``cpu``, ``gpu`` (by the CUDA kernels, which must be there),
            or ``auto``: whichever is measured faster from frame to result.
        frame_size: height and width in pixels of the frames on which that is measured.
        graphs: whether runs of the shape in use are recorded into CUDA graphs: ``off``, ``on``, or ``auto``: where
            cuda-bindings is installed and the network can be recorded.

    Raises:
        MissingDependencyError: TensorRT, pycuda, the driver or a GPU is absent.
        EngineIncompatibleError: the engine was built for something else.
        ModelIntegrityError: the file is not the manifest's.
        EngineError: not enough memory, or the GPU's context is lost.

    Attributes:
        memory: the kind of memory in use.
        memory_reason: why that kind.
        prepares_frames: whether the GPU prepares frames.
        prepare_reason: why, or why not.
        records: whether runs are recorded into CUDA graphs.
        graphs_reason: why, or why not.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        workers: int = 1,
        memory: str = "auto",
        prepare: str = "auto",
        frame_size: Size = (1080, 1920),
        graphs: str = "off",
    ) -> None:
        trt = import_tensorrt(manifest.runtime)
        version = str(trt.__version__)
        check_engine(path, manifest, version=version)
        content = check_file(path, manifest)
        gpu = acquire_gpu()
        self.manifest = manifest
        self._gpu = gpu
        self._ready = threading.Condition()
        self._idle: list[Slot] = []
        self._workers = 0
        self._closed = False
        self._released = False
        self._prepares_every_frame = prepare == "gpu"
        self._engine: Any = None
        self._runtime: Any = None
        try:
            check_engine(path, manifest, version=version, gpu=gpu.facts, board=read_board())
            with gpu:
                self._log = _logs.setdefault(manifest.runtime, TensorRtLog(trt))
                self._deserialize(trt, content)
                self._signature = self._check_signature(trt)
                self.memory, self.memory_reason = choose_memory(
                    memory, gpu, self._slot, self._signature.largest
                )
                for _ in range(workers):
                    slot = self._slot(self.memory)
                    self._idle.append(slot)
                    self._workers += 1
                    slot.run(np.zeros(self._signature.largest, np.float32))  # first use: what TensorRT allocates lazily
                self.prepares_frames, self.prepare_reason = choose_preparation(
                    prepare, gpu, self._idle, self._signature, manifest, frame_size
                )
                self.records, self.graphs_reason = choose_graphs(
                    graphs, self._idle, manifest, self._signature.largest
                )
        except BaseException as error:
            with contextlib.suppress(gpu.driver.Error), gpu:
                _clear_frames(error)
            gpu.still_works()
            self.close()
            if isinstance(error, gpu.driver.Error):
                raise EngineError(
                    f"{manifest.name}: loading the engine failed: {explain(error)}; "
                    "is other work filling the GPU's memory?"
                ) from error
            raise
        self.description = (
            f"{manifest.runtime} {version} on {gpu.facts.name} (compute capability "
            f"{gpu.facts.compute_capability}), {workers} worker{'s' * (workers > 1)}, {self.memory} memory"
        )
        _open_engines.add(self)

    def _deserialize(self, trt: Any, content: bytes) -> None:
        self._log.said()  # forget what earlier engines said
        self._runtime = trt.Runtime(self._log.native)
        core = self.manifest.build.get("dla_core")
        if isinstance(core, int):
            self._runtime.DLA_core = core
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineIncompatibleError(
                f"{self.manifest.file}: TensorRT {trt.__version__} refuses this engine: {self._log.said()}. "
                f"Build it again on this machine: `{rebuild_command(self.manifest)}`"
            )

    def _check_signature(self, trt: Any) -> Signature:
        signature = Signature(trt, self._engine)
        wanted = set(self.manifest.outputs.values())
        if signature.inputs != [self.manifest.input_name] or wanted - set(signature.outputs):
            raise EngineIncompatibleError(
                f"{self.manifest.name}: the manifest names input {self.manifest.input_name!r} and outputs "
                f"{sorted(wanted)}, the engine has {signature.inputs} and {sorted(signature.outputs)}"
            )
        if signature.not_float:
            raise EngineIncompatibleError(
                f"{self.manifest.name}: expected float32 inputs and outputs, {', '.join(signature.not_float)} are not; "
                f"build the engine with `{rebuild_command(self.manifest)}`"
            )
        return signature

    def _slot(self, memory: str) -> Slot:
        outputs = self.manifest.outputs
        return Slot(self._gpu, self._engine, self._signature, self._log, outputs=outputs, memory=memory)

    def run(self, tensor: FloatArray) -> Mapping[str, FloatArray]:
        """See `Engine.run`."""
        if not self._closed:  # a closed engine says so, whatever it was given
            check_tensor(self.manifest, tensor)
            if not self._signature.fits(tensor.shape):
                raise InputError(
                    f"{self.manifest.name}: the engine takes tensors from {self._signature.smallest} to "
                    f"{self._signature.largest}, got {tensor.shape}"
                )
        return self._run(lambda slot: slot.run(tensor))

    def run_frame(self, work: Work) -> Mapping[str, FloatArray] | None:
        """See `FrameEngine.run_frame`."""
        if not self.prepares_frames or work.frame.pixel_format not in FORMATS or not self._signature.fits(work.shape):
            return None
        # A frame that is not on the GPU yet costs more to send than a few faces take to align on the CPU.
        if not (isinstance(work, Letterbox) or work.frame.copy is not None or self._prepares_every_frame):
            return None
        try:
            return self._run(lambda slot: slot.run_frame(work))
        except InferenceError:
            work.frame.release()  # it may be half there; nothing uses it once the slot has settled
            raise

    def _run(self, on: Callable[[Slot], dict[str, FloatArray]]) -> dict[str, FloatArray]:
        slot = self._take()
        gpu = self._gpu
        try:
            with gpu:
                return on(slot)
        except BaseException as error:
            self._settle(slot)  # after Ctrl-C, too: the frame's memory is lent again as soon as this is left
            if isinstance(error, gpu.driver.Error):
                raise inference_error(gpu, self.manifest.name, error) from error
            gpu.still_works()  # where TensorRT refused: had CUDA failed before it?
            raise
        finally:
            self._give(slot)

    def _settle(self, slot: Slot) -> None:
        """Wait after a failed run until nothing on the GPU uses the slot's buffers any more."""
        try:
            with self._gpu:
                slot.settle()
        except self._gpu.driver.Error as error:
            logger.debug("%s: settling a failed run: %s", self.manifest.name, explain(error))

    @property
    def lost(self) -> str | None:
        """Why the GPU's context can no longer be used, or None. Closing every engine and loading again mends it."""
        return self._gpu.lost

    def _take(self) -> Slot:
        self._gpu.refuse_after_fork()  # another thread may have held the lock at the fork
        with self._ready:
            while not self._closed and not self._idle:
                self._ready.wait()
            if self._closed:
                raise ClosedError(f"{self.manifest.name}: this engine was closed")
            if self._gpu.lost is not None:
                raise InferenceError(
                    f"{self.manifest.name}: the GPU's context was lost ({self._gpu.lost}); close every engine and load "
                    "them again (`FaceRecognizer.reload()` does)"
                )
            return self._idle.pop()

    def _give(self, slot: Slot) -> None:
        with self._ready:
            self._idle.append(slot)
            self._ready.notify_all()

    def close(self) -> None:
        """Free the GPU's memory once the runs in progress are done. Closing twice is harmless."""
        self._close(patience_s=None)

    def _close(self, *, patience_s: float | None) -> None:
        if self._gpu.forked:  # in a child of fork nothing of this is its own, and a lock may be held for ever
            self._closed = True
            return
        with self._ready:
            self._closed = True
            self._ready.notify_all()
            done = self._ready.wait_for(lambda: len(self._idle) == self._workers, patience_s)
            if self._released or not done:
                return
            self._released = True
        try:
            self._free()
        except self._gpu.driver.Error as error:
            logger.debug("%s: closing, first attempt: %s", self.manifest.name, explain(error))
            try:
                self._free()  # an error of earlier work may have been reported to the first attempt
            except self._gpu.driver.Error as again:
                # Only a lost context refuses twice, and the driver frees what was in it together with the context.
                logger.warning("%s: closing: %s", self.manifest.name, explain(again))
        finally:
            self._idle.clear()
            self._engine = self._runtime = None
            release_gpu(self._gpu)

    def _free(self) -> None:
        with self._gpu:
            while self._idle:
                self._idle.pop().close()
                self._workers -= 1
            self._engine = None
            self._runtime = None

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Left to the garbage collector, pycuda's objects would be freed in whichever thread runs it, and leak.
        if getattr(self, "_gpu", None) is not None:
            self._close(patience_s=0)


def _clear_frames(error: BaseException | None) -> None:
    """Drop the local variables that an exception keeps: among them are TensorRT's objects, which must end first."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _close_all() -> None:
    for engine in list(_open_engines):
        engine._close(patience_s=EXIT_PATIENCE_S)


def _keep_after_fork() -> None:
    """In a child of fork: never let go of the parent's engines, for freeing them would call CUDA."""
    for engine in list(_open_engines):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


atexit.register(_close_all)
os.register_at_fork(after_in_child=_keep_after_fork)
