"""An ONNX graph that is easy to rewrite: nodes in order, constants as arrays, who makes and who reads each tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import MissingDependencyError, install_extra

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:  # pragma: no cover - the message is tested with a blocked import
    raise MissingDependencyError(f"building needs the package onnx ({error}); {install_extra('build')}") from error

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Operators with weights that are worth INT8 arithmetic.
WEIGHTED = ("Conv", "Gemm", "MatMul")

#: What a `Constant` node may hold, and its type where that is no tensor (ONNX specification of Constant).
CONSTANTS = {"value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
             "value_ints": np.int64}  # fmt: skip


class Graph:
    """One mutable network.

    Attributes:
        nodes: in topological order; every node has a unique name.
        constants: initializers by name. `Constant` nodes are initializers here.
        inputs, outputs: the network's own, as ONNX describes them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = [(item.domain, item.version) for item in model.opset_import]
        self._ir_version = model.ir_version
        graph = model.graph
        self.name = graph.name
        self.constants: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.inputs = [item for item in graph.input if item.name not in self.constants]
        self.outputs = list(graph.output)
        self.nodes: list[onnx.NodeProto] = []
        for number, node in enumerate(graph.node):
            if node.op_type == "Constant" and node.attribute[0].name in CONSTANTS:
                kind, value = CONSTANTS[node.attribute[0].name], helper.get_attribute_value(node.attribute[0])
                self.constants[node.output[0]] = np.array(value, kind) if kind else numpy_helper.to_array(value)
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = node.name or f"{node.op_type}_{number}"
            self.nodes.append(copy)
        seen: set[str] = set()
        for number, node in enumerate(self.nodes):
            if node.name in seen:
                node.name = f"{node.name}_{number}"
            seen.add(node.name)

    @property
    def input_name(self) -> str:
        return str(self.inputs[0].name)

    @property
    def output_names(self) -> list[str]:
        return [str(item.name) for item in self.outputs]

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return max((version for domain, version in self._opsets if domain in ("", "ai.onnx")), default=0)

    def set_opset(self, version: int) -> None:
        self._opsets = [(domain, version if domain in ("", "ai.onnx") else old) for domain, old in self._opsets]

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor; None for inputs and constants."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if tensor in node.input]

    def is_output(self, tensor: str) -> bool:
        return tensor in self.output_names

    def weighted(self) -> list[onnx.NodeProto]:
        """Nodes that multiply a computed tensor with constant weights, in order."""
        return [
            node
            for node in self.nodes
            if node.op_type in WEIGHTED and node.input[0] not in self.constants and node.input[1] in self.constants
        ]

    def fresh(self, wish: str) -> str:
        """A tensor name that is not taken, `wish` where possible."""
        taken = set(self.constants) | {name for node in self.nodes for name in node.output}
        taken |= {item.name for item in self.inputs}
        name, number = wish, 1
        while name in taken:
            name, number = f"{wish}_{number}", number + 1
        return name

    def add_constant(self, wish: str, value: Array) -> str:
        name = self.fresh(wish)
        self.constants[name] = value
        return name

    def own_constant(self, node: onnx.NodeProto, position: int, value: Array) -> None:
        """Give a node a new constant input, without touching other readers of the old one."""
        old = node.input[position] if position < len(node.input) else ""
        if old and sum(list(other.input).count(old) for other in self.nodes) == 1:
            self.constants[old] = value
            return
        while len(node.input) <= position:
            node.input.append("")
        node.input[position] = self.add_constant(old or f"{node.output[0]}.bias", value)

    def remove(self, node: onnx.NodeProto) -> None:
        """Take out a node with one input that matters and one output; readers get its input instead.

        A node that makes an output of the network passes the name on to the node before it.
        """
        source, result = node.input[0], node.output[0]
        self.nodes = [other for other in self.nodes if other is not node]
        if not self.is_output(result):
            self.rewire(result, source)
            return
        maker = self.producer(source)
        assert maker is not None, "an output that is an input is refused at intake"
        self.rewire(source, result)
        maker.output[list(maker.output).index(source)] = result

    def rewire(self, old: str, new: str, *, only: list[onnx.NodeProto] | None = None) -> None:
        """Let the readers of one tensor, all or some, read another."""
        for node in self.nodes if only is None else only:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new

    def insert_after(self, node: onnx.NodeProto | None, new: list[onnx.NodeProto]) -> None:
        """Put nodes right behind another; None is the start."""
        where = 0 if node is None else next(i for i, other in enumerate(self.nodes) if other is node) + 1
        self.nodes[where:where] = new

    def shorten(self) -> None:
        """Give every tensor inside the network a short name: long ones are a tenth of a small INT8 file.

        Nodes keep theirs where they have weights, so that layers can be told and compared.
        """
        outer = {self.input_name, *self.output_names}
        names: dict[str, str] = {"": ""}
        for node in self.nodes:
            for name in (*node.input, *node.output):
                if name not in names:
                    names[name] = name if name in outer else np.base_repr(len(names), 36)
        if len(set(names.values())) < len(names):  # an outer name looks like ours: leave all as they are
            return
        for node in self.nodes:
            for field in (node.input, node.output):
                renamed = [names[name] for name in field]
                del field[:]
                field.extend(renamed)
            if node.op_type not in WEIGHTED:
                node.name = ""
        self.constants = {names[name]: value for name, value in self.constants.items() if name in names}

    def copy(self) -> Graph:
        return Graph(self.to_model())

    def to_model(self, *, extra_outputs: list[str] | None = None) -> onnx.ModelProto:
        """The network as ONNX. The same graph gives the same bytes."""
        read = [name for node in self.nodes for name in node.input]
        used = [name for name in dict.fromkeys(read) if name in self.constants]
        extra = [onnx.ValueInfoProto(name=name) for name in extra_outputs or () if not self.is_output(name)]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            self.inputs,
            [*self.outputs, *extra],
            [numpy_helper.from_array(np.asarray(self.constants[name], order="C"), name) for name in used],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self._opsets]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="edgeface")
        model.ir_version = self._ir_version
        return model

    def to_bytes(self, *, extra_outputs: list[str] | None = None) -> bytes:
        return bytes(self.to_model(extra_outputs=extra_outputs).SerializeToString(deterministic=True))


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node, or the default where it is not written."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def is_depthwise(node: onnx.NodeProto, weight: Array) -> bool:
    """A convolution in which every output channel reads one input channel of its own."""
    return node.op_type == "Conv" and weight.shape[1] == 1 and attribute(node, "group", 1) == weight.shape[0] > 1


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a weighted node's weights that holds its output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1
