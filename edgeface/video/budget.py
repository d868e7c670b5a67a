"""The time budget of one frame, from its capture to its decisions: what is left out when it does not suffice.

The order is fixed: first a smaller detector input, then detection in every second, third and fourth frame with
extrapolated boxes between, and last one face embedded a frame. Within a frame only as many faces are embedded as
still fit, best views first; where none fits beside the detection, the next frame embeds and does not detect. A liveness
model gets the time that is left then, by the same rules. Steps are taken back one by one while there is room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from edgeface.numbers import real

STARVED_FRAMES = 15  # of such frames one in so many exceeds the budget for one face
SAMPLES = 4096  # latencies behind the percentiles: at 30 frames a second the last two minutes
FULL_SHARE = 0.8  # of the budget that a frame is planned to fill: the rest is for what nobody foresaw
ROOM_SHARE = 0.6  # of the budget that the better step may be expected to take before it is tried again
PATIENCE_FRAMES = 30  # frames without trouble before a step is taken back
LEARNING = 0.2  # share of a new measurement in a smoothed cost
FADING = 0.05  # share of a deviation that a frame without a measurement takes away


@dataclass(frozen=True)
class Step:
    """How much is done in a frame: the detector's longest side, detection every n-th frame, the most faces that are
    embedded, and likewise looked at by a liveness model."""

    max_side_px: int
    every: int
    most_faces: int | None


class Cost:
    """A smoothed duration in milliseconds, with its smoothed upward deviation: it expects the worse."""

    def __init__(self) -> None:
        self.mean_ms = 0.0
        self.deviation_ms = 0.0
        self.known = False
        self.starved = 0  # frames in which nothing fitted, not even without a detection

    def fade(self) -> None:
        """Doubt a bad surprise a little more: without new measurements it would stand for ever."""
        self.deviation_ms *= 1 - FADING

    def learn(self, ms: float) -> None:
        if not self.known:
            self.mean_ms, self.known = ms, True
            return
        # Upwards only: a sudden gain of speed is no reason to expect the worst.
        self.deviation_ms += LEARNING * (max(0.0, ms - self.mean_ms) - self.deviation_ms)
        self.mean_ms += LEARNING * (ms - self.mean_ms)

    def assume(self, ms: float) -> None:
        """Replace what was measured long ago."""
        self.mean_ms, self.deviation_ms, self.known = ms, 0.0, True

    @property
    def expected_ms(self) -> float:
        """Mean and two deviations."""
        return self.mean_ms + 2 * self.deviation_ms


class Budget:
    """Chooses what to do in each frame, and measures what it took.

    Args:
        budget_ms: milliseconds from a frame's capture to its decisions; None does everything in every frame.
        max_side_px: the detector's longest side when there is time.
        sides: whether smaller sides may be tried: an engine of fixed input size has one only.

    Raises:
        InputError: the budget is not positive.
    """

    def __init__(self, budget_ms: float | None, *, max_side_px: int, sides: bool = True) -> None:
        if budget_ms is not None:
            budget_ms = real(budget_ms, "budget_ms", "milliseconds above 0", above=0.0, below=1e6)
        self.budget_ms = budget_ms
        smaller = sorted({side for side in (480, 320) if side < max_side_px and sides}, reverse=True)
        self.steps = [Step(side, 1, None) for side in (max_side_px, *smaller)]
        last = self.steps[-1].max_side_px
        self.steps += [Step(last, every, None) for every in (2, 3, 4)] + [Step(last, 4, 1)]
        self.level = 0
        self.embedding = Cost()
        self.liveness = Cost()
        self._detection: dict[int, Cost] = {step.max_side_px: Cost() for step in self.steps}
        self._rest = Cost()
        self._calm = 0
        self._since_detection = 0
        self._make_room = False
        self.frames = 0
        self.frames_over = 0
        self._latencies: deque[float] = deque(maxlen=SAMPLES)

    @property
    def step(self) -> Step:
        return self.steps[self.level]

    def detect_now(self) -> bool:
        """Whether this frame is one to detect in; to be asked once a frame."""
        self._since_detection += 1
        if self._make_room:
            self._make_room = False
            return False
        if self._since_detection >= self.step.every:
            self._since_detection = 0
            return True
        return False

    def learn_detection(self, max_side_px: int, ms: float) -> None:
        self._detection[max_side_px].learn(ms)

    def faces_that_fit(self, cost: Cost, spent_ms: float, wanted: int) -> int:
        """How many of `wanted` faces a network may run on in a frame that has taken `spent_ms` so far.

        Args:
            cost: of one face: `embedding` or `liveness`.
        """
        most = wanted if self.step.most_faces is None else min(wanted, self.step.most_faces)
        if self.budget_ms is None or not cost.known:
            return min(most, 1) if self.budget_ms is not None else most
        room = self.budget_ms * FULL_SHARE - spent_ms - self._rest.expected_ms
        count = max(0, min(most, int(room / max(cost.expected_ms, 1e-3))))
        if count == 0:
            cost.fade()
            if self._since_detection == 0:  # this frame detected
                self._make_room = True
            else:  # alone it does not fit either: a budget below one run of the network would recognise nobody
                cost.starved += 1
                count = int(cost.starved % STARVED_FRAMES == 0)
        return count

    def finish(self, latency_ms: float, rest_ms: float) -> None:
        """Take in a frame's whole latency, and the part of it in which no network ran."""
        self.frames += 1
        self._latencies.append(latency_ms)
        self._rest.learn(rest_ms)
        if self.budget_ms is None:
            return
        over = latency_ms > self.budget_ms
        self.frames_over += over
        planned = self._detection[self.step.max_side_px].expected_ms + self._rest.expected_ms
        if (over or planned > self.budget_ms * FULL_SHARE) and self.level + 1 < len(self.steps):
            self.level += 1
            self._calm = 0
            return
        self._calm += 1
        if self.level > 0 and self._calm >= PATIENCE_FRAMES:
            better = self.steps[self.level - 1]
            area = (better.max_side_px / self.step.max_side_px) ** 2  # time of a convolution goes with the pixels
            guess = self._detection[self.step.max_side_px].expected_ms * area
            self._calm = 0
            if guess + self._rest.expected_ms < self.budget_ms * ROOM_SHARE:
                self._detection[better.max_side_px].assume(guess)
                self.level -= 1

    def percentiles_ms(self, *ranks: float) -> list[float]:
        """Percentiles of the last latencies; NaN before the first frame."""
        if not self._latencies:
            return [float("nan")] * len(ranks)
        return [float(value) for value in np.percentile(np.array(self._latencies), ranks)]
