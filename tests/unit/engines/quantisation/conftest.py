"""Small networks to quantise, made here: no weights from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper

from edgeface.engines.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    import onnx

    Array = npt.NDArray[Any]


class Maker:
    """Strings nodes together; constants are drawn from a seeded generator."""

    def __init__(self, *, seed: int = 0, dtype: type[np.floating[Any]] = np.float32, size: int = 16) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.shape = (1, 3, size, size)

    def constant(self, value: Array, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, self.dtype) if np.asarray(value).dtype.kind == "f" else value
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=f"n_{name}", **attributes))
        return name

    def conv(self, source: str, before: int, after: int, *, kernel: int = 1, depthwise: bool = False) -> str:
        weight = self.random.normal(size=(after, 1 if depthwise else before, kernel, kernel)) / np.sqrt(before * kernel)
        weight *= np.exp(self.random.normal(size=(after, 1, 1, 1)))  # channels of very different ranges
        bias = self.random.normal(size=after) * 0.1
        pads = [kernel // 2] * 4
        group = after if depthwise else 1
        return self.node("Conv", source, self.constant(weight), self.constant(bias), pads=pads, group=group)

    def prelu(self, source: str, channels: int) -> str:
        return self.node("PRelu", source, self.constant(self.random.uniform(0.05, 0.5, size=(channels, 1, 1))))

    def norm(self, source: str, channels: int) -> str:
        draw = self.random
        values = (
            draw.uniform(0.5, 2.0, channels),
            draw.normal(size=channels),
            draw.normal(size=channels),
            draw.uniform(0.2, 3.0, channels),
        )
        return self.node("BatchNormalization", source, *(self.constant(v) for v in values), epsilon=1e-3)

    def clip(self, source: str, high: float = 1.0) -> str:
        return self.node("Clip", source, self.constant(np.array(0.0)), self.constant(np.array(high)))

    def gemm(self, source: str, before: int, after: int) -> str:
        weight = self.random.normal(size=(after, before)) / np.sqrt(before)
        return self.node("Gemm", source, self.constant(weight), self.constant(np.zeros(after)), transB=1)

    def model(self, output: str, *, opset: int = 18, batch: int | str = "batch", rank: int = 4) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        next(node for node in self.nodes if node.output[0] == output).output[0] = "out"
        graph = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("in", kind, [batch, *self.shape[1:]])],
            [helper.make_tensor_value_info("out", kind, [batch, *[None] * (rank - 1)])],
            [numpy_helper.from_array(value, key) for key, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        return model


def _network(*, dtype: type[np.floating[Any]] = np.float32, seed: int = 0, clips: bool = True) -> Graph:
    """Stem, depthwise block with a clip, residual block, batch normalisations and a Gemm behind a Flatten."""
    make = Maker(seed=seed, dtype=dtype, size=8)
    x = make.prelu(make.norm(make.conv("in", 3, 6, kernel=3), 6), 6)
    x = make.conv(x, 6, 6, kernel=3, depthwise=True)
    x = make.clip(x) if clips else make.node("Relu", x)
    trunk = make.conv(x, 6, 8)
    branch = make.conv(make.prelu(make.conv(trunk, 8, 12), 12), 12, 8)
    x = make.node("Add", trunk, branch)
    x = make.node("Relu", make.conv(x, 8, 4))
    x = make.norm(x, 4)
    make.nodes.append(helper.make_node("Flatten", [x], ["flat"], name="flatten"))
    x = make.gemm("flat", 4 * 64, 16)
    return Graph(make.model(make.norm(x, 16), rank=2))


@pytest.fixture
def network() -> Callable[..., Graph]:
    """`_network`: a graph with all that equalisation and folding must get right."""
    return _network


@pytest.fixture
def maker() -> type[Maker]:
    """To build other networks."""
    return Maker
