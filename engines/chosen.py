"""What a build comes down to: the network that it stores, or the plan of it that won on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeface.engines.candidates import try_plans

if TYPE_CHECKING:
    from edgeface.engines.attempts import Attempt, Attempts
    from edgeface.engines.build import Options
    from edgeface.engines.candidates import Candidate, Outcome
    from edgeface.engines.judge import Judge, Verdict
    from edgeface.engines.machine import Machine
    from edgeface.engines.quantize import Stage
    from edgeface.engines.recipe import Recipe
    from edgeface.manifest import Manifest


@dataclass(frozen=True)
class Chosen:
    """What a build comes down to, passed or not.

    Attributes:
        network: that it stores, if it passed. verdict: of the judge on the running plan, else on the network.
        outcome: of the plans; None where none was compiled.
    """

    network: Attempt
    verdict: Verdict
    outcome: Outcome | None = None

    @property
    def winner(self) -> Candidate | None:
        """The plan to store; None where the ONNX network is stored, or nothing."""
        return self.outcome.winner if self.outcome else None

    @property
    def measured(self) -> str:
        """What the verdict is of, in words."""
        return "the running plan" if self.outcome and self.outcome.verified else "the ONNX network"


def choose(
    recipe: Recipe,
    base: Manifest,
    made: Attempts,
    judge: Judge,
    machine: Machine | None,
    options: Options,
    *,
    held_out: int,
    stage: Stage,
) -> Chosen:
    """Take the last network that was tried; with a machine to compile for, the plan that wins there.

    Args:
        made: the networks that were tried. machine: to compile plans for; None where onnxruntime runs the network.
        held_out: number of verification pictures.

    Raises:
        BuildError: no network could be compiled, or no plan runs.
    """
    last = made.tried[-1]
    assert last.verdict is not None
    if machine is None:
        return Chosen(last, last.verdict)
    networks = [last] if last.verdict.passed else []
    if options.precision is None and not machine.why_not:  # FP16 runs, too, where plans can be timed
        networks.append(made.half())
    if not networks:
        return Chosen(last, last.verdict)
    outcome = try_plans(recipe, base, networks, judge, machine, held_out=held_out, stage=stage, dla=options.dla)
    shown = outcome.winner or next((one for one in outcome.candidates if one.verdict), None)
    if shown is None:
        return Chosen(last, last.verdict, outcome)
    verdict = shown.verdict or shown.attempt.verdict
    assert verdict is not None
    return Chosen(shown.attempt, verdict, outcome)
