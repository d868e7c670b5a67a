"""The time budget: what is left out, in which order, and that it comes back."""

from __future__ import annotations

import math

import pytest

from edgeface.errors import InputError
from edgeface.video.budget import PATIENCE_FRAMES, Budget, Cost


def run(budget: Budget, frames: int, detect_ms: float) -> None:
    """Frames whose detection takes so long at 640 px, and less at smaller sizes."""
    for _ in range(frames):
        ms = 0.0
        if budget.detect_now():
            ms = detect_ms * (budget.step.max_side_px / 640) ** 2
            budget.learn_detection(budget.step.max_side_px, ms)
        budget.finish(ms + 1, 1)


def test_without_a_budget_everything_is_done() -> None:
    budget = Budget(None, max_side_px=640)
    run(budget, 100, 500)
    assert budget.level == 0
    assert budget.faces_that_fit(budget.embedding, 1e6, 16) == 16
    assert budget.frames_over == 0


def test_steps_are_taken_in_the_stated_order_and_taken_back() -> None:
    budget = Budget(100, max_side_px=640)
    seen = [(step.max_side_px, step.every, step.most_faces) for step in budget.steps]
    assert seen == [(640, 1, None), (480, 1, None), (320, 1, None), (320, 2, None), (320, 3, None), (320, 4, None),
                    (320, 4, 1)]  # fmt: skip
    run(budget, 10, 130)
    assert budget.step.max_side_px == 480
    assert budget.frames_over >= 1
    run(budget, 4 * PATIENCE_FRAMES, 20)
    assert budget.level == 0


def test_a_detector_of_fixed_size_only_gets_rarer() -> None:
    budget = Budget(100, max_side_px=640, sides=False)
    assert {step.max_side_px for step in budget.steps} == {640}
    run(budget, 50, 150)
    assert budget.step.every > 1


def test_embeddings_fill_what_is_left() -> None:
    budget = Budget(100, max_side_px=640)
    assert budget.faces_that_fit(budget.embedding, 0, 5) == 1  # the first one is a measurement
    for _ in range(20):
        budget.embedding.learn(20)
        budget.finish(10, 0)
    assert budget.faces_that_fit(budget.embedding, 0, 16) in (3, 4)
    assert budget.faces_that_fit(budget.embedding, 45, 16) == 1
    assert budget.faces_that_fit(budget.embedding, 0, 2) == 2


def test_where_no_face_fits_beside_the_detection_the_next_frame_has_none() -> None:
    budget = Budget(50, max_side_px=640)
    for _ in range(20):
        budget.embedding.learn(30)
        budget.finish(10, 0)
    assert budget.detect_now()
    assert budget.faces_that_fit(budget.embedding, 25, 3) == 0
    assert not budget.detect_now()
    assert budget.faces_that_fit(budget.embedding, 0, 3) == 1
    assert budget.detect_now()


def test_a_budget_below_one_embedding_still_recognises_somebody() -> None:
    budget = Budget(10, max_side_px=640)
    budget.embedding.learn(100)
    fitted = 0
    for _ in range(200):
        budget.detect_now()
        fitted += budget.faces_that_fit(budget.embedding, 0, 2)
    assert 1 <= fitted <= 20


def test_a_liveness_model_gets_what_the_embedder_leaves() -> None:
    budget = Budget(100, max_side_px=640)
    for _ in range(20):
        budget.embedding.learn(20)
        budget.liveness.learn(10)
        budget.finish(10, 0)
    assert budget.faces_that_fit(budget.liveness, 0, 16) in (7, 8)
    assert budget.faces_that_fit(budget.liveness, 65, 16) == 1
    fitted = 0
    for _ in range(90):
        budget.detect_now()
        fitted += budget.faces_that_fit(budget.liveness, 95, 1)
    assert 2 <= fitted <= 6  # starved, but not for ever
    assert budget.embedding.starved == 0


def test_a_bad_surprise_is_forgotten() -> None:
    cost = Cost()
    for ms in (10, 10, 10, 200):
        cost.learn(ms)
    before = cost.expected_ms
    for _ in range(100):
        cost.fade()
    assert cost.expected_ms < before / 1.5


def test_percentiles_are_measured() -> None:
    budget = Budget(100, max_side_px=640)
    assert math.isnan(budget.percentiles_ms(50)[0])
    for ms in range(101):
        budget.finish(float(ms), 0)
    assert budget.percentiles_ms(50, 99) == [50.0, 99.0]


@pytest.mark.parametrize("ms", [0, -1, math.nan, math.inf])
def test_a_budget_is_a_time(ms: float) -> None:
    with pytest.raises(InputError, match="budget_ms"):
        Budget(ms, max_side_px=640)
