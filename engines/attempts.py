"""The networks that a build tries, in order: INT8, then plans with more and more layers left in float."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgeface.engines import qdq
from edgeface.engines.halve import halve
from edgeface.engines.judge import engine_run, graph_run
from edgeface.engines.layers import output_shapes
from edgeface.engines.pack import pack
from edgeface.engines.plan import grow, sensitivities
from edgeface.engines.quantize import quantize
from edgeface.engines.store import make_manifest
from edgeface.runtime.onnxrt import OnnxRuntimeEngine

if TYPE_CHECKING:
    from edgeface.engines.graph import Graph
    from edgeface.engines.judge import Judge, Verdict
    from edgeface.engines.material import Material
    from edgeface.engines.quantize import Quantized, Stage
    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Manifest, Precision


@dataclass
class Attempt:
    """One network.

    Attributes:
        graph, precision: what it is. int8_share: of the multiply-accumulates, in INT8 layers.
        verdict: of the judge on the network; None where it was not measured as a network.
        float_layers: what it leaves in float. halved: the float part of `graph` is in FP16 already.
    """

    graph: Graph
    precision: Precision
    int8_share: float
    verdict: Verdict | None = None
    float_layers: list[str] = field(default_factory=list)
    halved: bool = False

    def onnx(self) -> bytes:
        """The ONNX file that onnxruntime runs, as small as it gets."""
        return pack(self.graph).to_bytes()

    def typed_onnx(self) -> bytes:
        """The strongly typed file that TensorRT compiles. Raises BuildError: a weight is too large for FP16."""
        if self.precision == "fp32" or self.halved:
            return self.onnx()
        return Attempt(halve(self.graph), self.precision, self.int8_share).onnx()

    def row(self) -> dict[str, Any]:
        """For the report."""
        assert self.verdict is not None
        findings = [asdict(finding) for finding in self.verdict.findings]
        row = {"precision": self.precision, "float_layers": self.float_layers}
        return {**row, "passed": self.verdict.passed, "findings": findings}


class Attempts:
    """Makes and measures the networks of one build.

    Attributes:
        tried: the networks in the order in which they were tried; the last one is the result, passed or not.
        quantised: the INT8 network and how it came about; None for float precisions.
        order: layers and their gains, most sensitive first; empty where INT8 passed.
        macs: multiply-accumulates of each layer.
    """

    def __init__(
        self,
        recipe: Recipe,
        base: Manifest,
        prepared: Graph,
        judge: Judge,
        material: Material,
        *,
        precision: Precision | None,
        target: str,
        stage: Stage,
    ) -> None:
        self._recipe, self._base, self._prepared, self._judge, self._material = recipe, base, prepared, judge, material
        self._on_cpu, self._stage = target == "onnxruntime", stage
        self.macs = qdq.macs(prepared, output_shapes(prepared, material.calibration))
        self.quantised: Quantized | None = None
        self.order: list[tuple[str, float]] = []
        self.tried: list[Attempt] = []
        if precision == "fp32":
            self._try(Attempt(prepared, "fp32", 0.0), quantised=False)
        elif precision == "fp16":
            self._try(Attempt(halve(prepared), "fp16", 0.0, halved=True), quantised=False)
        else:
            self._quantise(alone=precision == "int8")

    def half(self) -> Attempt:
        """The network in FP16, not measured and not yet cast."""
        return Attempt(self._prepared, "fp16", 0.0)

    def _quantise(self, *, alone: bool) -> None:
        recipe, calibration, judge, stage = self._recipe, self._material.calibration, self._judge, self._stage
        made = quantize(self._prepared, calibration, judge.error, recipe=recipe, stage=stage)
        self.quantised = made
        share = self._share(made.graph)
        verdict = self._try(Attempt(made.graph, "int8", share, None, list(recipe.keep_float)), quantised=True)
        if verdict.passed or alone:
            return
        self.order = sensitivities(made, calibration, judge.error, recipe, stage=stage)

        def measure(graph: Graph) -> Verdict:
            return self._try(Attempt(graph, "mixed", self._share(graph)), quantised=False)

        grown = grow(made, self.order, calibration, measure, stage=stage)
        for attempt, plan in zip(self.tried[-len(grown) :], grown, strict=True):
            attempt.float_layers = [*recipe.keep_float, *plan.float_layers]
        passed = [attempt for attempt in self.tried if attempt.verdict is not None and attempt.verdict.passed]
        if passed:
            self.tried.append(min(passed, key=lambda attempt: len(attempt.float_layers)))

    def _try(self, attempt: Attempt, *, quantised: bool) -> Verdict:
        tick = self._stage("verifying on other people", len(self._material.held_out))
        share = attempt.int8_share
        if self._on_cpu:
            # As firmware runs it: onnxruntime fuses Q/DQ to integer kernels where it can, and rounds otherwise.
            content = attempt.onnx()
            manifest = make_manifest(self._base, self._recipe, attempt.precision, "onnxruntime", content, {})
            with OnnxRuntimeEngine(content, manifest) as engine:
                attempt.verdict = self._judge.measure(engine_run(engine, tick), int8_share=share, quantised=quantised)
        else:
            run = graph_run(self._recipe, attempt.graph, tick)
            attempt.verdict = self._judge.measure(run, int8_share=share, quantised=quantised)
        self.tried.append(attempt)
        return attempt.verdict

    def _share(self, graph: Graph) -> float:
        """Share of the multiply-accumulates that INT8 layers do."""
        chosen = set(qdq.int8_layers(graph))
        return sum(count for name, count in self.macs.items() if name in chosen) / max(sum(self.macs.values()), 1)
