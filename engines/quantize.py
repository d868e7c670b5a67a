"""Turns a float32 network into its INT8 version: equalise, choose ranges by the output's error, write Q/DQ, correct.

The choice is made on calibration pictures alone; what it is worth is measured elsewhere, on other people (`verify`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeface.engines import qdq
from edgeface.engines.correct import correct_biases
from edgeface.engines.equalize import equalize
from edgeface.engines.ranges import Statistics, collect
from edgeface.engines.session import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from edgeface.engines.graph import Graph
    from edgeface.engines.pictures import Inputs
    from edgeface.types import FloatArray

    #: Called with what begins and its number of steps; gives a function to call with the steps done since.
    Stage = Callable[[str, int], Callable[[int], None]]

#: Crops that the choice of ranges is made on, and on which biases are corrected: more changed nothing
#: (docs/quantisation.md), fewer did.
CHOICE_CROPS = 48
CORRECTION_CROPS = 64
#: Strengths of equalisation into layers with dense weights. 1 moves all of an activation's spread into the weights;
#: 0.8 was best for SFace, 0.5 for a MobileFaceNet with ReLU6.
STRENGTHS = (0.5, 0.8)
#: Range policies tried for each strength. `max` and `mse` were never best on an embedder but are where tails differ.
POLICIES = ("max", "99.999", "99.99")


@dataclass
class Candidate:
    """One way to quantise, and the error of its output on calibration pictures (`output_error`)."""

    strength: float
    policy: str
    error: float


@dataclass
class Quantized:
    """An INT8 network and how it came about.

    Attributes:
        graph: with Q/DQ, biases corrected.
        equalised: the float network it was made from; equal to the original.
        layers: names of the layers in INT8.
        ranges: of every tensor that such a layer reads: the magnitude that is 127 steps.
        statistics: of those tensors, after equalisation; `before` of the same, before.
        candidates: what was tried.
    """

    graph: Graph
    equalised: Graph
    layers: list[str]
    ranges: dict[str, float]
    statistics: dict[str, Statistics]
    before: dict[str, Statistics]
    candidates: list[Candidate] = field(default_factory=list)


def output_error(reference: Mapping[str, FloatArray], outputs: Mapping[str, FloatArray]) -> float:
    """How far outputs are from the reference: mean and 99th percentile, over pictures, of 1 - cosine, added up.

    For one output of vectors that is the angle that recognition feels; several outputs are weighed alike.
    """
    total = 0.0
    for name, want in reference.items():
        a = want.reshape(len(want), -1).astype(np.float64)
        b = outputs[name].reshape(len(want), -1).astype(np.float64)
        if not np.isfinite(b).all():
            return float("inf")
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        distance = 1.0 - (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
        total += float(distance.mean() + np.percentile(distance, 99))
    return total / len(reference)


def read_tensors(graph: Graph) -> list[str]:
    """Tensors that weighted layers read."""
    return list(dict.fromkeys(node.input[0] for node in graph.weighted()))


def quantize(graph: Graph, inputs: Inputs, *, keep_float: Collection[str] = (), stage: Stage | None = None) -> Quantized:
    """The INT8 version of a prepared network.

    Args:
        inputs: calibration pictures.
        keep_float: names of layers that stay float.
        stage: reports progress.
    """
    begin = stage or (lambda title, steps: lambda done: None)
    layers = [n.name for n in graph.weighted() if n.name not in keep_float and not qdq.float_inputs(n, graph)]
    names = read_tensors(graph)
    before = collect(graph, inputs, names, tick=begin("ranges before equalisation", len(inputs)))
    maxima = {name: item.maxima for name, item in before.items()}
    few = inputs.first(CHOICE_CROPS)
    reference = Runner(graph).run(few)
    tick = begin("choosing ranges", len(STRENGTHS) * len(POLICIES))
    candidates: list[Candidate] = []
    best: tuple[float, Graph, dict[str, Statistics], dict[str, float]] | None = None
    for strength in STRENGTHS:
        equal, _ = equalize(graph, maxima, strength=strength)
        statistics = collect(equal, inputs, names, tick=None)
        for policy in POLICIES:
            ranges = {name: item.range(policy) for name, item in statistics.items()}
            error = output_error(reference, Runner(qdq.insert(equal, layers, ranges)).run(few))
            candidates.append(Candidate(strength, policy, error))
            if best is None or error < best[0]:
                best = (error, equal, statistics, ranges)
            tick(1)
    assert best is not None
    _, equal, statistics, ranges = best
    quantised = finish(equal, inputs, layers, ranges, stage=stage)
    return Quantized(quantised, equal, layers, ranges, statistics, before, candidates)


def finish(
    equal: Graph, inputs: Inputs, layers: Collection[str], ranges: Mapping[str, float], *, stage: Stage | None = None
) -> Graph:
    """Write Q/DQ for some layers into an equalised network and correct the biases."""
    begin = stage or (lambda title, steps: lambda done: None)
    some = inputs.first(CORRECTION_CROPS)[:]
    outputs = [node.output[0] for node in equal.weighted() if node.op_type in ("Conv", "Gemm")]
    means = {name: item.means for name, item in collect(equal, some, outputs, histogram=False).items()}
    result = qdq.insert(equal, layers, ranges)
    correct_biases(result, some, means, tick=begin("bias correction", len(result.nodes)))
    return result
