"""Layers of two networks: which belongs to which, and how far tensors of the second are from those of the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.engines import qdq
from edgeface.engines.graph import WEIGHTED, Graph
from edgeface.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Sums = npt.NDArray[np.float64]

#: Reported for tensors that are equal to the last digit: float32 itself ends near 150 dB.
EQUAL_DB = 150.0
#: A channel with less than this part of the strongest one's power is silent: its own error says nothing.
SILENT = 1e-4
#: What may stand between stored weights and the layer that multiplies with them.
ON_WEIGHTS = ("DequantizeLinear", "QuantizeLinear", "Cast")


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        name, operator: of the node. weights: their shape.
        reads, writes: names of its tensors; what it reads is dequantised already.
        precision: ``int8``, ``fp16`` or ``fp32``.
    """

    name: str
    operator: str
    weights: tuple[int, ...]
    reads: str
    writes: str
    precision: str

    @property
    def shape(self) -> tuple[object, ...]:
        """What a layer keeps when a network is quantised: a Gemm may become a MatMul of the transposed weights."""
        return ("Conv", *self.weights) if self.operator == "Conv" else ("linear", *sorted(self.weights))

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {'x'.join(map(str, self.weights))})"


def layers_of(graph: Graph) -> list[Layer]:
    """The layers of a network in float or with Q/DQ, in order."""
    before = {node.output[0]: node.input[0] for node in graph.nodes if node.op_type in ON_WEIGHTS}
    int8 = set(qdq.int8_layers(graph))
    found = []
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or node.input[0] in graph.constants:
            continue
        name = node.input[1]
        while name in before:
            name = before[name]
        weight = graph.constants.get(name)
        if weight is not None:
            kind = "int8" if node.name in int8 else {"float16": "fp16"}.get(str(weight.dtype), "fp32")
            shape = tuple(weight.shape)
            found.append(Layer(node.name, node.op_type, shape, node.input[0], node.output[0], kind))
    return found


def match(a: list[Layer], b: list[Layer]) -> tuple[list[tuple[Layer, Layer]], str]:
    """Pairs of layers in the order of the first network, and by what they were matched: ``name`` or ``order``.

    `edgeface build` keeps the names of layers. Files of other tools may not: then the layers must stand in the same
    order with weights of the same shapes.

    Raises:
        ModelError: these are two architectures; the message names the first layer that parts them.
    """
    if not a or not b:
        raise ModelError("no Conv, Gemm or MatMul with constant weights in one of the networks: nothing to compare")
    named = {layer.name: layer for layer in b}
    pairs = [(layer, named[layer.name]) for layer in a if layer.name in named]
    if len(pairs) == len(a) == len(b) and all(one.shape == other.shape for one, other in pairs):
        return pairs, "name"
    for number, (one, other) in enumerate(zip(a, b, strict=False), 1):
        if one.shape != other.shape:
            raise ModelError(
                f"different architectures: layer {number} is {one} in A and {other} in B ({len(a)} and {len(b)} "
                "layers); give two versions of one network"
            )
    if len(a) != len(b):
        extra = a[len(b)] if len(a) > len(b) else b[len(a)]
        raise ModelError(
            f"different architectures: {len(a)} layers in A and {len(b)} in B, the first without a counterpart is "
            f"{extra}; give two versions of one network"
        )
    return list(zip(a, b, strict=True)), "order"


def writers(graph: Graph, layers: list[Layer], tensor: str) -> list[str]:
    """The layers whose outputs reach a tensor through other operators alone."""
    makers = {name: node for node in graph.nodes for name in node.output}
    written = {layer.writes: layer.name for layer in layers}
    stack, seen, found = [tensor], set[str](), []
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in written:
            found.append(written[name])
        elif name in makers:
            stack += makers[name].input
    return found


class Tally:
    """Sums over one tensor of both networks, in two passes: first `fit` for the gains, then `add` for the errors.

    Equalisation multiplies the channels of a tensor by constants that the next layer divides by. So each channel of the
    second network is first multiplied by the factor, at least 0, that brings it nearest to the first one's (least
    squares). All errors are in units of the first network.

    Args:
        fixed: the factors are 1: nothing that rescaled the tensor could be made up for behind it.
    """

    def __init__(self, name: str, *, fixed: bool = False) -> None:
        self.name = name
        self._fixed = fixed
        self.not_finite = 0
        self._sums: Sums = np.zeros((3, 0))  # per channel: of a * a, a * b and b * b
        self._absolute = self._largest = self._squared = 0.0
        self._count = 0

    def fit(self, a: Array, b: Array) -> None:
        """Take (N, C, ...) values of both networks into the gains. Raises ModelError when these differ in shape."""
        one, other = self._rows(a, b)
        if not self._sums.shape[1]:
            self._sums = np.zeros((3, one.shape[1]))
        for at, (x, y) in enumerate(((one, one), (one, other), (other, other))):
            self._sums[at] += np.einsum("ncp,ncp->c", x, y)

    def add(self, a: Array, b: Array) -> None:
        """Take the same values again, for the errors."""
        one, other = self._rows(a, b)
        error = np.abs(one - other * self.gains()[:, None])
        self._absolute += float(error.sum())
        self._squared += float((error**2).sum())
        self._largest = max(self._largest, float(error.max(initial=0.0)))
        self._count += error.size

    def gains(self) -> Sums:
        """(C,) factors for the second network's channels; 0 where a channel is dead or of opposite sign there."""
        _, product, own = self._sums
        if self._fixed:
            return np.ones_like(own)
        factors: Sums = np.maximum(np.divide(product, own, out=np.zeros_like(own), where=own > 0), 0.0)
        return factors

    def alone(self) -> dict[str, Any]:
        """Signal over the error that is left after the gains, in dB: of all and of the worst channel, first pass."""
        power, product, own = self._sums
        if self.not_finite:
            return {"own_db": None, "channel": None, "channel_db": None}
        gains = self.gains()
        left = np.maximum(power - 2 * gains * product + gains**2 * own, 0.0)
        alive = np.flatnonzero(power > SILENT * float(power.max(initial=0.0)))
        if not len(alive):
            return {"own_db": EQUAL_DB, "channel": None, "channel_db": EQUAL_DB}
        worst = int(alive[np.argmax(left[alive] / power[alive])])
        return {
            "own_db": _decibels(float(left.sum() / power.sum())),
            "channel": worst,
            "channel_db": _decibels(float(left[worst] / power[worst])),
        }

    def row(self) -> dict[str, Any]:
        """Cosine, signal over error in dB, mean and largest error, range of gains; see `compare`."""
        power, product, own = self._sums
        total = float(power.sum())
        if self.not_finite:
            return {"not_finite_pictures": self.not_finite, "sqnr_db": None}
        gains = self.gains()
        scaled = float(np.sqrt((gains**2 * own).sum() * total))
        noise = self._squared / max(total, 1e-300) if total or self._squared else 0.0
        return {
            "not_finite_pictures": 0,
            "cosine": min(float((gains * product).sum()) / scaled, 1.0) if scaled else float(total == 0.0),
            "sqnr_db": _decibels(noise),
            "mean_error": self._absolute / max(self._count, 1),
            "largest_error": self._largest,
            "rms": (total / max(self._count, 1)) ** 0.5,
            "gain_least": float(gains[own > 0].min(initial=np.inf)) if own.any() else None,
            "gain_most": float(gains[own > 0].max(initial=0.0)) if own.any() else None,
        }

    def _rows(self, a: Array, b: Array) -> tuple[Array, Array]:
        if a.shape != b.shape:
            raise ModelError(
                f"different architectures: {self.name} is of shape {a.shape} in A and {b.shape} in B for the same "
                "pictures; give two versions of one network"
            )
        wide = [value.astype(np.float64).reshape(len(value), value.shape[1], -1) for value in (a, b)]
        fine = [np.isfinite(value).all(axis=(1, 2)) for value in wide]
        if not fine[0].all():
            raise ModelError(f"A itself gives NaN or infinity at {self.name}: there is nothing to compare with")
        self.not_finite += int((~fine[1]).sum())
        return wide[0][fine[1]], wide[1][fine[1]]


def _decibels(noise: float) -> float:
    """Signal over error, of the share of error in the signal's power."""
    return min(-10 * float(np.log10(max(noise, 1e-30))), EQUAL_DB)
