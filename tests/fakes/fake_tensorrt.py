"""A strict stand-in for `tensorrt`: engines are ONNX files or Python functions, numbers come from onnxruntime.

It knows the names that edgeface uses and no others, and punishes with `Misuse` what TensorRT answers with a crash:
unset addresses, addresses of freed memory, shapes outside the profile, calls without the CUDA context, objects that
end outside it or with work in flight.
"""

from __future__ import annotations

import enum
import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from fake_faults import Misuse
from fake_tensorrt_builder import builder_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Network = Callable[[Any], Mapping[str, Any]]

MAGIC = b"FAKE-TENSORRT\n"


def engine_file(
    *,
    input_name: str,
    low: tuple[int, ...],
    high: tuple[int, ...],
    outputs: list[str],
    onnx: bytes = b"",
    network: str = "",
    not_float: tuple[str, ...] = (),
    dla: int | None = None,
) -> bytes:
    """What stands for a serialised engine: a profile and an ONNX file, or the name of a Python function."""
    header = {
        "input": input_name, "low": low, "high": high, "outputs": outputs, "network": network,
        "not_float": not_float, "onnx": len(onnx), "dla": dla,
    }  # fmt: skip
    return MAGIC + json.dumps(header).encode() + b"\n" + onnx


class FakeTensorRt:
    """The package, on a machine. `module` is what stands for `tensorrt`.

    Args:
        device: a `FakeCuda`, or anything with its `view`, `enqueue`, `assert_current` and `leaks`.
        version: what ``__version__`` says.

    Attributes:
        networks: Python functions by the names that engine files give.
        refuse: calls that fail once, as TensorRT fails: None or False and a line in its log.
        alive: execution contexts, engines and runtimes that exist.
        configs, caches: builder configurations that compiled, and serialised timing caches that were given.
        interrupt: Ctrl-C is pressed while it compiles. no_builder: there is none, as without a GPU.
        dla_cores: of the board. demoted: layers (by ONNX node) that the compiler runs in another precision.
        inspector: what the engine inspector says instead of the truth.
    """

    def __init__(self, device: Any, *, version: str = "10.3.0") -> None:
        self.device = device
        self.networks: dict[str, Network] = {}
        self.refuse: dict[str, int] = {}
        self.alive = {"Runtime": 0, "ICudaEngine": 0, "IExecutionContext": 0}
        self.executed = 0
        self.configs: list[Any] = []
        self.caches: list[bytes] = []
        self.interrupt = self.no_builder = False
        self.dla_cores = 0
        self.demoted: dict[str, str] = {}
        self.inspector: str | None = None
        self.module = self._module(version)

    def refuses(self, call: str, logger: Any) -> bool:
        """Whether `call` fails this time; ``refuse[call] = 1`` fails the next, 2 the one after."""
        left = self.refuse.get(call)
        if left is None:
            return False
        self.refuse[call] = left - 1
        if left > 1:
            return False
        del self.refuse[call]
        logger.log(self.module.ILogger.Severity.ERROR, f"[fake] {call} fails as asked")
        return True

    def network(self, header: dict[str, Any], onnx: bytes) -> Network:
        if not onnx:
            return self.networks[header["network"]]
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        names = header["outputs"]

        def run(tensor: Any) -> Mapping[str, Any]:
            return dict(zip(names, session.run(names, {header["input"]: tensor}), strict=True))

        return run

    def _module(self, version: str) -> SimpleNamespace:
        world = self
        device = self.device

        names = builder_names(world, version)

        class Severity(enum.IntEnum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2
            INFO = 3
            VERBOSE = 4

        class ILogger:
            Severity: Any = None

            def __init__(self) -> None:
                self.ready = True

            def log(self, severity: Any, msg: str) -> None:
                raise Misuse("ILogger.log must be overridden")

        ILogger.Severity = Severity

        class TensorIOMode(enum.Enum):
            NONE = 0
            INPUT = 1
            OUTPUT = 2

        class DataType(enum.Enum):
            FLOAT = 0
            HALF = 1

        class Counted:
            def __init__(self) -> None:
                device.assert_current(type(self).__name__)
                world.alive[type(self).__name__] += 1
                self.counted = True

            def __del__(self) -> None:
                if self.__dict__.get("counted"):
                    world.alive[type(self).__name__] -= 1
                    try:
                        device.assert_current(type(self).__name__)
                    except Misuse:
                        device.leaks.append(f"{type(self).__name__} ended outside the CUDA context")

        class Runtime(Counted):
            DLA_core = -1

            def __init__(self, logger: ILogger) -> None:
                if not getattr(logger, "ready", False):
                    raise Misuse("the constructor of ILogger was not called")
                self.logger = logger
                super().__init__()

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
                if world.refuses("deserialize_cuda_engine", self.logger):
                    return None
                if not serialized_engine.startswith(MAGIC):
                    self.logger.log(Severity.ERROR, "magic tag does not match")
                    return None
                text, _, onnx = serialized_engine[len(MAGIC) :].partition(b"\n")
                header = json.loads(text)
                if header.get("dla") not in (None, self.DLA_core):
                    self.logger.log(Severity.ERROR, f"built for DLA core {header['dla']}, not for {self.DLA_core}")
                    return None
                return ICudaEngine(self, header, onnx)

        class ICudaEngine(Counted):
            def __init__(self, runtime: Runtime, header: dict[str, Any], onnx: bytes) -> None:
                self.runtime, self.header, self.onnx = runtime, header, onnx
                self.run = world.network(header, onnx)
                self.shapes: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}
                super().__init__()

            @property
            def num_io_tensors(self) -> int:
                return 1 + len(self.header["outputs"])

            def get_tensor_name(self, index: int) -> str:
                return str([self.header["input"], *self.header["outputs"]][index])

            def get_tensor_mode(self, name: str) -> TensorIOMode:
                return TensorIOMode.INPUT if name == self.header["input"] else TensorIOMode.OUTPUT

            def get_tensor_dtype(self, name: str) -> DataType:
                return DataType.HALF if name in self.header["not_float"] else DataType.FLOAT

            def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
                if profile_index != 0 or name != self.header["input"]:
                    raise Misuse("profile of an output, or one that is not there")
                low, high = tuple(self.header["low"]), tuple(self.header["high"])
                return [low, high, high]

            def create_execution_context(self) -> Any:
                if world.refuses("create_execution_context", self.runtime.logger):
                    return None
                return IExecutionContext(self)

            def create_engine_inspector(self) -> Any:
                return names["EngineInspector"](self.header, self.onnx)

            def _output_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
                if shape not in self.shapes:
                    values = self.run(np.zeros(shape, np.float32))
                    self.shapes[shape] = {name: values[name].shape for name in self.header["outputs"]}
                return self.shapes[shape]

        class IExecutionContext(Counted):
            def __init__(self, engine: ICudaEngine) -> None:
                self.owner = engine
                self.shape: tuple[int, ...] | None = None
                self.addresses: dict[str, int] = {}
                self.in_flight = 0
                self.state = 0
                super().__init__()

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                device.assert_current("set_input_shape")
                header, logger = self.owner.header, self.owner.runtime.logger
                if world.refuses("set_input_shape", logger):
                    return False
                low, high = header["low"], header["high"]
                fits = name == header["input"] and len(shape) == len(low)
                if not fits or any(not a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
                    logger.log(Severity.ERROR, f"{name}: {shape} is outside the profile")
                    return False
                self.shape = tuple(shape)
                self.state += 1
                return True

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                if self.shape is None:
                    raise Misuse("output shape asked for before the input's was set")
                return self.owner._output_shapes(self.shape)[name]

            def set_tensor_address(self, name: str, memory: int) -> bool:
                if world.refuses("set_tensor_address", self.owner.runtime.logger):
                    return False
                device.view(memory, 1)
                self.addresses[name] = memory
                return True

            def execute_async_v3(self, stream_handle: int) -> bool:
                device.assert_current("execute_async_v3")
                logger, header = self.owner.runtime.logger, self.owner.header
                if world.refuses("execute_async_v3", logger):
                    return False
                if self.shape is None:
                    raise Misuse("executed before the input's shape was set")
                missing = {header["input"], *header["outputs"]} - set(self.addresses)
                if missing:
                    raise Misuse(f"executed without addresses of {sorted(missing)}")
                shape = self.shape
                for name, size in self.owner._output_shapes(shape).items():
                    device.view(self.addresses[name], math.prod(size))
                self.in_flight += 1
                state = self.state

                def work() -> None:
                    if state != self.state:
                        raise Misuse("a recording of a context that was changed since")
                    tensor = device.view(self.addresses[header["input"]], math.prod(shape))
                    values = self.owner.run(tensor.reshape(shape))
                    for name in header["outputs"]:
                        flat = np.asarray(values[name], np.float32).ravel()
                        device.view(self.addresses[name], flat.size)[:] = flat
                    self.in_flight = max(0, self.in_flight - 1)  # a recording runs more than once
                    world.executed += 1

                if device.enqueue(stream_handle, work):
                    self.in_flight -= 1
                return True

            def __del__(self) -> None:
                if self.__dict__.get("in_flight") and not device.broken:
                    device.leaks.append("execution context ended with work in flight")
                super().__del__()

        return SimpleNamespace(
            __version__=version,
            DataType=DataType,
            ICudaEngine=ICudaEngine,
            IExecutionContext=IExecutionContext,
            ILogger=ILogger,
            Runtime=Runtime,
            TensorIOMode=TensorIOMode,
            **names,
        )
