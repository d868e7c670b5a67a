"""Rates of presentation attack detection and their limits, against sums of the binomial distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.engines.attack_rates import Presentations, beta_share, binomial_limits, bpcer_at, rate_of, report
from edgeface.pad import LivenessSpec

SPEC = LivenessSpec("square", 2.7, "probability", ("spoof", "live"), "live", 0.8, 0.4)


def at_least(errors: int, size: int, rate: float) -> float:
    """P(X >= errors) of a binomial distribution."""
    return sum(math.comb(size, k) * rate**k * (1 - rate) ** (size - k) for k in range(errors, size + 1))


@given(st.integers(1, 60), st.data())
def test_limits_are_the_rates_at_which_such_a_result_is_one_in_forty(size: int, data: st.DataObject) -> None:
    errors = data.draw(st.integers(0, size))
    low, high = binomial_limits(errors, size)
    if errors > 0:
        assert at_least(errors, size, low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0
    if errors < size:
        assert 1 - at_least(errors + 1, size, high) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1


def test_published_limits() -> None:
    """The rule of three, and an example that textbooks give: 5 of 100."""
    assert binomial_limits(0, 30)[1] == pytest.approx(1 - 0.025 ** (1 / 30))
    assert binomial_limits(5, 100) == pytest.approx((0.01643, 0.11283), abs=1e-5)
    assert binomial_limits(3, 100_000) == pytest.approx((6.187e-6, 8.767e-5), rel=1e-3)


@given(st.floats(0.5, 50), st.floats(0.5, 50), st.floats(0.01, 0.99))
def test_the_beta_distribution_is_symmetric_and_rises(a: float, b: float, x: float) -> None:
    assert beta_share(x, a, b) + beta_share(1 - x, b, a) == pytest.approx(1, abs=1e-9)
    assert beta_share(x, a, b) <= beta_share(min(1.0, x + 0.005), a, b) + 1e-12


def test_pictures_of_one_subject_count_as_less_than_themselves() -> None:
    errors = np.repeat([True, False, False, False, False, False, False, False, False, False], 20)
    alone = rate_of(errors, np.arange(200))
    together = rate_of(errors, np.repeat(np.arange(10), 20))  # one subject fails always, the others never
    mixed = rate_of(np.tile([True] + [False] * 9, 20), np.repeat(np.arange(20), 10))  # everybody fails once
    assert alone.rate == together.rate == mixed.rate == 0.1
    assert (alone.low, alone.high) == pytest.approx(binomial_limits(20, 200))
    assert together.high > 2 * alone.high
    assert (mixed.low, mixed.high) == pytest.approx((alone.low, alone.high))
    none = rate_of(np.zeros(200, bool), np.repeat(np.arange(10), 20))
    assert none.high == pytest.approx(binomial_limits(0, 10)[1])  # ten subjects, not two hundred pictures
    assert (together.subjects, together.count, together.errors) == (10, 200, 20)


def test_limits_cover_the_truth_about_as_often_as_they_say() -> None:
    """Subjects with failure rates of their own, ten pictures each: limits that ignored it would cover 80 %."""
    random = np.random.default_rng(5)
    covered = plain = 0
    for _ in range(150):
        rates = random.beta(0.5, 4.5, 60)  # mean 0.1
        errors = (random.random((60, 10)) < rates[:, None]).ravel()
        found = rate_of(errors, np.repeat(np.arange(60), 10))
        covered += found.low <= 0.1 <= found.high
        low, high = binomial_limits(int(errors.sum()), 600)
        plain += low <= 0.1 <= high
    assert covered / 150 > 0.9
    assert plain < covered


def presentations(*scores: float) -> Presentations:
    return Presentations(np.array(scores), np.arange(len(scores)))


def test_who_is_accepted_refused_and_silent() -> None:
    nan = float("nan")
    found = report(
        presentations(0.9, 0.8, 0.79, 0.5, 0.1, nan),
        {"attack_print": presentations(0.1, 0.5, 0.79, nan), "attack_screen": presentations(0.8, 0.1, 0.2, 0.3)},
        SPEC,
    )
    bona_fide, prints, screens = found["bona_fide"], found["attacks"]["attack_print"], found["attacks"]["attack_screen"]
    assert (bona_fide["bpcer"]["errors"], bona_fide["bpcer"]["count"]) == (3, 5)  # unsure is refused
    assert bona_fide["bpnrr"]["rate"] == pytest.approx(1 / 6)
    assert bona_fide["unsure"] == pytest.approx(2 / 5)
    assert (prints["apcer"]["rate"], prints["apcer"]["count"], prints["apnrr"]["rate"]) == (0.0, 3, 0.25)
    assert prints["unsure"] == pytest.approx(2 / 3)
    assert (screens["apcer"]["rate"], found["worst"]["kind"]) == (0.25, "attack_screen")
    assert all(row["bpcer"] is None and "are needed" in row["why"] for row in found["bpcer_at_apcer"])


def test_where_no_face_is_found_there_is_no_rate() -> None:
    found = report(presentations(0.9), {"attack_mask": presentations(float("nan"), float("nan"))}, SPEC)
    assert found["attacks"]["attack_mask"]["apcer"]["rate"] is None
    assert found["attacks"]["attack_mask"]["apnrr"]["rate"] == 1.0
    assert found["worst"] is None


def test_bpcer_at_an_apcer_holds_for_every_kind() -> None:
    random = np.random.default_rng(2)
    genuine = presentations(*random.uniform(0.3, 1, 500))
    attacks = {"a": presentations(*random.uniform(0, 0.5, 300)), "b": presentations(*random.uniform(0, 0.8, 200))}
    for target in (0.05, 0.1):
        row = bpcer_at(target, genuine, attacks)
        apcers = {kind: float((shown.scores >= row["live_from"]).mean()) for kind, shown in attacks.items()}
        assert max(apcers.values()) <= target
        assert max(apcers.values()) > target - 0.01  # and no stricter than it must be
        assert row["bpcer"]["rate"] == pytest.approx(float((genuine.scores < row["live_from"]).mean()))
    short = bpcer_at(0.05, genuine, {"a": presentations(*[0.1] * 199)})
    assert short["bpcer"] is None
    assert short["why"] == "a has 199 pictures with a face, 200 are needed"
    assert bpcer_at(0.05, genuine, {"a": presentations(*[0.1] * 200)})["bpcer"] is not None
