"""A strict stand-in for `cuda.bindings.driver`, on the machine of a `FakeCuda`: what a stream queues is recorded."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fake_faults import Error, Misuse

if TYPE_CHECKING:
    from fake_cuda import FakeCuda


def bindings(world: FakeCuda) -> SimpleNamespace:
    """What stands for the module. `alive` counts graphs, recorded and executable, that were not destroyed."""
    alive: list[list[Any]] = []

    class CUresult(enum.IntEnum):
        CUDA_SUCCESS = 0
        CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901

    class CUstreamCaptureMode(enum.IntEnum):
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    class CUstream:
        def __init__(self, handle: int) -> None:
            self.handle = handle

    def fails(call: str) -> bool:
        try:
            world.enter(call)
        except Error:
            return True
        return False

    def destroy(graph: Any) -> None:
        if not any(graph is each for each in alive):
            raise Misuse("a graph destroyed twice, or none")
        alive[:] = [each for each in alive if each is not graph]

    def cuStreamBeginCapture(hStream: CUstream, mode: CUstreamCaptureMode) -> tuple[CUresult]:  # noqa: N802
        if fails("cuStreamBeginCapture"):
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,)
        if world.streams[hStream.handle].recording is not None:
            raise Misuse("a stream that records already")
        world.streams[hStream.handle].recording = []
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(hStream: CUstream) -> tuple[CUresult, Any]:  # noqa: N802
        stream = world.streams[hStream.handle]
        if stream.recording is None:
            raise Misuse("the end of a recording that was not begun")
        recorded, stream.recording = stream.recording, None
        if fails("cuStreamEndCapture"):
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        alive.append(recorded)
        return CUresult.CUDA_SUCCESS, recorded

    def cuGraphInstantiate(hGraph: Any, flags: int) -> tuple[CUresult, Any]:  # noqa: N802
        if fails("cuGraphInstantiate"):
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        alive.append(list(hGraph))
        return CUresult.CUDA_SUCCESS, alive[-1]

    def cuGraphLaunch(hGraphExec: Any, hStream: CUstream) -> tuple[CUresult]:  # noqa: N802
        if fails("cuGraphLaunch"):
            return (CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,)
        if not any(hGraphExec is each for each in alive):
            raise Misuse("launch of a graph that was destroyed")
        for work in hGraphExec:
            world.enqueue(hStream.handle, work)
        return (CUresult.CUDA_SUCCESS,)

    def cuGraphDestroy(hGraph: Any) -> tuple[CUresult]:  # noqa: N802
        destroy(hGraph)
        return (CUresult.CUDA_SUCCESS,)

    def cuGraphExecDestroy(hGraphExec: Any) -> tuple[CUresult]:  # noqa: N802
        world.assert_current("cuGraphExecDestroy")
        destroy(hGraphExec)
        return (CUresult.CUDA_SUCCESS,)

    world.graphs = alive
    return SimpleNamespace(
        CUresult=CUresult,
        CUstream=CUstream,
        CUstreamCaptureMode=CUstreamCaptureMode,
        cuGraphDestroy=cuGraphDestroy,
        cuGraphExecDestroy=cuGraphExecDestroy,
        cuGraphInstantiate=cuGraphInstantiate,
        cuGraphLaunch=cuGraphLaunch,
        cuStreamBeginCapture=cuStreamBeginCapture,
        cuStreamEndCapture=cuStreamEndCapture,
    )
