"""The mixed plan: which few layers to leave in float when INT8 everywhere fails the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeface.engines import qdq
from edgeface.engines.judge import Verdict, graph_run
from edgeface.engines.quantize import Quantized, finish, output_means

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgeface.engines.graph import Graph
    from edgeface.engines.pictures import Inputs
    from edgeface.engines.quantize import Stage
    from edgeface.engines.recipe import Recipe
    from edgeface.types import FloatArray

    Error = Callable[[Mapping[str, FloatArray], Mapping[str, FloatArray]], float]
    Measure = Callable[[Graph], Verdict]

#: Pictures that sensitivities are measured on.
SENSITIVITY_PICTURES = 48


@dataclass
class Mixed:
    """A plan that was tried.

    Attributes:
        graph: the network. float_layers: what it leaves in float, most sensitive first. verdict: of the judge.
    """

    graph: Graph
    float_layers: list[str]
    verdict: Verdict


def sensitivities(
    quantised: Quantized, inputs: Inputs, error: Error, recipe: Recipe, *, stage: Stage | None = None
) -> list[tuple[str, float]]:
    """How much of the output's error goes away when one layer alone is left in float, most first."""
    begin = stage or (lambda title, steps: lambda done: None)
    some = inputs.part(0, SENSITIVITY_PICTURES)
    reference = graph_run(recipe, quantised.equalised)(some)

    def error_of(layers: list[str]) -> float:
        graph = qdq.insert(quantised.equalised, layers, quantised.ranges)
        return error(reference, graph_run(recipe, graph)(some))

    whole = error_of(quantised.layers)
    tick = begin("sensitivity of each layer", len(quantised.layers))
    gains = []
    for layer in quantised.layers:
        gains.append((layer, whole - error_of([other for other in quantised.layers if other != layer])))
        tick(1)
    return sorted(gains, key=lambda item: (-item[1], item[0]))


def grow(
    quantised: Quantized,
    order: list[tuple[str, float]],
    inputs: Inputs,
    measure: Measure,
    *,
    stage: Stage | None = None,
) -> list[Mixed]:
    """Leave more and more layers in float, in the order of their sensitivity, until the judge is content.

    The number doubles until a plan passes and is then halved in between, so the last of the returned plans that passed
    has the fewest layers in float among the plans of this order. None passes when even half of the layers do not do.
    """
    begin = stage or (lambda title, steps: lambda done: None)
    means = output_means(quantised.equalised, inputs)
    names = [name for name, _ in order]
    most = max(len(names) // 2, 1)
    tick = begin("growing the mixed plan", 2 * most.bit_length())
    tried: list[Mixed] = []

    def attempt(count: int) -> bool:
        left = names[:count]
        layers = [name for name in quantised.layers if name not in left]
        graph = finish(quantised.equalised, inputs, layers, quantised.ranges, means)
        tried.append(Mixed(graph, left, measure(graph)))
        tick(1)
        return tried[-1].verdict.passed

    failed, count = 0, 1
    while not attempt(count):
        if count == most:
            return tried
        failed, count = count, min(count * 2, most)
    while count - failed > 1:
        middle = (failed + count) // 2
        if attempt(middle):
            count = middle
        else:
            failed = middle
    return tried
