"""Runs each layer of a network alone, fed from outside: its own error, without what the layers before it left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from edgeface.engines.graph import attribute
from edgeface.engines.session import open_session
from edgeface.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx

    from edgeface.engines.compare_layers import Layer
    from edgeface.engines.graph import Graph
    from edgeface.engines.tally import Tally

    Array = npt.NDArray[Any]


class Replay:
    """Layers of a network side by side, each with its own quantisers and an input of its own."""

    def __init__(self, graph: Graph, layers: Sequence[Layer]) -> None:
        makers = {node.output[0]: node for node in graph.nodes}
        kept: set[str] = set()
        entries: dict[str, str] = {}
        self._fed: list[tuple[str, type[np.generic]]] = []
        for layer in layers:
            node = reader = makers[layer.writes]
            kind = _kind(graph, makers, node.input[1])
            steps = _quantiser(makers, layer.reads)
            if steps is not None:
                kept |= {steps.name, makers[layer.reads].name}
                reader, kind = steps, graph.constants[steps.input[1]].dtype.type
            # A name of its own: another layer of the same network may write the tensor that this one reads.
            entries[reader.name] = name = f"{reader.input[0]}.fed"
            self._fed.append((name, kind))
            stack = [name for name in node.input[1:] if name in makers]
            while stack:  # how its weights are dequantised
                maker = makers[stack.pop()]
                kept.add(maker.name)
                stack += [name for name in maker.input if name in makers]
            kept.add(node.name)
        part = graph.copy()
        part.nodes = [node for node in part.nodes if node.name in kept]
        for node in part.nodes:
            if node.name in entries:
                node.input[0] = entries[node.name]
        part.inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
            for name, kind in dict(self._fed).items()
        ]
        part.outputs = []
        self._writes = [layer.writes for layer in layers]
        self._session = open_session(part.to_bytes(extra_outputs=self._writes), graph.name)

    def run(self, inputs: Sequence[Array], scales: Sequence[Tally]) -> list[Array]:
        """The layers' outputs.

        Args:
            inputs: for each layer (N, C, ...) values in units of another network.
            scales: for each layer what brought its input to those units: it is taken out again.
        """
        feeds = {}
        for (name, kind), value, scale in zip(self._fed, inputs, scales, strict=True):
            factor = np.divide(1.0, scale.gains, out=np.zeros_like(scale.gains), where=scale.gains > 0)
            scaled = value * factor.reshape(1, -1, *[1] * (value.ndim - 2)) - scale.shift
            with np.errstate(over="ignore"):  # what is too large for FP16 is infinite there, too
                feeds[name] = scaled.astype(kind)
        try:
            values: list[Array] = self._session.run(self._writes, feeds)
        except Exception as error:
            raise BuildError(f"onnxruntime failed while it ran layers alone: {str(error)[:400]}") from error
        return values


def _quantiser(makers: dict[str, onnx.NodeProto], tensor: str) -> onnx.NodeProto | None:
    """The QuantizeLinear whose DequantizeLinear gives a tensor, if one does."""
    back = makers.get(tensor)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    steps = makers.get(back.input[0])
    return steps if steps is not None and steps.op_type == "QuantizeLinear" else None


def _kind(graph: Graph, makers: dict[str, onnx.NodeProto], weights: str) -> type[np.generic]:
    """The type that a layer computes in: that of its weights where it reads them."""
    maker = makers.get(weights)
    if maker is None:
        return graph.constants[weights].dtype.type
    if maker.op_type == "DequantizeLinear":
        return graph.constants[maker.input[1]].dtype.type
    return helper.tensor_dtype_to_np_dtype(attribute(maker, "to", TensorProto.FLOAT)).type
