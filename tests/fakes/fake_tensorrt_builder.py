"""The part of the stand-in for `tensorrt` that compiles: ONNX files become engine files of `fake_tensorrt`.

It answers as TensorRT does, with None and a line in the log, and punishes with `Misuse` what TensorRT ignores in
silence: attributes that a configuration does not have, a network that is not strongly typed.
"""

from __future__ import annotations

import enum
import json
import os
import signal
from typing import TYPE_CHECKING, Any

from fake_faults import Misuse

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRt

WORDS = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}
#: TensorRT 10's words for the same, of formats as its documentation shows them.
FORMATS = {
    "int8": "Thirty-two wide channel vectorized row major Int8 format",
    "fp16": "Channel major FP16 format where channel % 8 == 0",
    "fp32": "Row major linear FP32",
}


def inspector_json(version: str, onnx: bytes, *, demoted: dict[str, str], dla: bool) -> str:
    """What the engine inspector says of a plan of that network: each layer with weights as its types ask for it.

    Args:
        demoted: types of layers that the compiler ran in another one than asked for.
    """
    from edgeface.engines.layers import file_layers

    layers = []
    for row in file_layers(onnx):
        kind = demoted.get(row["layer"], row["precision"])
        if version.startswith("10."):
            tensor = {"Location": "Device", "Dimensions": [1, 8, 8, 8], "Format/Datatype": FORMATS[kind]}
        else:
            tensor = {"Dimensions": [1, 8, 8, 8], "DataType": WORDS[kind], "Format": FORMATS[kind] + " (kLINEAR)"}
        layers.append(
            {
                "Name": f"{row['layer']} + activation",
                "LayerType": "DLA" if dla else "CaskConvolution",
                "Inputs": [{"Name": "x", **tensor}],
                "Outputs": [{"Name": "y", **tensor}],
                "ParameterType": "Convolution",
                "Weights": {"Type": WORDS[kind], "Count": row["weights"]},
                "TacticName": "tactic",
                "Metadata": f"[ONNX Layer: {row['layer']}]\x1f[ONNX Layer: activation]",
            }
        )
    ends = {"Bindings": ["in", "out"]} if version.startswith("10.") else {"I/O Tensors": [{"Name": "in"}]}
    return json.dumps({"Layers": layers, **ends})


def builder_names(world: FakeTensorRt, version: str) -> dict[str, Any]:
    """Everything that compiling needs, to be added to the module."""

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        STRONGLY_TYPED = 1

    class MemoryPoolType(enum.IntEnum):
        WORKSPACE = 0

    class ProfilingVerbosity(enum.IntEnum):
        DETAILED = 2

    class DeviceType(enum.IntEnum):
        GPU = 0
        DLA = 1

    class BuilderFlag(enum.IntEnum):
        GPU_FALLBACK = 3

    class LayerInformationFormat(enum.IntEnum):
        JSON = 1

    class IHostMemory(bytes):
        pass

    class ITimingCache:
        def __init__(self, of: bytes) -> None:
            self.of = of

        def serialize(self) -> IHostMemory:
            return IHostMemory(b"timings")

    class IProgressMonitor:
        def __init__(self) -> None:
            self._ready = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            raise Misuse("must be overridden")

        def step_complete(self, phase_name: str, step: int) -> bool:
            raise Misuse("must be overridden")

        def phase_finish(self, phase_name: str) -> None:
            raise Misuse("must be overridden")

    class IOptimizationProfile:
        def __init__(self) -> None:
            self._shapes: dict[str, list[tuple[int, ...]]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]

    class ITensor:
        name = ""
        shape: tuple[int, ...] = ()

    class INetworkDefinition:
        def __init__(self) -> None:
            self._onnx = b""
            self._input = ITensor()
            self._outputs: list[str] = []

        def get_input(self, index: int) -> ITensor:
            assert index == 0
            return self._input

    class IBuilderConfig:
        builder_optimization_level = 3
        profiling_verbosity: Any = None
        progress_monitor: Any = None
        default_device_type: Any = DeviceType.GPU
        DLA_core = -1

        def __init__(self) -> None:
            self._pools: dict[Any, int] = {}
            self._profiles: list[IOptimizationProfile] = []
            self._flags: list[Any] = []
            self._cache: ITimingCache | None = None

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_") and name not in vars(IBuilderConfig):
                raise Misuse(f"IBuilderConfig has no {name}")
            object.__setattr__(self, name, value)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self._pools[pool] = pool_size

        def set_flag(self, flag: Any) -> None:
            self._flags.append(flag)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            low, usual, high = next(iter(profile._shapes.values()))
            if any(not a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
                return -1
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            world.caches.append(serialized_timing_cache)
            readable = serialized_timing_cache == b"" or serialized_timing_cache.startswith(b"timings")
            return ITimingCache(serialized_timing_cache) if readable else None

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False, "timings of another device are worth nothing"
            if cache.of not in (b"", b"timings"):  # "timings of another power mode"
                return False
            self._cache = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._cache

    class ParserError:
        def __init__(self, index: int, name: str, operator: str, reason: str) -> None:
            self._said = (index, name, operator, reason)

        def node(self) -> int:
            return self._said[0]

        def node_name(self) -> str:
            return self._said[1]

        def node_operator(self) -> str:
            return self._said[2]

        def desc(self) -> str:
            return self._said[3]

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network, self._errors = network, list[ParserError]()

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

        def parse(self, model: bytes) -> bool:
            import onnx

            loaded = onnx.load_model_from_string(model)
            for index, node in enumerate(loaded.graph.node):
                if not onnx.defs.has(node.op_type):
                    self._errors.append(ParserError(index, node.name, node.op_type, "no importer registered"))
            network, given = self._network, loaded.graph.input[0]
            network._onnx = model
            network._input.name = given.name
            dims = given.type.tensor_type.shape.dim
            network._input.shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)
            network._outputs = [output.name for output in loaded.graph.output]
            return not self._errors

    class EngineInspector:
        def __init__(self, header: dict[str, Any], onnx: bytes) -> None:
            self._header, self._onnx = header, onnx

        def get_engine_information(self, format: Any) -> str:
            assert format == LayerInformationFormat.JSON
            if world.inspector is not None:
                return world.inspector
            dla = self._header.get("dla") is not None
            return inspector_json(version, self._onnx, demoted=world.demoted, dla=dla)

    class Builder:
        num_DLA_cores = 0  # noqa: N815 - its name in TensorRT

        def __init__(self, logger: Any) -> None:
            if not getattr(logger, "ready", False):
                raise Misuse("the constructor of ILogger was not called")
            if world.no_builder:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            self.num_DLA_cores = world.dla_cores

        def create_network(self, flags: int) -> INetworkDefinition:
            if flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
                raise Misuse(f"a network with the flags {flags}: strongly typed, and nothing else, is what all know")
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            world.configs.append(config)
            if not self._phases(config.progress_monitor) or world.refuses("build_serialized_network", self._logger):
                return None
            shape = network._input.shape
            shapes = [profile._shapes[network._input.name] for profile in config._profiles]
            if -1 in shape and not shapes:
                self._logger.log(world.module.ILogger.Severity.ERROR, "dynamic input without a profile")
                return None
            low, _, high = shapes[0] if shapes else (shape, shape, shape)
            dla = config.DLA_core if config.default_device_type == DeviceType.DLA else None
            if dla is not None and low != high:
                self._logger.log(world.module.ILogger.Severity.ERROR, "DLA does not support dynamic dimensions")
                return None
            from fake_tensorrt import engine_file

            name, outputs, onnx = network._input.name, network._outputs, network._onnx
            return IHostMemory(engine_file(input_name=name, low=low, high=high, outputs=outputs, onnx=onnx, dla=dla))

        def _phases(self, monitor: Any) -> bool:
            """Two phases, one inside the other; whether to go on."""
            if not getattr(monitor, "_ready", False):
                raise Misuse("the constructor of IProgressMonitor was not called")
            self._logger.log(world.module.ILogger.Severity.INFO, "chatter")
            monitor.phase_start("Building", None, 3)
            monitor.phase_start("Timing", "Building", 9)
            if world.interrupt:
                os.kill(os.getpid(), signal.SIGINT)
            going = bool(monitor.step_complete("Timing", 0) and monitor.step_complete("Building", 0))
            monitor.phase_finish("Timing")
            monitor.phase_finish("Building")
            return going

    return {
        each.__name__: each
        for each in (
            NetworkDefinitionCreationFlag, MemoryPoolType, ProfilingVerbosity, DeviceType, BuilderFlag,
            LayerInformationFormat, IHostMemory, ITimingCache, IProgressMonitor, IOptimizationProfile, ITensor,
            INetworkDefinition, IBuilderConfig, ParserError, OnnxParser, EngineInspector, Builder,
        )
    }  # fmt: skip
