"""Other quantisers, called as their documentation calls them, on the same network and the same pictures.

They are what `edgeface bench quantisation` holds ours against; a build uses none of them.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeface.engines import qdq
from edgeface.engines.compare_layers import layers_of
from edgeface.engines.graph import Graph
from edgeface.engines.session import Runner
from edgeface.engines.tensorrt_builder import parser_errors
from edgeface.errors import BuildError, MissingDependencyError
from edgeface.runtime.tensorrt import import_tensorrt

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.engines.pictures import Inputs

    #: Makes an INT8 file of a float32 one: its bytes, the name of its input, calibration pictures.
    Quantiser = Callable[[bytes, str, Inputs], bytes]

#: The longest that nvidia-modelopt may take.
MODELOPT_TIMEOUT_S = 3600


class _Reader:
    """Pictures one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, name: str, inputs: Inputs) -> None:
        self._items = ({name: inputs[at : at + 1]} for at in range(len(inputs)))

    def get_next(self) -> dict[str, Any] | None:
        return next(self._items, None)


def onnxruntime_default(content: bytes, name: str, inputs: Inputs) -> bytes:
    """`quantize_static` with all its defaults. Raises BuildError."""
    return _onnxruntime(content, name, inputs, prepared=False, options={})


def onnxruntime_for_nvidia(content: bytes, name: str, inputs: Inputs) -> bytes:
    """Its pre-processing, and the options whose result NVIDIA's parser takes. Raises BuildError."""
    from onnxruntime.quantization import QuantFormat, QuantType

    options = {
        "quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    }  # fmt: skip
    return _onnxruntime(content, name, inputs, prepared=True, options=options)


def _onnxruntime(content: bytes, name: str, inputs: Inputs, *, prepared: bool, options: dict[str, Any]) -> bytes:
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns by the root logger, once for each tensor
    try:
        with tempfile.TemporaryDirectory(prefix="edgeface-quantise-") as folder:
            source, ready, result = (Path(folder) / file for file in ("a.onnx", "b.onnx", "c.onnx"))
            source.write_bytes(content)
            if prepared:  # symbolic shapes need one more package and are for transformers
                quant_pre_process(source, ready, skip_symbolic_shape=True)
            quantize_static(ready if prepared else source, result, _Reader(name, inputs), **options)
            return result.read_bytes()
    except Exception as error:
        raise BuildError(f"onnxruntime's quantize_static failed: {str(error)[:300]}") from error
    finally:
        logger.setLevel(level)


def modelopt_version(python: Path | None = None) -> str:
    """Version of nvidia-modelopt in an environment. Raises MissingDependencyError."""
    program = "import modelopt.onnx.quantization, modelopt; print('version', modelopt.__version__)"
    done = _python(python, ["-c", program])
    lines = [line for line in done.stdout.splitlines() if line.startswith("version ")]
    if done.returncode or not lines:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise MissingDependencyError(
            f"nvidia-modelopt is not there ({reason[0]}); it brings gigabytes and pins onnx, so `pip install "
            "nvidia-modelopt[onnx]` in an environment of its own and name its Python with --modelopt"
        )
    return lines[-1].split()[1]


def modelopt(python: Path | None = None) -> Quantiser:
    """The INT8 post-training quantisation of nvidia-modelopt's command line with its defaults, on the CPU."""

    def run(content: bytes, name: str, inputs: Inputs) -> bytes:
        with tempfile.TemporaryDirectory(prefix="edgeface-quantise-") as folder:
            source, pictures, result = (Path(folder) / file for file in ("a.onnx", "pictures.npy", "c.onnx"))
            source.write_bytes(content)
            np.save(pictures, inputs[:])
            shape = "x".join(map(str, inputs[0:1].shape))
            words = ["-m", "modelopt.onnx.quantization", "--onnx_path", source, "--quantize_mode", "int8"]
            words += ["--calibration_data_path", pictures, "--calibration_shapes", f"{name}:{shape}"]
            done = _python(python, [*words, "--calibration_eps", "cpu", "--output_path", result])
            if done.returncode or not result.is_file():
                reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
                raise BuildError(f"nvidia-modelopt failed: {reason[0][:300]}")
            return result.read_bytes()

    return run


def _python(python: Path | None, words: list[Any]) -> subprocess.CompletedProcess[str]:
    command = [str(python or sys.executable), *map(str, words)]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=MODELOPT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"nvidia-modelopt: cannot run {command[0]}: {error}") from error


def int8_share(graph: Graph, inputs: Inputs) -> float:
    """Share of the multiply-accumulates of one picture that layers with INT8 input and weights do, in any file."""
    layers = layers_of(graph)
    outputs = Runner(graph, outputs=[layer.writes for layer in layers], batch=1).run(inputs.part(0, 1))
    work = {layer.name: qdq.work(layer.operator, layer.weights, outputs[layer.writes].shape) for layer in layers}
    chosen = set(qdq.int8_layers(graph))
    return sum(count for name, count in work.items() if name in chosen) / max(sum(work.values()), 1)


def objections(graph: Graph) -> list[str]:
    """What breaks the rules of explicit INT8 quantisation in TensorRT: INT8, zero point 0, bias in float.

    Source: NVIDIA, TensorRT documentation, "Working with quantized types". The rules are read off the file; the parser
    has the last word (`parsed`).
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        held = graph.constants.get(node.input[0])
        if held is not None and held.dtype == np.int32:
            what = "INT32 bias"
        elif zero is None:
            what = "no zero point, so UINT8" if node.op_type == "QuantizeLinear" else ""
        elif zero.dtype != np.int8:
            what = f"{str(zero.dtype).upper()} tensor"
        else:
            what = "zero point not 0" if zero.any() else ""
        if what:
            found[what] = found.get(what, 0) + 1
    return [f"{what} ({count})" for what, count in sorted(found.items())]


def parsed(content: bytes) -> str | None:
    """What NVIDIA's own ONNX parser objects to, empty where it accepts; None where TensorRT-RTX is not installed."""
    try:
        trt = import_tensorrt("tensorrt-rtx")
    except MissingDependencyError:
        return None
    builder = trt.Builder(logger := trt.Logger(trt.Logger.INTERNAL_ERROR))  # the parser's errors are asked for
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    return "" if parser.parse(content) else parser_errors(parser)


def graph_of(content: bytes) -> Graph:
    """The graph of a quantised file of any tool. Raises BuildError."""
    try:
        return Graph(onnx.load_model_from_string(content))
    except Exception as error:
        raise BuildError(f"not an ONNX file: {str(error)[:200]}") from error
