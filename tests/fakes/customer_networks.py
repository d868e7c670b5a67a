"""Small random embedders as customers export them: what is written differently is what a build must take."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
SIDE, DIMENSION = 32, 32


class Network:
    """Strings nodes together; weights are drawn from a seeded generator."""

    def __init__(self, opset: int, batch: int | str = "batch") -> None:
        self.opset, self.batch = opset, batch
        self.draw = np.random.default_rng(1)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def floats(self, value: Any) -> str:
        return self.constant(np.asarray(value, np.float32))

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{number}" for number in range(outputs)]
        name = f"/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), names, name, **attributes))
        return names[0] if outputs == 1 else names

    def weights(self, *shape: int) -> str:
        return self.floats(self.draw.normal(size=shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0]))

    def conv(self, x: str, before: int, after: int, *, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        same: dict[str, Any] = {"pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": group}
        return str(self.node("Conv", x, self.weights(after, before // group, kernel, kernel), **same))

    def patches(self, channels: int, side: int) -> str:
        """A convolution that cuts the picture into squares."""
        bias = self.floats(self.draw.normal(size=channels) * 0.1)
        weights = self.weights(channels, 3, side, side)
        return str(self.node("Conv", "in", weights, bias, strides=[side, side]))

    def linear(self, x: str, before: int, after: int) -> str:
        product = self.node("MatMul", x, self.weights(before, after))
        return str(self.node("Add", self.floats(self.draw.normal(size=after) * 0.1), product))

    def norm(self, x: str, channels: int) -> str:
        scale, shift = self.draw.uniform(0.5, 1.5, channels), self.draw.normal(size=channels) * 0.1
        return str(self.node("LayerNormalization", x, self.floats(scale), self.floats(shift), axis=-1, epsilon=1e-6))

    def gelu(self, x: str) -> str:
        bell = self.node("Add", self.node("Erf", self.node("Div", x, self.floats(2**0.5))), self.floats(1.0))
        return str(self.node("Mul", self.node("Mul", x, bell), self.floats(0.5)))

    def embedding(self, x: str, before: int) -> None:
        """The last layer, centred on what the network sees, so that people are told apart."""
        names = [x, self.floats(self.draw.normal(size=(DIMENSION, before)) / np.sqrt(before))]
        self.constants["bias"] = np.zeros(DIMENSION, np.float32)
        self.nodes.append(helper.make_node("Gemm", [*names, "bias"], ["out"], "embedding", transB=1))

    def model(self, pixels: Array, *, listed: bool = False, extra: str = "") -> onnx.ModelProto:
        """The network for (N, H, W, 3) crops. `listed`: weights are inputs too; `extra`: a second output."""
        made = self._model(listed=False, extra="")
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        tensors = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 64 - 2
        parts = [session.run(["out"], {"in": one[None]})[0] for one in tensors]
        self.constants["bias"] = -np.concatenate(parts).mean(axis=0)
        return self._model(listed=listed, extra=extra)

    def _model(self, *, listed: bool, extra: str) -> onnx.ModelProto:
        kind = onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("in", kind, [self.batch, 3, SIDE, SIDE])]
        if listed:
            inputs += [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in self.constants.items()
            ]
        outputs = [helper.make_tensor_value_info("out", kind, [self.batch, DIMENSION])]
        outputs += [helper.make_tensor_value_info(extra, kind, [self.batch, None, None, None])] if extra else []
        weights = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def mobile(pixels: Array) -> onnx.ModelProto:
    """Opset 11: batch normalisations not folded, ReLU6 with its bounds in nodes, groups, weights that are inputs, too,
    nodes without names, a second output.
    """
    net = Network(11)

    def block(x: str, before: int, after: int, **options: Any) -> str:
        x, draw = net.conv(x, before, after, **options), net.draw
        scale, variance = draw.uniform(0.5, 2, after), draw.uniform(1, 2, after)
        values = (scale, draw.normal(size=after), draw.normal(size=after), variance)
        x = net.node("BatchNormalization", x, *(net.floats(value) for value in values))
        bounds = [net.node("Constant", value=numpy_helper.from_array(np.float32(bound))) for bound in (0, 6)]
        return str(net.node("Clip", x, *bounds))

    x = block("in", 3, 16, kernel=3, stride=2)
    x = net.node("Add", x, net.conv(block(x, 16, 16, kernel=3, group=16), 16, 16))
    trunk = block(x, 16, 32, kernel=3, stride=2, group=4)
    net.embedding(net.node("Flatten", trunk), 32 * 64)
    for node in net.nodes:
        node.name = ""
    return net.model(pixels, listed=True, extra=trunk)


def vision_transformer(pixels: Array) -> onnx.ModelProto:
    """Opset 17, one picture: tokens, LayerNorm, attention of two heads, GELU."""
    net, width, tokens = Network(17, batch=1), 24, 17
    x = net.node("Reshape", net.patches(width, 8), net.constant(np.array([1, width, 16])))
    x = net.node("Concat", net.weights(1, 1, width), net.node("Transpose", x, perm=[0, 2, 1]), axis=1)
    x = net.node("Add", x, net.floats(net.draw.normal(size=(1, tokens, width)) * 0.3))
    for _ in range(2):
        joint = net.linear(net.norm(x, width), width, 3 * width)
        joint = net.node("Reshape", joint, net.constant(np.array([1, tokens, 3, 2, width // 2])))
        joint = net.node("Transpose", joint, perm=[2, 0, 3, 1, 4])
        query, key, value = (net.node("Gather", joint, net.constant(np.array(at)), axis=0) for at in range(3))
        scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 1, 3, 2]))
        mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
        mixed = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = net.node("Reshape", mixed, net.constant(np.array([1, tokens, width])))
        x = net.node("Add", x, net.linear(mixed, width, width))
        inner = net.gelu(net.linear(net.norm(x, width), width, 2 * width))
        x = net.node("Add", x, net.linear(inner, 2 * width, width))
    net.embedding(net.node("Reshape", x, net.constant(np.array([1, tokens * width]))), tokens * width)
    return net.model(pixels)


def hybrid(pixels: Array) -> onnx.ModelProto:
    """Opset 18, any batch: depthwise convolutions over splits, attention across channels with normalised keys, low-rank
    layers, and a block of ConvNeXt, whose channels stand last in between.
    """
    net, width = Network(18), 16
    x = net.patches(width, 4)
    halves = net.node("Split", x, net.constant(np.array([8, 8])), axis=1, outputs=2)
    first = net.conv(halves[0], 8, 8, kernel=3, group=8)
    both = net.node("Concat", first, net.conv(net.node("Add", halves[1], first), 8, 8, kernel=3, group=8), axis=1)
    rows = net.node("Transpose", net.node("Reshape", both, net.constant(np.array([0, width, 64]))), perm=[0, 2, 1])
    joint = net.linear(net.node("MatMul", net.norm(rows, width), net.weights(width, 8)), 8, 3 * width)
    parts = net.node("Split", joint, net.constant(np.array([width] * 3)), axis=2, outputs=3)
    query, key, value = (net.node("Transpose", part, perm=[0, 2, 1]) for part in parts)
    lengths = net.node("ReduceL2", key, net.constant(np.array([-1])), keepdims=1)
    key = net.node("Div", key, net.node("Expand", net.node("Clip", lengths, net.floats(1e-6)), net.node("Shape", key)))
    scores = net.node("Softmax", net.node("MatMul", query, net.node("Transpose", key, perm=[0, 2, 1])), axis=-1)
    mixed = net.node("Reshape", net.node("MatMul", scores, value), net.constant(np.array([0, width, 8, 8])))
    x = net.node("Add", x, mixed)
    last = net.norm(net.node("Transpose", net.conv(x, width, width, kernel=7, group=width), perm=[0, 2, 3, 1]), width)
    last = net.linear(net.gelu(net.linear(last, width, 4 * width)), 4 * width, width)
    x = net.node("Add", x, net.node("Transpose", last, perm=[0, 3, 1, 2]))
    net.embedding(net.node("Flatten", x), width * 64)
    return net.model(pixels)
