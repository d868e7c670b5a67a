"""onnxruntime behind the `Engine` protocol: runs everywhere, the same INT8 models too."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from edgeface.errors import (
    ClosedError,
    EngineIncompatibleError,
    InferenceError,
    MissingDependencyError,
    install_extra,
)
from edgeface.runtime.tensor import check_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from edgeface.manifest import Manifest
    from edgeface.types import FloatArray

MOST_THREADS = 4  # more threads than this wait for each other in networks this small


class OnnxRuntimeEngine:
    """A network that onnxruntime runs on the CPU. Safe to call from several threads.

    Args:
        content: the ONNX file's bytes, already held against the manifest's checksum.
        manifest: what they are.
        threads: CPU threads of one run; None is all processors that this process may use, four at most.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        EngineIncompatibleError: onnxruntime refuses the model, or its inputs and outputs are not the manifest's.
    """

    def __init__(self, content: bytes, manifest: Manifest, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                f"{manifest.name}: running {manifest.file} needs onnxruntime ({error}); {install_extra('host')}"
            ) from error
        if threads is None:
            threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: they come as exceptions as well
        # Without it, x86 processors that lack VNNI saturate INT8 products, and the accuracy is another.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineIncompatibleError(
                f"{manifest.name}: onnxruntime {onnxruntime.__version__} refuses {manifest.file}: {str(error)[:300]}"
            ) from error
        self.manifest = manifest
        self.description = f"onnxruntime {onnxruntime.__version__} on CPU, {threads} thread{'s' * (threads > 1)}"
        self._session: Any | None = session
        self._meanings = list(manifest.outputs)
        self._names = [manifest.outputs[meaning] for meaning in self._meanings]
        self._lock = threading.Lock()
        self._check_signature(session)

    def _check_signature(self, session: Any) -> None:
        inputs = [node.name for node in session.get_inputs()]
        outputs = {node.name for node in session.get_outputs()}
        missing = sorted(set(self._names) - outputs)
        if inputs != [self.manifest.input_name] or missing:
            raise EngineIncompatibleError(
                f"{self.manifest.name}: the manifest names input {self.manifest.input_name!r} and outputs "
                f"{sorted(self._names)}, the file has {inputs} and {sorted(outputs)}"
            )

    def run(self, tensor: FloatArray) -> Mapping[str, FloatArray]:
        """See `Engine.run`."""
        with self._lock:
            session = self._session
        if session is None:
            raise ClosedError(f"{self.manifest.name}: this engine was closed")
        check_tensor(self.manifest, tensor)
        try:
            values = session.run(self._names, {self.manifest.input_name: tensor})
        except Exception as error:
            raise InferenceError(f"{self.manifest.name}: onnxruntime failed: {str(error)[:300]}") from error
        return dict(zip(self._meanings, values, strict=True))

    def close(self) -> None:
        """Give back the session's memory once the runs in progress are done. Closing twice is harmless."""
        with self._lock:
            self._session = None

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
