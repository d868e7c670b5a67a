"""Measures a candidate engine against float32 and holds it to the recipe's limits: one judge per kind of model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.engines import limits as gate
from edgeface.engines.material import check_people
from edgeface.engines.session import BATCH, Runner
from edgeface.engines.verify import compare_embedders, unit
from edgeface.engines.verify_detector import compare_detectors, decode, scores_of
from edgeface.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgeface.engines.graph import Graph
    from edgeface.engines.limits import Finding
    from edgeface.engines.material import Material
    from edgeface.engines.recipe import Recipe
    from edgeface.engines.session import Tensors
    from edgeface.engines.verify_detector import Found
    from edgeface.runtime import Engine
    from edgeface.types import FloatArray

    #: Runs a network over pictures: outputs by meaning.
    Run = Callable[["Tensors"], Mapping[str, "FloatArray"]]


@dataclass
class Verdict:
    """What a judge says of one engine.

    Attributes:
        findings: limit by limit. figures: all that was measured.
    """

    findings: list[Finding]
    figures: dict[str, Any]

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)


def graph_run(recipe: Recipe, graph: Graph, tick: Callable[[int], None] | None = None) -> Run:
    """Run a graph by the exact simulation."""
    runner = Runner(graph, outputs=list(recipe.outputs.values()))

    def run(tensors: Tensors) -> Mapping[str, FloatArray]:
        values = runner.run(tensors, tick=tick)
        return {meaning: values[name] for meaning, name in recipe.outputs.items()}

    return run


def engine_run(engine: Engine, tick: Callable[[int], None] | None = None) -> Run:
    """Run a loaded engine, as firmware does."""
    batch = min(engine.manifest.max_batch or BATCH, BATCH)

    def run(tensors: Tensors) -> Mapping[str, FloatArray]:
        parts = []
        for start in range(0, len(tensors), batch):
            parts.append(engine.run(tensors[start : start + batch]))
            if tick is not None:
                tick(min(batch, len(tensors) - start))
        return {meaning: np.concatenate([part[meaning] for part in parts]) for meaning in parts[0]}

    return run


class EmbedderJudge:
    """Judges embedders by the angle to float32 and by error rates."""

    def __init__(self, recipe: Recipe, reference: Run, material: Material) -> None:
        limits = recipe.limits
        assert isinstance(limits, gate.EmbedderLimits)
        self._limits, self._material = limits, material
        calibration = unit(self._embeddings(recipe, reference(material.calibration)), f"{recipe.name} in float32")
        material.facts["calibration_people_seen"] = check_people(calibration, recipe.name)
        self._reference = unit(reference(material.held_out)["embedding"], f"{recipe.name} in float32")

    @staticmethod
    def _embeddings(recipe: Recipe, outputs: Mapping[str, FloatArray]) -> FloatArray:
        raw = outputs["embedding"]
        if raw.ndim != 2 or raw.shape[1] != recipe.dimension:
            raise BuildError(
                f"{recipe.name}: expected embeddings of shape (N, {recipe.dimension}), the network gives {raw.shape}: "
                "not an embedder, or another than the recipe describes"
            )
        return raw

    def measure(self, run: Run, *, int8_share: float, quantised: bool) -> Verdict:
        """Measure on the held-out people."""
        engine = unit(run(self._material.held_out)["embedding"], "the engine")
        report = compare_embedders(self._reference, engine, self._material.people)
        figures = asdict(report)
        # A path inside the set, not the caller's folders: reports are passed around.
        figures["worst"] = "/".join(self._material.paths[report.worst].parts[-2:])
        return Verdict(gate.judge_embedder(report, int8_share, self._limits, quantised=quantised), figures)

    @staticmethod
    def error(reference: Mapping[str, FloatArray], outputs: Mapping[str, FloatArray]) -> float:
        """Mean and 95th percentile of 1 - cosine, added: what ranges are chosen by.

        The 99th percentile of a hundred pictures is one picture: it chose SFace's largest values, 0.9981 on others,
        where percentiles gave 0.9983.
        """
        a, b = reference["embedding"].astype(np.float64), outputs["embedding"].astype(np.float64)
        if not np.isfinite(b).all():
            return float("inf")
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        distance = 1.0 - (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
        return float(distance.mean() + np.percentile(distance, 95))


class DetectorJudge:
    """Judges detectors by the faces and points that float32 finds."""

    def __init__(self, recipe: Recipe, reference: Run, material: Material) -> None:
        limits = recipe.limits
        assert isinstance(limits, gate.DetectorLimits)
        self._recipe, self._limits, self._material = recipe, limits, material
        self._size = (material.held_out.pictures.shape[1], material.held_out.pictures.shape[2])
        self._reference: list[Found] = []
        self._scores: list[Mapping[str, FloatArray]] = []
        for part in self._parts():
            outputs = reference(part)
            self._reference += decode(recipe, outputs, self._size)
            self._scores.append(scores_of(outputs))

    def _parts(self) -> Iterator[FloatArray]:
        """The held-out frames few by few: maps of many pictures are large, so they are decoded as they come."""
        for start in range(0, len(self._material.held_out), BATCH):
            yield self._material.held_out[start : start + BATCH]

    def measure(self, run: Run, *, int8_share: float, quantised: bool) -> Verdict:
        """Measure on the held-out frames."""
        found: list[Found] = []
        placed: list[Found] = []
        for part, scores in zip(self._parts(), self._scores, strict=True):
            outputs = run(part)
            found += decode(self._recipe, outputs, self._size)
            placed += decode(self._recipe, {**outputs, **scores}, self._size)
        report = compare_detectors(self._reference, found)
        report.position_errors = compare_detectors(self._reference, placed).point_errors
        errors = np.array(report.point_errors)
        figures = asdict(report) | {
            "recall": report.recall,
            "points_share": report.points_share(self._limits.points_error),
            "points_share_same_cells": report.positions_share(self._limits.points_error),
            "point_error_mean": float(errors.mean()) if len(errors) else None,
            "point_error_p99": float(np.percentile(errors, 99)) if len(errors) else None,
        }
        figures["point_errors"] = _rounded(errors)
        figures["position_errors"] = _rounded(np.array(report.position_errors))
        return Verdict(gate.judge_detector(report, int8_share, self._limits, quantised=quantised), figures)

    def error(self, reference: Mapping[str, FloatArray], outputs: Mapping[str, FloatArray]) -> float:
        """Missed faces, points out of bounds and their mean distance, added: what ranges are chosen by.

        The distance is that of the same cells: it falls evenly with the noise, where points jump from cell to cell.
        """
        size = self._size
        if not all(np.isfinite(value).all() for value in outputs.values()):
            return float("inf")
        wanted = decode(self._recipe, reference, size)
        if not any(len(boxes) for boxes, _, _ in wanted):
            raise BuildError(f"{self._recipe.name}: no face in the calibration frames; give frames with people")
        report = compare_detectors(wanted, decode(self._recipe, outputs, size))
        placed = compare_detectors(wanted, decode(self._recipe, {**outputs, **scores_of(reference)}, size))
        mean = float(np.mean(placed.point_errors)) if placed.point_errors else 1.0
        return (1 - report.recall) + (1 - report.points_share(self._limits.points_error)) * 0.1 + mean


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), 5) for value in values]


Judge = EmbedderJudge | DetectorJudge


def make_judge(recipe: Recipe, reference: Run, material: Material) -> Judge:
    """The judge of a recipe's kind."""
    kind = EmbedderJudge if recipe.kind == "embedder" else DetectorJudge
    return kind(recipe, reference, material)
