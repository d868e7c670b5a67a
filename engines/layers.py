"""What quantisation did to each layer: work, precision, error of its output, ranges before and after equalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeface.engines import qdq
from edgeface.engines.graph import WEIGHTED, Graph
from edgeface.engines.session import Runner

if TYPE_CHECKING:
    from edgeface.engines.pictures import Inputs
    from edgeface.engines.quantize import Quantized

#: Pictures over which the error of layers is averaged.
PICTURES = 16


def output_shapes(graph: Graph, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """Shapes of the weighted layers' outputs for one of the inputs; BuildError when the network cannot run on it."""
    names = [node.output[0] for node in graph.weighted()]
    part = next(iter(Runner(graph, outputs=names, batch=1).batches(inputs.part(0, 1))))
    return {name: value.shape for name, value in part.items()}


def layer_rows(
    prepared: Graph, quantised: Quantized | None, final: Graph, macs: dict[str, int], inputs: Inputs
) -> list[dict[str, Any]]:
    """One row a weighted layer, in order.

    ``error_db`` is the power of the output over that of its error, accumulated from the input on, in decibels; it
    compares the network written with the equalised float one, whose tensors have the same scales.
    """
    nodes = prepared.weighted()
    errors = _errors(quantised.equalised, final, inputs) if quantised is not None else {}
    int8 = set(qdq.int8_layers(final))
    rows = []
    for node in nodes:
        row: dict[str, Any] = {
            "layer": node.name,
            "operator": node.op_type,
            "macs": macs[node.name],
            "precision": "int8" if node.name in int8 else "float",
        }
        if quantised is not None:
            tensor = node.input[0]
            row["error_db"] = errors.get(node.name)
            row["range_before"] = float(quantised.before[tensor].maxima.max())
            row["range_after"] = quantised.ranges[tensor]
            row["spread_before"] = _spread(quantised.before[tensor].maxima)
            row["spread_after"] = _spread(quantised.statistics[tensor].maxima)
        rows.append(row)
    return rows


def _spread(maxima: Any) -> float:
    """How unlike the channels' ranges are: the largest maximum over the median one of channels that are used."""
    used = maxima[maxima > 1e-6 * max(float(maxima.max()), 1e-30)]
    return float(used.max() / np.median(used)) if len(used) else 1.0


def _errors(reference: Graph, final: Graph, inputs: Inputs) -> dict[str, float]:
    some = inputs.part(0, PICTURES)
    before = {node.name: node.output[0] for node in reference.weighted()}
    after = {node.name: node.output[0] for node in final.nodes if node.name in before}
    power, noise = dict.fromkeys(after, 0.0), dict.fromkeys(after, 0.0)
    one = Runner(reference, outputs=[before[name] for name in after])
    other = Runner(final, outputs=list(after.values()))
    for want, got in zip(one.batches(some), other.batches(some), strict=True):
        for name in after:
            a, b = want[before[name]].astype(np.float64), got[after[name]].astype(np.float64)
            power[name] += float((a**2).sum())
            noise[name] += float(((a - b) ** 2).sum())
    return {name: round(float(10 * np.log10(max(power[name], 1e-30) / max(noise[name], 1e-30))), 2) for name in after}


def file_layers(content: bytes) -> list[dict[str, Any]]:
    """Layers with weights of an ONNX file, in order: name, operator, precision and number of weights.

    A layer is INT8 where its input and its weights both come from DequantizeLinear.
    """
    graph = Graph(onnx.load_model_from_string(content))
    int8 = set(qdq.int8_layers(graph))
    # A layer's weights may come from a DequantizeLinear, or from a Cast of FP16 that makes the file smaller (`pack`).
    back = {node.output[0]: node.input[0] for node in graph.nodes if node.op_type in ("DequantizeLinear", "Cast")}
    rows = []
    for node in graph.nodes:
        if node.op_type not in WEIGHTED:
            continue
        weight = graph.constants.get(back.get(node.input[1], node.input[1]))
        if weight is not None:
            kind = "int8" if node.name in int8 else {"float16": "fp16"}.get(str(weight.dtype), "fp32")
            rows.append({"layer": node.name, "operator": node.op_type, "precision": kind, "weights": int(weight.size)})
    return rows
