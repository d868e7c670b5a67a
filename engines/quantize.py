"""Turns a float32 network into its INT8 version: equalise, choose ranges by the output's error, write Q/DQ, correct.

The choice is made on calibration pictures alone; what it is worth is measured elsewhere, on other people (`verify`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeface.engines import qdq
from edgeface.engines.centre import centre
from edgeface.engines.correct import correct_biases
from edgeface.engines.equalize import equalize
from edgeface.engines.judge import graph_run
from edgeface.engines.ranges import Statistics, collect
from edgeface.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import numpy as np
    import numpy.typing as npt

    from edgeface.engines.graph import Graph
    from edgeface.engines.pictures import Inputs
    from edgeface.engines.recipe import Recipe
    from edgeface.types import FloatArray

    Means = npt.NDArray[np.float64]

    #: Called with what begins and its number of steps; gives a function to call with the steps done since.
    Stage = Callable[[str, int], Callable[[int], None]]

#: Crops on which biases are corrected: 256 changed the mean cosine in the fifth digit.
CORRECTION_CROPS = 64
#: Crops that the ranges are chosen on, other ones than those that gave the ranges.
CHOICE_CROPS = 128
#: Strengths of equalisation into layers with dense weights: 1 moves all of an activation's spread into the weights.
#: 0.8 was best for SFace, 0.5 for a MobileFaceNet with ReLU6.
STRENGTHS = (0.5, 0.8)
#: Ways to choose ranges: strengths are compared by the first, the others are tried at the best strength. Lower
#: percentiles look as good on a hundred pictures and then cut off one face in four hundred (0.983 instead of 0.997 at
#: worst, SFace), so they are not among them.
POLICIES = ("99.999", "99.9995", "max")


@dataclass
class Candidate:
    """One way to quantise, and the error of its output on calibration pictures that gave no ranges."""

    strength: float
    policy: str
    error: float


@dataclass
class _Equal:
    """A network equalised by one strength, and what its tensors and its layers' outputs are like."""

    strength: float
    graph: Graph
    statistics: dict[str, Statistics]
    means: dict[str, Means]


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


def read_tensors(graph: Graph) -> list[str]:
    """Tensors that weighted layers read."""
    return list(dict.fromkeys(node.input[0] for node in graph.weighted()))


def quantize(
    graph: Graph,
    inputs: Inputs,
    error: Callable[[Mapping[str, FloatArray], Mapping[str, FloatArray]], float],
    *,
    recipe: Recipe,
    stage: Stage | None = None,
) -> Quantized:
    """The INT8 version of a prepared network.

    Args:
        inputs: calibration pictures: the first two thirds give the ranges, the rest chooses among them.
        error: how far outputs (by meaning) are from float32's.
        recipe: names the layers that stay float.
        stage: reports progress.

    Raises:
        BuildError: the recipe keeps a layer in float that the network has not.
    """
    begin = stage or (lambda title, steps: lambda done: None)
    known = {node.name for node in graph.weighted()}
    unknown = sorted(set(recipe.keep_float) - known)
    if unknown:
        raise BuildError(
            f"{recipe.name}: build.keep_float: no layer {unknown[0]!r}; layers are {', '.join(sorted(known))}"
        )
    layers = [n.name for n in graph.weighted() if n.name not in recipe.keep_float and not qdq.float_inputs(n, graph)]
    names = read_tensors(graph)
    middle = len(inputs) * 2 // 3
    ranging, choosing = inputs.part(0, middle), inputs.part(middle, middle + CHOICE_CROPS)
    before = collect(graph, ranging, names, tick=begin("ranges before equalisation", middle))
    maxima = {name: item.maxima for name, item in before.items()}
    reference = graph_run(recipe, graph)(choosing)
    tick = begin("choosing ranges", 2 * len(STRENGTHS) + len(POLICIES) - 1)
    candidates: list[Candidate] = []
    best: tuple[float, Quantized, _Equal] | None = None  # one network is kept, however many are tried

    def attempt(equal: _Equal, policy: str) -> None:
        nonlocal best
        bounds = {name: item.bounds(policy) for name, item in equal.statistics.items()}
        centred, ranges, taken = centre(equal.graph, layers, bounds)
        means = {name: mean - taken.get(name, 0.0) for name, mean in equal.means.items()}
        result = finish(centred, ranging, layers, ranges, means)
        found = error(reference, graph_run(recipe, result)(choosing))
        candidates.append(Candidate(equal.strength, policy, found))
        if best is None or found < best[0]:
            best = found, Quantized(result, centred, layers, ranges, equal.statistics, before, candidates), equal
        tick(1)

    for strength in STRENGTHS:
        equal, _ = equalize(graph, maxima, strength=strength)
        tick(1)
        attempt(_Equal(strength, equal, collect(equal, ranging, names), output_means(equal, ranging)), POLICIES[0])
    assert best is not None
    chosen = best[2]
    for policy in POLICIES[1:]:
        attempt(chosen, policy)
    return best[1]


def output_means(equal: Graph, inputs: Inputs) -> dict[str, Means]:
    """Mean of each channel of what the layers give in float32, on the pictures that biases are corrected on."""
    outputs = [node.output[0] for node in equal.weighted() if node.op_type in ("Conv", "Gemm")]
    found = collect(equal, inputs.part(0, CORRECTION_CROPS), outputs, histogram=False)
    return {name: item.means for name, item in found.items()}


def finish(
    equal: Graph,
    inputs: Inputs,
    layers: Collection[str],
    ranges: Mapping[str, float],
    means: Mapping[str, Means] | None = None,
) -> Graph:
    """Write Q/DQ for some layers into an equalised network and correct the biases."""
    result = qdq.insert(equal, layers, ranges)
    correct_biases(result, inputs.part(0, CORRECTION_CROPS)[:], output_means(equal, inputs) if means is None else means)
    return result
