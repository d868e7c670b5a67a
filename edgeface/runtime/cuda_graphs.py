"""CUDA graphs: what a run queues, recorded once and launched as one call. The only module that imports cuda-bindings.

pycuda has no graphs. cuda-bindings works on the same context and streams, by their handles.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from edgeface.errors import InferenceError, MissingDependencyError, install_extra

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


def import_bindings() -> Any:
    """The module `cuda.bindings.driver`.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"CUDA graphs need the package cuda-bindings ({error}); {install_extra('graphs')}, with the version of "
            "the board's CUDA (docs/jetson.md), or leave `graphs` at 'off'"
        ) from error


def check(bindings: Any, call: str, answer: tuple[Any, ...]) -> Any:
    """What a call gave beside its result code. Raises InferenceError."""
    result, *values = answer
    if result != bindings.CUresult.CUDA_SUCCESS:
        raise InferenceError(f"CUDA call {call} failed: {getattr(result, 'name', result)}")
    return values[0] if values else None


class Graph:
    """A recorded run. Made, launched and closed with the GPU's context current.

    Args:
        bindings: of `import_bindings`.
        stream: handle of the stream on which the run is queued.
        queue: queues the run; it allocates nothing and waits for nothing.

    Raises:
        InferenceError: the run cannot be recorded; the stream works as before. Also what `queue` raises.
    """

    def __init__(self, bindings: Any, stream: int, queue: Callable[[], None]) -> None:
        self._bindings = bindings
        self._stream = bindings.CUstream(stream)
        # Of this thread only: other engines allocate and wait meanwhile, which a recording of all threads forbids.
        mode = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        check(bindings, "cuStreamBeginCapture", bindings.cuStreamBeginCapture(self._stream, mode))
        try:
            queue()
        except BaseException:  # the failure of the run is the one to tell
            result, partial = bindings.cuStreamEndCapture(self._stream)
            if result == bindings.CUresult.CUDA_SUCCESS:
                bindings.cuGraphDestroy(partial)
            raise
        recorded = check(bindings, "cuStreamEndCapture", bindings.cuStreamEndCapture(self._stream))
        try:
            self._exec: Any = check(bindings, "cuGraphInstantiate", bindings.cuGraphInstantiate(recorded, 0))
        finally:
            bindings.cuGraphDestroy(recorded)

    def launch(self) -> None:
        """Queue the whole run. Raises InferenceError."""
        check(self._bindings, "cuGraphLaunch", self._bindings.cuGraphLaunch(self._exec, self._stream))

    def close(self) -> None:
        """Free it; nothing of it may be running."""
        (result,) = self._bindings.cuGraphExecDestroy(self._exec)
        if result != self._bindings.CUresult.CUDA_SUCCESS:
            logger.debug("freeing a CUDA graph: %s", result)  # a lost context frees it by ending
