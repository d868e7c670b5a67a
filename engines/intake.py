"""Reads a model file for quantisation and refuses, by name, what cannot be quantised or compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgeface.engines.fold import check_one_file
from edgeface.engines.graph import Graph
from edgeface.errors import BuildError, ModelError

if TYPE_CHECKING:
    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Manifest

NEWEST_OPSET = 21  # newer operator sets changed operators; none of the supported runtimes needs one
OLDEST_OPSET = 7
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")


def check_kind(recipe: Recipe) -> None:
    """Refuse, before any work, what is never quantised. Raises BuildError."""
    if recipe.kind == "liveness":
        raise BuildError(
            f"{recipe.name}: a liveness model is not quantised: only attacks of your own could prove that INT8 keeps "
            f"its error rates; use it as `edgeface models fetch {recipe.path}` stores it, in float32"
        )


def read_network(content: bytes, recipe: Recipe) -> Graph:
    """The graph of a float32 ONNX file that shall be quantised.

    Raises:
        ModelError: what `parse_network` refuses; already quantised; no layer with constant weights.
    """
    graph = parse_network(content, recipe)
    quantised = [node.name for node in graph.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if quantised:
        raise ModelError(f"{recipe.name}: already quantised (node {quantised[0]!r}); start from the float32 model")
    if not graph.weighted():
        raise ModelError(f"{recipe.name}: no Conv, Gemm or MatMul with constant weights: nothing to quantise")
    return graph


def parse_network(content: bytes, model: Recipe | Manifest) -> Graph:
    """The graph of an ONNX file, float or quantised.

    Raises:
        ModelError: not ONNX; external data; operators of another domain, with control flow or of a too new
            opset; weights that are NaN or infinite; inputs or outputs that are not the recipe's or manifest's.
    """
    name = model.name
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:
        raise ModelError(f"{name}: not an ONNX file: {str(error)[:200]}") from error
    graph = proto.graph
    if not graph.node:
        raise ModelError(f"{name}: not an ONNX file, or one without a single node ({len(content)} bytes)")
    check_one_file(proto, name)
    for node in graph.node:
        if node.op_type in CONTROL_FLOW or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise ModelError(f"{name}: node {node.name!r} is {node.op_type}: control flow; export the network traced")
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(
                f"{name}: node {node.name!r} is {node.domain}.{node.op_type}; only standard ONNX operators will do"
            )
    opset = max((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{name}: opset {opset}; expected {OLDEST_OPSET} to {NEWEST_OPSET}; export again with opset_version=17"
        )
    try:
        onnx.checker.check_model(proto)
        result = Graph(proto)
    except Exception as error:
        raise ModelError(f"{name}: not a valid ONNX file: {str(error)[:300]}") from error
    _check_weights(result, name)
    _check_signature(result, model)
    return result


def _check_weights(graph: Graph, name: str) -> None:
    for key, value in graph.constants.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            # An upper or lower bound of a Clip may be infinite; a weight may not.
            if value.size == 1 and not np.isnan(value).any():
                continue
            raise ModelError(f"{name}: weight {key!r} has {int((~np.isfinite(value)).sum())} NaN or infinite values")


def _check_signature(graph: Graph, model: Recipe | Manifest) -> None:
    inputs = [item.name for item in graph.inputs]
    if inputs != [model.input_name]:
        raise ModelError(f"{model.name}: expected one input named {model.input_name!r}, the file has {inputs}")
    missing = sorted(set(model.outputs.values()) - set(graph.output_names))
    if missing:
        raise ModelError(f"{model.name}: the file has no output {missing[0]!r}, it has {', '.join(graph.output_names)}")
    if set(graph.output_names) & {*inputs}:
        raise ModelError(f"{model.name}: an output is an input: not a network")
    dims = graph.inputs[0].type.tensor_type.shape.dim
    if len(dims) != 4 or dims[1].dim_value not in (0, 3):
        raise ModelError(f"{model.name}: expected an input of shape (N, 3, H, W), the file has {len(dims)} axes")
    fixed = tuple(d.dim_value for d in dims[2:])
    if model.input_size is not None and any(
        size not in (0, want) for size, want in zip(fixed, model.input_size, strict=True)
    ):
        raise ModelError(
            f"{model.name}: the recipe or manifest says {model.input_size} (height, width), the file has {fixed}"
        )
    if model.input_size is None and any(fixed):
        raise ModelError(
            f"{model.name}: the recipe or manifest says any input size, the file is fixed at {fixed}; write that size"
        )
