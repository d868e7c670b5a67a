"""One execution context of a TensorRT engine with its stream and its buffers: what one run at a time uses."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import EngineError, InferenceError
from edgeface.runtime.cuda import BUFFERS, Stream, explain
from edgeface.runtime.cuda_graphs import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeface.runtime.cuda import Buffer, Gpu
    from edgeface.runtime.frame import Work
    from edgeface.runtime.preparer import Preparer
    from edgeface.runtime.tensorrt_log import TensorRtLog
    from edgeface.types import FloatArray

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

#: TensorRT's guide: after a change of shape one run must go before a recording, for it does deferred work of its own.
#: A second one, so that shapes that come once are not recorded.
RUNS_BEFORE_RECORDING = 2


class Signature:
    """Names and sizes of an engine's tensors.

    Attributes:
        input_name: of the only input.
        smallest, largest: its shapes, of optimisation profile 0.
        outputs: names of all outputs: TensorRT wants an address for each, used or not.
    """

    def __init__(self, trt: Any, engine: Any) -> None:
        names = [str(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in inputs]
        self.inputs = inputs
        self.not_float = [name for name in names if engine.get_tensor_dtype(name) != trt.DataType.FLOAT]
        if len(inputs) == 1:
            self.input_name = inputs[0]
            low, _, high = engine.get_tensor_profile_shape(self.input_name, 0)
            self.smallest: Shape = tuple(int(size) for size in low)
            self.largest: Shape = tuple(int(size) for size in high)

    def fits(self, shape: Shape) -> bool:
        """Whether the engine takes an input of that shape."""
        return len(shape) == len(self.largest) and all(
            low <= size <= high for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )


class Slot:
    """Runs an engine, one call at a time. Everything is allocated here, for the largest input; runs allocate nothing.

    Every method wants the GPU's context current.

    Args:
        gpu, engine, signature, log: of the engine.
        outputs: names of the outputs to return, by their meaning.
        memory: ``mapped`` or ``copied``.

    Raises:
        EngineError: TensorRT has no room for another execution context. CUDA's own errors pass through.
    """

    def __init__(
        self, gpu: Gpu, engine: Any, signature: Signature, log: TensorRtLog, *, outputs: Mapping[str, str], memory: str
    ) -> None:
        self.memory = memory
        self._gpu = gpu
        self._log = log
        self._outputs = dict(outputs)
        self._input_name = signature.input_name
        self._every_output = signature.outputs
        self._buffers: dict[str, Buffer] = {}
        self._stream: Stream | None = None
        self._counts: dict[str, int] = {}
        self._shapes: dict[str, Shape] = {}
        self._shape: Shape | None = None
        self._input: FloatArray = np.empty(0, np.float32)
        self._context: Any = None
        self._preparer: Preparer | None = None
        self._bindings: Any = None
        self._graph: Graph | None = None
        self._runs = 0  # of the shape in use
        try:
            self._context = engine.create_execution_context()
            if self._context is None:
                raise EngineError(f"TensorRT gives no execution context: {log.said()}; is the GPU's memory full?")
            self._stream = Stream(gpu)
            sizes = self._sizes(signature.largest)
            for name, shape in sizes.items():
                self._buffers[name] = BUFFERS[memory](gpu, math.prod(shape))
                self._check(self._context.set_tensor_address(name, self._buffers[name].address), "set_tensor_address")
        except BaseException:
            self.close()
            raise

    def _check(self, done: bool, call: str) -> None:
        if not done:
            raise InferenceError(f"TensorRT's {call} failed: {self._log.said()}")

    def _sizes(self, shape: Shape) -> dict[str, Shape]:
        """Shapes of all tensors for an input of that shape."""
        self._check(self._context.set_input_shape(self._input_name, shape), "set_input_shape")
        sizes = {self._input_name: shape}
        for name in self._every_output:
            sizes[name] = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if min(sizes[name], default=1) < 0:
                raise EngineError(f"output {name!r} has the shape {sizes[name]}, known only after a run: not supported")
        return sizes

    def _bind(self, shape: Shape) -> None:
        self._shape = None  # what follows may fail half way
        self._drop_graph()  # TensorRT: a recording is of one state of the context, and this changes it
        self._shapes = self._sizes(shape)
        self._counts = {name: math.prod(size) for name, size in self._shapes.items()}
        self._input = self._buffers[self._input_name].host[: self._counts[self._input_name]].reshape(shape)
        self._shape = shape

    def run(self, tensor: FloatArray) -> dict[str, FloatArray]:
        """The outputs by meaning, in arrays that the caller owns."""
        stream = self._stream
        assert stream is not None
        if tensor.shape != self._shape:
            self._bind(tensor.shape)
        np.copyto(self._input, tensor)
        self._buffers[self._input_name].upload(self._counts[self._input_name], stream)
        return self._execute(stream)

    def equip(self, preparer: Preparer | None) -> None:
        """Take what prepares frames on the GPU, or close what was taken."""
        previous, self._preparer = self._preparer, preparer
        if previous is not None:
            previous.close()

    def run_frame(self, work: Work) -> dict[str, FloatArray]:
        """As `run`, with an input that is prepared on the GPU; wants `equip` before."""
        stream, preparer = self._stream, self._preparer
        assert stream is not None
        assert preparer is not None
        if work.shape != self._shape:
            self._bind(work.shape)
        preparer.prepare(work, self._buffers[self._input_name].address, stream)
        return self._execute(stream)

    def record(self, bindings: Any) -> None:
        """Record runs into CUDA graphs from now on, or no more where `bindings` is None."""
        self._bindings = bindings
        self._drop_graph()

    @property
    def recorded(self) -> bool:
        """Whether the shape in use runs as a graph."""
        return self._graph is not None

    def _drop_graph(self) -> None:
        graph, self._graph, self._runs = self._graph, None, 0
        if graph is not None:
            graph.close()

    def _queue(self, stream: Stream) -> None:
        """Everything from the input on the GPU to the outputs in page-locked memory."""
        self._check(self._context.execute_async_v3(stream.handle), "execute_async_v3")
        for name in self._outputs.values():
            self._buffers[name].download(self._counts[name], stream)

    def _record(self, stream: Stream) -> None:
        try:
            self._graph = Graph(self._bindings, stream.handle, lambda: self._queue(stream))
        except (InferenceError, self._gpu.driver.Error) as error:
            self._bindings = None
            said = str(error)  # a log that kept the exception would keep TensorRT's objects alive with it
            logger.warning("runs are not recorded into CUDA graphs any more: %s", said)

    def _execute(self, stream: Stream) -> dict[str, FloatArray]:
        buffers, counts = self._buffers, self._counts
        if self._bindings is not None and self._graph is None and self._runs >= RUNS_BEFORE_RECORDING:
            self._record(stream)
        if self._graph is not None:
            self._graph.launch()
        else:
            self._queue(stream)
        stream.synchronize()
        self._runs += 1
        return {
            meaning: buffers[name].host[: counts[name]].reshape(self._shapes[name]).copy()
            for meaning, name in self._outputs.items()
        }

    def settle(self) -> None:
        """After a failed run: wait until nothing of it uses the buffers any more, and forget its shapes."""
        self._shape = None
        if self._stream is not None:
            self._stream.synchronize()

    def close(self) -> None:
        """Free everything: first the context that uses the addresses, then the stream, then the memory."""
        try:
            self.settle()  # a run that failed half way has left work on the stream
        except self._gpu.driver.Error as error:
            logger.debug("closing a slot: %s", explain(error))
        self._drop_graph()
        self._context = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self.equip(None)
        while self._buffers:
            _, buffer = self._buffers.popitem()
            buffer.close()
