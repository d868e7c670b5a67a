"""Builds an engine: calibrate, quantise, hold against float32, write it or refuse. The steps' order stands here."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from edgeface.engines import models, qdq
from edgeface.engines.halve import halve
from edgeface.engines.intake import read_network
from edgeface.engines.judge import Verdict, engine_run, graph_run, make_judge
from edgeface.engines.layers import layer_rows, output_shapes
from edgeface.engines.material import gather
from edgeface.engines.pack import pack
from edgeface.engines.plan import grow, sensitivities
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import Quantized, quantize
from edgeface.engines.rates import with_thresholds
from edgeface.engines.store import Artefact, make_manifest, store
from edgeface.errors import BuildError, GateError
from edgeface.home import home, model_path
from edgeface.manifest import read_manifest
from edgeface.runtime.onnxrt import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.detect import Detector
    from edgeface.engines.graph import Graph
    from edgeface.engines.judge import Judge
    from edgeface.engines.material import Material
    from edgeface.engines.quantize import Stage
    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Manifest, Precision

Target = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
PACKAGES = ("edgeface", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Options:
    """What one build is asked for.

    Attributes:
        calibration: folder of photographs, crops or frames; a folder for each person says who is who.
        pairs, images: verify on the people of a pairs file; its photographs are in `images`, else in `calibration`.
        target: what shall run the engine.
        precision: None and ``mixed`` are INT8, with as few layers in float as the limits need; ``int8`` is the recipe's
            INT8 or nothing.
        out: folder of the engine and the report; None is the model folder.
        pictures: most calibration pictures. held_out: most verification pictures.
        force: build even what is up to date.
    """

    calibration: Path
    pairs: Path | None = None
    images: Path | None = None
    target: Target = "onnxruntime"
    precision: Precision | None = None
    out: Path | None = None
    pictures: int = 384
    held_out: int = 2000
    force: bool = False


@dataclass
class Built:
    """What a build gave.

    Attributes:
        path: the engine file. precision: of it. document: the report, as its JSON says it.
        up_to_date: the engine stood there already, made from the same inputs.
    """

    path: Path
    precision: str
    document: dict[str, Any]
    up_to_date: bool = False


@dataclass
class _Attempt:
    graph: Graph
    precision: Precision
    verdict: Verdict
    float_layers: list[str] = field(default_factory=list)


def build(recipe: Recipe, options: Options, *, detector: Detector | None = None, stage: Stage | None = None) -> Built:
    """Build one engine.

    Args:
        detector: cuts faces out of photographs; not needed for crops and for detectors.
        stage: called as each stage begins.

    Raises:
        GateError: the engine recognises worse than the recipe allows; the report was written, nothing else.
        BuildError: pictures, model or machine do not allow it. InputError: unreadable pictures.
        ModelError: the float32 model is absent, damaged or not what the recipe says.
    """
    if recipe.kind == "liveness":
        raise BuildError(
            f"{recipe.name}: a liveness model is not quantised: only attacks of your own could prove that INT8 keeps "
            f"its error rates; use it as `edgeface models fetch {recipe.path}` stores it, in float32"
        )
    clock = _Clock(stage)
    source = model_path(recipe.name)
    fp32 = models.load_stored(recipe)
    network = read_network(fp32, recipe)
    folder = options.out or home() / "models"
    material = gather(
        recipe,
        options.calibration,
        pairs=options.pairs,
        images=options.images,
        detector=detector,
        count=options.pictures,
        most_held_out=options.held_out,
        stage=clock.stage,
    )
    fingerprint = _fingerprint(recipe, fp32, material, options)
    old = None if options.force else _up_to_date(recipe, folder, fingerprint)
    if old is not None:
        return old
    total = len(material.held_out) + (len(material.calibration) if recipe.kind == "embedder" else 0)
    tick = clock.stage("float32 reference", total)
    judge = make_judge(recipe, graph_run(recipe, network, tick), material)
    prepared = prepare(network)
    shapes = output_shapes(prepared, material.calibration)
    macs = qdq.macs(prepared, shapes)
    attempts, quantised, order = _attempts(recipe, options, prepared, judge, material, macs, clock.stage)
    final = attempts[-1]
    document: dict[str, Any] = {
        "format": "edgeface-build-report",
        "version": 1,
        "recipe": recipe.name,
        "target": options.target,
        "precision": final.precision,
        "passed": final.verdict.passed,
        "findings": [asdict(finding) for finding in final.verdict.findings],
        "figures": final.verdict.figures,
        "int8_share": _share(final.graph, macs),
        "float_layers": final.float_layers,
        "attempts": [
            {"precision": a.precision, "float_layers": a.float_layers, "passed": a.verdict.passed,
             "findings": [asdict(finding) for finding in a.verdict.findings]}
            for a in attempts
        ],
        "candidates": [asdict(c) for c in quantised.candidates] if quantised else [],
        "sensitivities": [{"layer": name, "gain": gain} for name, gain in order],
        "layers": layer_rows(prepared, quantised, final.graph, macs, material.calibration),
        "pictures": material.facts,
        "versions": versions(),
        "fingerprint": fingerprint,
    }  # fmt: skip
    if not final.verdict.passed:
        document["seconds"] = clock.seconds()
        report = store(folder, recipe, final.precision, None, document)
        worst = "; ".join(f"{f.name} {f.value:.4f}, limit {f.limit:g}" for f in final.verdict.findings if not f.passed)
        raise GateError(
            f"{recipe.name}: {final.precision} fails the recipe's limits: {worst}. No engine was written; "
            f"the report is {report}"
        )
    artefact = _artefact(recipe, source, options, final, document, clock.stage)
    document["file"] = {"name": artefact.manifest.file, "bytes": len(artefact.content), "fp32_bytes": len(fp32)}
    document["seconds"] = clock.seconds()
    path = store(folder, recipe, final.precision, artefact, document)
    return Built(path, final.precision, document)


def _attempts(
    recipe: Recipe,
    options: Options,
    prepared: Graph,
    judge: Judge,
    material: Material,
    macs: dict[str, int],
    stage: Stage,
) -> tuple[list[_Attempt], Quantized | None, list[tuple[str, float]]]:
    """Networks in the order in which they were tried; the last one is the result, whether it passed or not."""
    count = len(material.held_out)

    def as_manifest(content: bytes) -> Manifest:
        return make_manifest(read_manifest(model_path(recipe.name)), recipe, "int8", "onnxruntime", content, {})

    def measure(graph: Graph, *, quantised: bool) -> Verdict:
        tick = stage("verifying on other people", count)
        share = _share(graph, macs)
        if options.target != "onnxruntime":
            return judge.measure(graph_run(recipe, graph, tick), int8_share=share, quantised=quantised)
        # Measured as firmware runs it: onnxruntime fuses Q/DQ to integer kernels where it can, and rounds otherwise.
        content = _file(graph)
        with OnnxRuntimeEngine(content, as_manifest(content)) as engine:
            return judge.measure(engine_run(engine, tick), int8_share=share, quantised=quantised)

    if options.precision == "fp32":
        return [_Attempt(prepared, "fp32", measure(prepared, quantised=False))], None, []
    if options.precision == "fp16":
        half = halve(prepared)
        return [_Attempt(half, "fp16", measure(half, quantised=False))], None, []
    quantised = quantize(prepared, material.calibration, judge.error, recipe=recipe, stage=stage)
    whole = measure(quantised.graph, quantised=True)
    attempts = [_Attempt(quantised.graph, "int8", whole, list(recipe.keep_float))]
    if whole.passed or options.precision == "int8":
        return attempts, quantised, []
    order = sensitivities(quantised, material.calibration, judge.error, recipe, stage=stage)
    tried = grow(quantised, order, material.calibration, lambda graph: measure(graph, quantised=False), stage=stage)
    attempts += [_Attempt(m.graph, "mixed", m.verdict, [*recipe.keep_float, *m.float_layers]) for m in tried]
    passed = [attempt for attempt in attempts if attempt.verdict.passed]
    if passed:
        attempts.append(min(passed, key=lambda attempt: len(attempt.float_layers)))
    return attempts, quantised, order


def _artefact(
    recipe: Recipe,
    source: Path,
    options: Options,
    final: _Attempt,
    document: dict[str, Any],
    stage: Stage,
) -> Artefact:
    """The file that will be written: the ONNX network, or the plan that TensorRT compiles from it."""
    facts = {
        "fingerprint": document["fingerprint"],
        "recipe_sha256": hashlib.sha256(recipe.path.read_bytes()).hexdigest(),
        "fp32_sha256": read_manifest(source).sha256,
        "pictures": document["pictures"],
        "versions": document["versions"],
        "int8_share": document["int8_share"],
        "float_layers": final.float_layers,
        "accuracy": {finding.name: finding.value for finding in final.verdict.findings},
    }
    base = with_thresholds(read_manifest(source), final.precision, final.verdict.figures)
    if options.target == "onnxruntime":
        content = _file(final.graph)
        manifest = make_manifest(base, recipe, final.precision, "onnxruntime", content, facts)
        return Artefact(content, manifest)
    from edgeface.engines.tensorrt_builder import compile_plan

    onnx_bytes = _file(final.graph if final.precision in ("fp32", "fp16") else halve(final.graph))
    compiled = compile_plan(onnx_bytes, base, target=options.target, stage=stage)
    facts |= {"onnx_sha256": hashlib.sha256(onnx_bytes).hexdigest(), **compiled.facts}
    document["compiled"] = compiled.facts
    document["compiled_layers"] = compiled.layers
    return Artefact(compiled.plan, make_manifest(base, recipe, final.precision, options.target, compiled.plan, facts))


def _file(graph: Graph) -> bytes:
    """The ONNX file of a network, as small as it gets."""
    return pack(graph).to_bytes()


def _share(graph: Graph, macs: dict[str, int]) -> float:
    """Share of the multiply-accumulates that INT8 layers do."""
    chosen = set(qdq.int8_layers(graph))
    return sum(count for name, count in macs.items() if name in chosen) / max(sum(macs.values()), 1)


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


def _fingerprint(recipe: Recipe, fp32: bytes, material: Material, options: Options) -> str:
    """Names everything that the result depends on: same fingerprint, same engine."""
    facts = [
        hashlib.sha256(fp32).hexdigest(),
        hashlib.sha256(recipe.path.read_bytes()).hexdigest(),
        material.facts["calibration_sha256"],
        material.facts["held_out_sha256"],
        material.people,
        options.target,
        options.precision,
        versions(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _up_to_date(recipe: Recipe, folder: Path, fingerprint: str) -> Built | None:
    """An engine that was made from the same inputs, whole on disk: an interrupted `build --all` goes on behind it."""
    from edgeface.engines.store import find_built

    found = find_built(folder, recipe, fingerprint)
    return None if found is None else Built(found[0], found[1].precision, {"findings": [], **found[1].build}, True)


class _Clock:
    """Passes stages on and keeps the seconds of each."""

    def __init__(self, stage: Stage | None) -> None:
        self._given = stage
        self._marks: list[tuple[str, float]] = []

    def stage(self, title: str, steps: int) -> Callable[[int], None]:
        self._marks.append((title, time.perf_counter()))
        return self._given(title, steps) if self._given else lambda done: None

    def seconds(self) -> dict[str, float]:
        ends = [mark[1] for mark in self._marks[1:]] + [time.perf_counter()]
        total: dict[str, float] = {}
        for (title, start), end in zip(self._marks, ends, strict=True):
            total[title] = round(total.get(title, 0.0) + end - start, 2)
        return total | {"total": round(time.perf_counter() - self._marks[0][1], 2)} if self._marks else {}
