"""Thresholds from rates: tables measured on made-up people, and what is asked for against what comes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.engines.identification import measure_table, open_set, rate_limits
from edgeface.errors import ConfigurationError, InputError
from edgeface.manifest import OperatingPoint, Thresholds
from edgeface.policy import comparison_rate, make_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.manifest import Manifest
    from edgeface.types import FloatArray, IntArray

TABLE = Thresholds(
    "a test", 10_000_000, tuple(OperatingPoint(10.0**-n, 0.25 + 0.05 * n, 1 - 0.01 * n) for n in range(2, 7))
)


def people(count: int, photos: int, *, seed: int, dimension: int = 16) -> tuple[FloatArray, IntArray]:
    """Directions of people, drawn evenly, and photographs a little beside them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(count, dimension))
    rows = np.repeat(centres, photos, axis=0) + random.normal(scale=0.35, size=(count * photos, dimension))
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit, np.repeat(np.arange(count), photos)


def test_a_rate_of_searches_becomes_a_rate_of_comparisons() -> None:
    assert comparison_rate(0.01, 1) == pytest.approx(0.01)
    rate = comparison_rate(0.01, 500)
    assert 1 - (1 - rate) ** 500 == pytest.approx(0.01)
    assert comparison_rate(0.5, 10_000) == pytest.approx(-math.log(0.5) / 10_000, rel=1e-3)
    assert comparison_rate(0.01, 0) == comparison_rate(0.01, 1)


def test_the_threshold_rises_with_the_people_enrolled(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    thresholds = [make_policy(manifest, fpir=0.01, enrolled=count).threshold for count in (1, 10, 100, 1000)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == pytest.approx(0.35)
    assert thresholds[3] == pytest.approx(0.50, abs=1e-3)
    policy = make_policy(manifest, fpir=0.01, enrolled=10)
    assert (policy.fpir, policy.origin) == (0.01, "a test")
    assert policy.fmr == pytest.approx(comparison_rate(0.01, 10))


def test_few_people_get_the_strictest_rate_that_was_measured(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    policy = make_policy(manifest, fpir=0.5, enrolled=1)  # the table begins below that rate
    assert policy.fmr == TABLE.points[0].fmr
    assert policy.threshold == pytest.approx(TABLE.points[0].similarity)


def test_a_rate_that_the_table_does_not_support_is_an_error(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    with pytest.raises(ConfigurationError, match="not supported"):
        make_policy(manifest, fpir=0.01, enrolled=1_000_000)
    with pytest.raises(ConfigurationError, match="100000 people"):
        make_policy(manifest, fpir=0.001, enrolled=100_000)


@pytest.mark.parametrize("options", [{"fpir": 0.0}, {"fpir": 1.0}, {"fpir": math.nan}, {"fpir": 0.1, "fmr": 0.1},
                                     {"fpir": 0.1, "enrolled": -1}])  # fmt: skip
def test_rates_that_are_none_are_refused(options: dict[str, Any], embedder_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(InputError):
        make_policy(embedder_manifest(thresholds=TABLE), **options)


def test_what_is_asked_for_comes_within_a_factor_of_two_on_other_people() -> None:
    table = measure_table(*people(400, 3, seed=1), "half of them")
    rows = open_set(*people(400, 3, seed=2), table, (0.1, 0.03, 0.01), enrolled=20)
    assert [row.asked for row in rows] == [0.1, 0.03, 0.01]
    for row in rows:
        assert row.asked / 2 < row.fpir < row.asked * 2, row
        assert row.fnir < 0.5
    assert rows[0].threshold < rows[1].threshold < rows[2].threshold


def test_a_rate_that_the_table_lacks_is_no_row() -> None:
    table = measure_table(*people(60, 2, seed=1), "few")
    assert open_set(*people(60, 2, seed=2), table, (1e-6,), enrolled=10) == []
    with pytest.raises(InputError, match="too few"):
        measure_table(*people(5, 2, seed=1), "very few")
    with pytest.raises(InputError, match="expected 100 people"):
        open_set(*people(60, 2, seed=2), table, (0.1,), enrolled=100)


def test_limits_hold_the_rate_and_narrow_with_people() -> None:
    widths = []
    for count in (60, 400):
        limits = rate_limits(*people(count, 2, seed=3), 0.5)
        assert limits.low <= limits.rate <= limits.high
        assert limits.rate > 0
        widths.append((limits.high - limits.low) / limits.rate)
    assert widths[1] < widths[0]
