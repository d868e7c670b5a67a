"""Thresholds from rates: interpolated between measured points, refused outside them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface import Decision, Matches
from edgeface.engines.recipe import load_recipe
from edgeface.errors import ConfigurationError, InputError
from edgeface.manifest import OperatingPoint, Thresholds
from edgeface.policy import Policy, make_policy, point_at, threshold_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.manifest import Manifest

ROOT = Path(__file__).parent.parent.parent
POINTS = ((1e-2, 0.25, 0.99), (1e-3, 0.30, 0.98), (1e-5, 0.50, 0.90))
TABLE = Thresholds("a test set", 10_000_000, tuple(OperatingPoint(*point) for point in POINTS))


@pytest.mark.parametrize(("fmr", "similarity"), [(1e-2, 0.25), (1e-3, 0.30), (1e-4, 0.40), (1e-5, 0.50)])
def test_between_points_the_threshold_is_linear_in_the_logarithm(fmr: float, similarity: float) -> None:
    assert threshold_at(TABLE, fmr, "tones") == pytest.approx(similarity, abs=1e-12)


@given(st.floats(1e-5, 1e-2), st.floats(1e-5, 1e-2))
def test_a_lower_rate_never_has_a_lower_threshold(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert threshold_at(TABLE, low, "tones") >= threshold_at(TABLE, high, "tones")


@pytest.mark.parametrize("exponent", [-2, -3, -5])
def test_a_rate_that_was_computed_is_not_outside_by_rounding(exponent: int) -> None:
    for fmr in (10.0**exponent, math.exp(exponent * math.log(10)), math.nextafter(10.0**exponent, 1)):
        assert 0.25 <= threshold_at(TABLE, fmr, "tones") <= 0.5 + 1e-9


@pytest.mark.parametrize("fmr", [0.5, 1.1e-2, 9e-6, 1e-9])
def test_there_is_no_extrapolation(fmr: float) -> None:
    with pytest.raises(ConfigurationError, match=r"not supported: it was measured from 1e-05 to 0\.01 .* a test set"):
        threshold_at(TABLE, fmr, "tones")


def test_a_rate_needs_ten_false_matches_behind_it() -> None:
    few = Thresholds("a small set", 100_000, TABLE.points)  # ten false matches: at 1e-4
    assert threshold_at(few, 1e-4, "tones") == pytest.approx(0.40)
    with pytest.raises(ConfigurationError, match=r"measured from 0\.0001 .*100000 impostor pairs of a small set"):
        threshold_at(few, 5e-5, "tones")


def limited(*factors: float) -> Thresholds:
    """The table with upper limits so many times as high as the rates, and lower ones so many times as low."""
    points = [
        OperatingPoint(fmr, similarity, tar, fmr / factor, fmr * factor)
        for (fmr, similarity, tar), factor in zip(POINTS, factors, strict=True)
    ]
    return Thresholds("limits", 10_000_000, tuple(points), 500, "resampling")


def test_with_limits_it_is_the_upper_one_that_keeps_the_rate(embedder_manifest: Callable[..., Manifest]) -> None:
    table = limited(1.1, 1.5, 4.0)
    assert threshold_at(table, 1.5e-3, "tones") == pytest.approx(0.30)
    for fmr in (1e-2, 1e-3, 1e-4):
        assert threshold_at(table, fmr, "tones") > threshold_at(TABLE, fmr, "tones")
    with pytest.raises(ConfigurationError, match=r"measured from 4e-05 to 0\.011, upper 95 % limits"):
        threshold_at(table, 1e-5, "tones")
    policy = make_policy(embedder_manifest(thresholds=table), fmr=1.5e-3)
    assert policy.fmr == 1.5e-3
    assert policy.measured is not None
    assert policy.measured.fmr == pytest.approx(1e-3)
    assert policy.measured.fmr_low == pytest.approx(1e-3 / 1.5)
    assert policy.measured.fmr_high == pytest.approx(1.5e-3)
    assert policy.measured.tar == pytest.approx(0.98)


@given(st.floats(4e-5, 1.1e-2))
def test_the_upper_limit_at_the_threshold_is_what_was_asked(fmr: float) -> None:
    table = limited(1.1, 1.5, 4.0)
    at = point_at(table, threshold_at(table, fmr, "tones"))
    assert at.fmr_high == pytest.approx(fmr, rel=1e-6)
    assert at.fmr_low is not None
    assert at.fmr_low < at.fmr < fmr


def test_without_limits_the_measured_rate_has_none(embedder_manifest: Callable[..., Manifest]) -> None:
    at = make_policy(embedder_manifest(thresholds=TABLE)).measured
    assert at is not None
    assert at.fmr == pytest.approx(1e-4)
    assert (at.fmr_low, at.fmr_high) == (None, None)
    assert make_policy(embedder_manifest(thresholds=TABLE), threshold=0.3).measured is None


def test_a_table_of_one_point_has_that_threshold_only() -> None:
    one = Thresholds("one", 10_000_000, TABLE.points[:1])
    assert threshold_at(one, 1e-2, "tones") == 0.25
    with pytest.raises(ConfigurationError):
        threshold_at(one, 9e-3, "tones")


def test_the_default_states_its_rate_and_where_it_was_measured(embedder_manifest: Callable[..., Manifest]) -> None:
    policy = make_policy(embedder_manifest(thresholds=TABLE))
    assert (policy.fmr, policy.origin) == (1e-4, "a test set")
    assert policy.threshold == pytest.approx(0.40)
    # A factor of ten in the rate is worth (0.50 - 0.30) / 2 of similarity there.
    assert policy.margin == pytest.approx(0.10)


def test_the_margin_is_that_of_the_step_around_the_threshold(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    assert make_policy(manifest, fmr=1e-3).margin == pytest.approx(0.05)
    assert make_policy(manifest, threshold=-0.5).margin == pytest.approx(0.05)
    assert make_policy(manifest, threshold=0.9).margin == pytest.approx(0.10)
    assert make_policy(manifest, threshold=0.9, margin=0.3).margin == 0.3


def test_a_callers_threshold_claims_no_rate(embedder_manifest: Callable[..., Manifest]) -> None:
    policy = make_policy(embedder_manifest(), threshold=0.33)
    assert policy == Policy(0.33, 0.0, None, "chosen by the caller")


def test_without_a_measurement_there_is_no_default(embedder_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(ConfigurationError, match=r"no measured operating points.*edgeface eval pairs.*threshold="):
        make_policy(embedder_manifest())


@pytest.mark.parametrize(
    "options",
    [
        {"fmr": 1e-3, "threshold": 0.4}, {"fmr": 0.0}, {"fmr": 1.0}, {"fmr": -1e-3}, {"fmr": math.nan},
        {"threshold": 1.01}, {"threshold": -1.01}, {"threshold": math.nan}, {"threshold": math.inf},
        {"margin": -0.01}, {"margin": 2.01}, {"margin": math.nan},
        {"fmr": "1e-4"}, {"fpir": "1e-3"}, {"threshold": "0.4"}, {"margin": "0.05"},  # as a settings file gives them
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any], embedder_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(InputError):
        make_policy(embedder_manifest(thresholds=TABLE), **options)


@pytest.mark.parametrize(
    ("similarities", "decision"),
    [
        ([], Decision.UNKNOWN),
        ([0.39], Decision.UNKNOWN),
        ([0.40], Decision.MATCH),
        ([0.40, 0.31], Decision.AMBIGUOUS),
        ([0.75, 0.25], Decision.MATCH),
        ([0.75, 0.50], Decision.MATCH),  # exactly the margin apart
        ([0.39, 0.38], Decision.UNKNOWN),  # near each other, but nobody reaches the threshold
    ],
)
def test_decisions(similarities: list[float], decision: Decision) -> None:
    names = tuple(f"person {i}" for i in range(len(similarities)))
    threshold = 0.40 - 1e-7  # similarities are float32
    assert Policy(threshold, 0.25, None, "a test").decide(Matches(range(len(names)), names, similarities)) is decision  # type: ignore[arg-type]  # converted on construction


def test_the_shipped_embedder_supports_its_documented_rates() -> None:
    table = load_recipe("sface").thresholds
    assert table is not None
    assert all(point_at(table, point.similarity).fmr == pytest.approx(point.fmr) for point in table.points)
    for fmr in (1e-3, 1e-4, 1e-5, 2e-6):
        at = point_at(table, threshold_at(table, fmr, "sface"))
        assert at.fmr_high == pytest.approx(fmr)
        assert fmr / 2 < at.fmr < fmr  # no stricter than a factor of two
    with pytest.raises(ConfigurationError, match="not supported"):
        threshold_at(table, 1e-6, "sface")


def test_the_shipped_embedder_supports_its_documented_galleries(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=load_recipe("sface").thresholds)
    for fpir, most in ((1e-3, 653), (1e-2, 6_535)):
        assert make_policy(manifest, fpir=fpir, enrolled=most).fpir == fpir
        with pytest.raises(ConfigurationError, match="not supported"):
            make_policy(manifest, fpir=fpir, enrolled=most + 1)
        for page in ("README.md", "docs/rates.md"):
            assert f"{most:,}" in (ROOT / page).read_text(encoding="utf-8")
