"""Plans of one network in several precisions: compiled, held against float32 as they run, timed; the fastest wins."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.engines.judge import engine_run
from edgeface.engines.race import ROUNDS, fastest, race
from edgeface.engines.store import make_manifest, model_name
from edgeface.engines.tensorrt_builder import compile_plan
from edgeface.errors import BuildError, EngineError
from edgeface.home import home, remove_stale
from edgeface.manifest import manifest_path
from edgeface.runtime.engine import load_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeface.engines.attempts import Attempt
    from edgeface.engines.judge import Judge, Verdict
    from edgeface.engines.machine import Machine
    from edgeface.engines.quantize import Stage
    from edgeface.engines.race import Times
    from edgeface.engines.recipe import Recipe
    from edgeface.engines.tensorrt_builder import Compiled
    from edgeface.manifest import Manifest
    from edgeface.runtime import Engine


@dataclass
class Candidate:
    """One plan.

    Attributes:
        attempt: the network. onnx: as it was compiled. compiled: None where that failed.
        verdict: of the judge on the running plan; None where it did not run.
        times: at the usual shape, and for one picture where that is another. refused: why it is out, in words.
    """

    attempt: Attempt
    onnx: bytes = b""
    compiled: Compiled | None = None
    verdict: Verdict | None = None
    times: list[Times] = field(default_factory=list)
    refused: str = ""

    def row(self) -> dict[str, Any]:
        """For the report."""
        return {
            "precision": self.attempt.precision,
            "float_layers": len(self.attempt.float_layers),
            "bytes": len(self.compiled.plan) if self.compiled else None,
            "passed": None if self.verdict is None else self.verdict.passed,
            "findings": [asdict(finding) for finding in self.verdict.findings] if self.verdict else [],
            "times": [asdict(times) for times in self.times],
            "refused": self.refused,
        }


@dataclass
class Outcome:
    """What came of the candidates.

    Attributes:
        candidates: all of them. winner: the one to store; None where each was refused.
        reason: why that one, in words. verified: whether running plans were measured.
    """

    candidates: list[Candidate]
    winner: Candidate | None
    reason: str
    verified: bool


def try_plans(
    recipe: Recipe,
    base: Manifest,
    attempts: Sequence[Attempt],
    judge: Judge,
    machine: Machine,
    *,
    held_out: int,
    stage: Stage,
    dla: int | None = None,
) -> Outcome:
    """Compile networks, and where plans can run here, verify and time them.

    Args:
        attempts: the networks; of two that are equally fast the earlier wins.
        held_out: number of verification pictures.
        dla: the DLA core to compile for.

    Raises:
        BuildError: no network could be compiled, or no plan loaded; the message has the reason of each.
    """
    candidates = [Candidate(attempt) for attempt in attempts]
    for one in candidates:
        try:
            one.onnx = one.attempt.typed_onnx()
            one.compiled = compile_plan(one.onnx, base, machine=machine, stage=stage, dla=dla)
        except BuildError as error:
            if len(candidates) == 1:
                raise
            one.refused = str(error)
    compiled = [one for one in candidates if one.compiled is not None]
    if not compiled:
        raise BuildError("; ".join(one.refused for one in candidates))
    if machine.why_not:
        reason = f"no plan runs here, so none was verified or timed as it runs: {machine.why_not}"
        return Outcome(candidates, compiled[0], reason, verified=False)
    with ExitStack() as opened:
        home().mkdir(parents=True, exist_ok=True)
        remove_stale(home(), ".plans-*")
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=home(), prefix=".plans-")))
        running: list[tuple[Candidate, Engine]] = []
        for one in compiled:
            try:
                engine = opened.enter_context(_load(folder, recipe, base, one, machine.target))
                tick = stage(f"verifying the {one.attempt.precision} plan on other people", held_out)
                quantised = one.attempt.precision == "int8"
                share = one.attempt.int8_share
                one.verdict = judge.measure(engine_run(engine, tick), int8_share=share, quantised=quantised)
            except (EngineError, BuildError) as error:  # BuildError: also NaN or zeros where embeddings should be
                one.refused = str(error)
                continue
            if one.verdict.passed:
                running.append((one, engine))
            else:
                failed = [finding.name for finding in one.verdict.findings if not finding.passed]
                one.refused = f"fails the recipe's limits: {', '.join(failed)}"
        if running:
            _time([one for one, _ in running], [engine for _, engine in running], stage)
    return _choose(candidates, [one for one, _ in running])


def plan_manifest(
    recipe: Recipe,
    base: Manifest,
    candidate: Candidate,
    runtime: str,
    facts: dict[str, Any],
    *,
    asked: str | None = None,
) -> Manifest:
    """The manifest of a candidate's plan; its largest batch is that of the optimisation profile."""
    compiled = candidate.compiled
    assert compiled is not None
    profile = compiled.facts["profile"]
    given = replace(base, max_batch=profile["max"][0]) if profile else base
    return make_manifest(given, recipe, candidate.attempt.precision, runtime, compiled.plan, facts, asked=asked)


def _load(folder: Path, recipe: Recipe, base: Manifest, candidate: Candidate, runtime: str) -> Engine:
    compiled = candidate.compiled
    assert compiled is not None
    manifest = plan_manifest(recipe, base, candidate, runtime, compiled.facts)
    path = folder / model_name(recipe.name, candidate.attempt.precision, runtime)
    try:
        path.with_name(manifest.file).write_bytes(compiled.plan)
        manifest_path(path).write_text(manifest.to_json(), encoding="utf-8")
    except OSError as error:
        raise BuildError(f"{folder}: cannot write the plan to try it: {error}; free some space") from error
    return load_engine(path)


def _time(running: Sequence[Candidate], engines: Sequence[Engine], stage: Stage) -> None:
    """Time plans at the usual shape of their profile, and for one picture where that is another shape."""
    compiled, manifest = running[0].compiled, engines[0].manifest
    assert compiled is not None
    profile = compiled.facts["profile"]
    if profile:
        usual, least = tuple(profile["opt"]), profile["min"][0]
    else:
        assert manifest.input_size is not None, "a network without free axes has one"
        usual = (manifest.max_batch or 1, 3, *manifest.input_size)
        least = usual[0]
    shapes = [usual] if usual[0] == 1 or least > 1 else [usual, (1, *usual[1:])]
    tick = stage("timing the plans", ROUNDS * len(shapes))
    for shape in shapes:
        for one, times in zip(running, race(engines, shape, tick=tick), strict=True):
            one.times.append(times)


def _choose(candidates: list[Candidate], running: Sequence[Candidate]) -> Outcome:
    if not running:
        if all(one.verdict is None for one in candidates):
            raise BuildError("no plan runs: " + "; ".join(f"{_name(one)}: {one.refused}" for one in candidates))
        reason = "; ".join(f"{_name(one)} {one.refused}" for one in candidates)
        return Outcome(candidates, None, reason, verified=True)
    winner = running[fastest([one.times[0] for one in running])]
    batch = winner.times[0].shape[0]
    others = [one for one in running if one is not winner]
    said = [f"{_name(winner)} passes and takes {winner.times[0]} at batch {batch}"]
    for one in others:
        slower = one.times[0].low_ms > winner.times[0].high_ms
        said.append(f"{_name(one)} takes {one.times[0]}" + ("" if slower else ", no clear difference"))
    said += [f"{_name(one)} is out: {one.refused}" for one in candidates if one.refused]
    return Outcome(candidates, winner, "; ".join(said), verified=True)


def _name(candidate: Candidate) -> str:
    return candidate.attempt.precision.upper() if candidate.attempt.precision != "mixed" else "the mixed plan"
