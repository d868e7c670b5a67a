"""Builds an engine: calibrate, quantise, hold against float32, write it or refuse. The steps' order stands here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from edgeface.engines import models
from edgeface.engines.attempts import Attempts
from edgeface.engines.candidates import plan_manifest
from edgeface.engines.chosen import choose
from edgeface.engines.clock import Clock
from edgeface.engines.intake import check_kind, read_network
from edgeface.engines.judge import graph_run, make_judge
from edgeface.engines.layers import layer_rows
from edgeface.engines.limits import EmbedderLimits
from edgeface.engines.machine import find_machine
from edgeface.engines.material import gather
from edgeface.engines.prepare import check_same, prepare
from edgeface.engines.rates import with_thresholds
from edgeface.engines.session import BATCH
from edgeface.engines.store import Artefact, check_folder, find_built, make_manifest, store
from edgeface.engines.tensorrt_builder import make_builder
from edgeface.errors import BuildError, GateError
from edgeface.home import home, model_path
from edgeface.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgeface.detect import Detector
    from edgeface.engines.chosen import Chosen
    from edgeface.engines.graph import Graph
    from edgeface.engines.machine import Machine
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
            INT8 or nothing. None for TensorRT also tries FP16, and takes whichever plan runs faster on this machine.
        out: folder of the engine and the report; None is the model folder.
        pictures: most calibration pictures. held_out: most verification pictures.
        force: build even what is up to date.
        dla: of the target ``tensorrt``, the DLA core to run on (experimental).
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
    dla: int | None = None

    @property
    def asked(self) -> str:
        """The precision that the engine answers to at run time, whatever it came to compute in."""
        return self.precision or "int8"


@dataclass
class Built:
    """What a build gave.

    Attributes:
        path: what `load_engine` takes. precision: of the engine. document: the report, as its JSON says it.
        up_to_date: the engine stood there already, made from the same inputs.
    """

    path: Path
    precision: str
    document: dict[str, Any]
    up_to_date: bool = False


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
    check_kind(recipe)
    clock = Clock(stage)
    source = model_path(recipe.name)
    folder = options.out or home() / "models"
    if options.target == "onnxruntime" and options.precision == "fp32" and folder.resolve() == source.parent.resolve():
        raise BuildError(f"{source}: the float32 model itself is there; give --out to make another file of it")
    check_folder(folder)
    fp32 = models.load_stored(recipe)
    base = read_manifest(source)
    machine = None
    if options.target != "onnxruntime":
        machine = find_machine(options.target)
        make_builder(machine, dla=options.dla)  # before the long work: a machine that cannot compile is told now
    network = read_network(fp32, recipe)
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
    fingerprint = _fingerprint(recipe, fp32, material, options, machine)
    if not options.force:
        old = find_built(folder, recipe, options.asked, options.target, fingerprint)
        if old is not None:
            return Built(old[0], old[1].precision, {"findings": [], **old[1].build}, True)
    total = len(material.held_out) + (len(material.calibration) if recipe.kind == "embedder" else 0)
    judge = make_judge(recipe, graph_run(recipe, network, clock.stage("float32 reference", total)), material)
    prepared = prepare(network)
    check_same(network, prepared, material.calibration.part(0, BATCH))
    made = Attempts(
        recipe,
        base,
        prepared,
        judge,
        material,
        precision=options.precision,
        target=options.target,
        stage=clock.stage,
    )
    held_out = len(material.held_out)
    chosen = choose(recipe, base, made, judge, machine, options, held_out=held_out, stage=clock.stage)
    document = _document(recipe, options, made, chosen, prepared=prepared, material=material, fingerprint=fingerprint)
    if not chosen.verdict.passed:
        document["seconds"] = clock.seconds()
        raise _refused(chosen, document, store(folder, recipe, options.asked, None, document))
    artefact = _artefact(recipe, base, options, chosen, document)
    document["file"] = {"name": artefact.manifest.file, "bytes": len(artefact.content), "fp32_bytes": len(fp32)}
    document["seconds"] = clock.seconds()
    path = store(folder, recipe, options.asked, artefact, document)
    return Built(path, chosen.network.precision, document)


def _document(
    recipe: Recipe,
    options: Options,
    made: Attempts,
    chosen: Chosen,
    *,
    prepared: Graph,
    material: Material,
    fingerprint: str,
) -> dict[str, Any]:
    """The report's JSON, as far as it is known before an engine is written."""
    network, outcome = chosen.network, chosen.outcome
    quantised = made.quantised if network.precision in ("int8", "mixed") else None
    return {
        "format": "edgeface-build-report",
        "version": 1,
        "recipe": recipe.name,
        "target": options.target,
        "asked": options.asked,
        "precision": network.precision,
        "passed": chosen.verdict.passed,
        "measured": chosen.measured,
        "findings": [asdict(finding) for finding in chosen.verdict.findings],
        "figures": chosen.verdict.figures,
        "int8_share": network.int8_share,
        "float_layers": network.float_layers,
        "attempts": [attempt.row() for attempt in made.tried],
        "plans": [candidate.row() for candidate in outcome.candidates] if outcome else [],
        "reason": outcome.reason if outcome else "",
        "candidates": [asdict(c) for c in made.quantised.candidates] if made.quantised else [],
        "sensitivities": [{"layer": name, "gain": gain} for name, gain in made.order],
        "layers": layer_rows(prepared, quantised, network.graph, made.macs, material.calibration),
        "pictures": material.facts,
        "versions": versions(),
        "fingerprint": fingerprint,
    }


def _refused(chosen: Chosen, document: Mapping[str, Any], report: Path) -> GateError:
    """What a build that fails its recipe's limits ends with."""
    failed = [finding for finding in chosen.verdict.findings if not finding.passed]
    worst = "; ".join(f"{finding.name} {finding.value:.4f}, limit {finding.limit:g}" for finding in failed)
    return GateError(
        f"{document['recipe']}: {chosen.network.precision} fails the recipe's limits: {worst}. No engine was written; "
        f"the report is {report}"
    )


def _artefact(
    recipe: Recipe, base: Manifest, options: Options, chosen: Chosen, document: dict[str, Any]
) -> Artefact:
    """The file that will be written: the ONNX network, or the plan that TensorRT compiled from it."""
    network, winner = chosen.network, chosen.winner
    facts = {
        "fingerprint": document["fingerprint"],
        "asked": options.precision,
        "recipe_sha256": hashlib.sha256(recipe.path.read_bytes()).hexdigest(),
        "fp32_sha256": base.sha256,
        "pictures": document["pictures"],
        "versions": document["versions"],
        "int8_share": document["int8_share"],
        "float_layers": network.float_layers,
        "accuracy": {finding["name"]: finding["value"] for finding in document["findings"]},
        "measured": document["measured"],
    }
    if isinstance(recipe.limits, EmbedderLimits):
        most = recipe.limits.threshold_shift
        base = with_thresholds(base, network.precision, document["figures"], most=most)
    if winner is None:
        content = network.onnx()
        made = make_manifest(base, recipe, network.precision, "onnxruntime", content, facts, asked=options.asked)
        return Artefact(content, made)
    compiled = winner.compiled
    assert compiled is not None
    facts |= {
        "onnx_sha256": hashlib.sha256(winner.onnx).hexdigest(),
        "reason": document["reason"],
        "times": [asdict(times) for times in winner.times],
        **compiled.facts,
    }
    document["compiled"] = compiled.facts
    document["compiled_layers"] = compiled.layers
    document["off_plan"] = compiled.off_plan
    return Artefact(compiled.plan, plan_manifest(recipe, base, winner, options.target, facts, asked=options.asked))


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


def _fingerprint(recipe: Recipe, fp32: bytes, material: Material, options: Options, machine: Machine | None) -> str:
    """Names everything that the result depends on: same fingerprint, same engine."""
    facts = [
        hashlib.sha256(fp32).hexdigest(),
        hashlib.sha256(recipe.path.read_bytes()).hexdigest(),
        material.facts["calibration_sha256"],
        material.facts["held_out_sha256"],
        material.people,
        options.target,
        options.precision,
        options.dla,
        machine.facts() if machine else None,  # a plan is for one TensorRT, device and JetPack
        versions(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
