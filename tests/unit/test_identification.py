"""Thresholds from rates: tables measured on made-up people, and what is asked for against what comes."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.engines.identification import LEAST_PAIRS, open_set, over_halves
from edgeface.engines.rates import measure_table, rate_limits, with_thresholds
from edgeface.errors import ConfigurationError, InputError
from edgeface.manifest import OperatingPoint, Thresholds
from edgeface.policy import comparison_rate, make_policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
    assert comparison_rate(0.01, 1) == 0.01
    assert comparison_rate(0.01, 0) == 0.01
    assert comparison_rate(0.5, 10_000) == 0.5 / 10_000
    # Never more than is asked: neither where comparisons are independent, nor where all go wrong together.
    for fpir, count in ((0.5, 10), (0.1, 50), (0.01, 500)):
        fmr = comparison_rate(fpir, count)
        assert fpir * 0.75 < 1 - (1 - fmr) ** count <= fpir


def test_the_threshold_rises_with_the_people_enrolled(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    thresholds = [make_policy(manifest, fpir=0.01, enrolled=count).threshold for count in (1, 10, 100, 1000)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == pytest.approx(0.35)
    assert thresholds[3] == pytest.approx(0.50, abs=1e-3)
    policy = make_policy(manifest, fpir=0.01, enrolled=10)
    assert (policy.fpir, policy.origin) == (0.01, "a test")
    assert policy.fmr == pytest.approx(comparison_rate(0.01, 10))


def test_few_templates_get_the_strictest_rate_that_was_measured(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    policy = make_policy(manifest, fpir=0.5, enrolled=1)  # the table begins below that rate
    assert policy.fmr == TABLE.points[0].fmr
    assert policy.threshold == pytest.approx(TABLE.points[0].similarity)


def test_a_rate_that_the_table_does_not_support_is_an_error(embedder_manifest: Callable[..., Manifest]) -> None:
    manifest = embedder_manifest(thresholds=TABLE)
    with pytest.raises(ConfigurationError, match="not supported"):
        make_policy(manifest, fpir=0.01, enrolled=1_000_000)
    with pytest.raises(ConfigurationError, match="100000 templates"):
        make_policy(manifest, fpir=0.001, enrolled=100_000)


@pytest.mark.parametrize("options", [{"fpir": 0.0}, {"fpir": 1.0}, {"fpir": math.nan}, {"fpir": 0.1, "fmr": 0.1},
                                     {"fpir": 0.1, "enrolled": -1}])  # fmt: skip
def test_rates_that_are_none_are_refused(options: dict[str, Any], embedder_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(InputError):
        make_policy(embedder_manifest(thresholds=TABLE), **options)


def test_what_is_asked_for_is_kept_and_comes_within_a_factor_of_two_on_other_people() -> None:
    table = measure_table(*people(400, 3, seed=1), "half of them")
    assert table.people == 400
    rows = open_set(*people(400, 3, seed=2), table, (0.1, 0.03, 0.01), enrolled=20)
    assert [row.asked for row in rows] == [0.1, 0.03, 0.01]
    for row in rows:
        assert row.supported
        assert row.fpir_low < row.fpir < row.fpir_high
        assert row.asked / 2 < row.fpir, row
        assert row.fpir_low < row.asked, row
        assert row.fnir < 0.5
    assert rows[0].threshold < rows[1].threshold < rows[2].threshold


def test_several_templates_of_a_person_keep_the_rate_too() -> None:
    table = measure_table(*people(400, 3, seed=1), "half of them")
    others = people(400, 4, seed=2)
    (row,) = open_set(*others, table, (0.03,), enrolled=20, templates=3)
    assert row.supported
    assert row.fpir_low < 0.03
    # The threshold for 20 templates would not do for 60.
    (few,) = open_set(*others, table, (0.03,), enrolled=20)
    assert row.threshold > few.threshold


def test_over_many_halves_the_rate_is_kept() -> None:
    drawn = people(240, 3, seed=5)
    (row,) = over_halves(*drawn, (0.1, 1e-6), enrolled=20, templates=2, halves=4)  # no table supports the second
    assert (row.asked, row.judged, row.exceeded) == (0.1, 4, 0)
    assert row.least <= row.median <= row.greatest
    assert row.median < 1.0
    assert row.within_two >= 3


def test_a_rate_that_rests_on_few_pairs_of_people_is_not_judged() -> None:
    table = measure_table(*people(400, 3, seed=1), "half of them")
    rows = open_set(*people(30, 3, seed=3), table, (0.1, 0.003), enrolled=10)
    assert [row.supported for row in rows] == [row.people_pairs >= LEAST_PAIRS for row in rows] == [True, False]


def test_a_rate_that_the_table_lacks_is_no_row() -> None:
    table = measure_table(*people(60, 2, seed=1), "few")
    assert open_set(*people(60, 2, seed=2), table, (1e-6,), enrolled=10) == []
    with pytest.raises(InputError, match="too few"):
        measure_table(*people(5, 2, seed=1), "very few")
    with pytest.raises(InputError, match="expected 100 people with 2 photographs"):
        open_set(*people(60, 2, seed=2), table, (0.1,), enrolled=100)
    with pytest.raises(InputError, match="expected 10 people with 3 photographs"):
        open_set(*people(60, 2, seed=2), table, (0.1,), enrolled=10, templates=2)


def test_limits_hold_the_rate_and_narrow_with_people() -> None:
    widths = []
    for count in (60, 400):
        limits = rate_limits(*people(count, 2, seed=3), 0.5)
        assert limits.low <= limits.rate <= limits.high
        assert limits.rate > 0
        widths.append((limits.high - limits.low) / limits.rate)
    assert widths[1] < widths[0]


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_the_limits_hold_the_true_rate_of_all_people(threshold: float) -> None:
    truth = rate_limits(*people(2000, 1, seed=9), threshold).rate
    held = []
    for seed in range(40):
        found = rate_limits(*people(60, 3, seed=100 + seed), threshold)
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.85


def test_limits_of_people_who_resemble_others_are_wider_than_those_of_chance() -> None:
    rows, labels = people(200, 3, seed=4)
    limits = rate_limits(rows, labels, 0.5)
    pairs = 600 * 597 / 2
    chance = 1.96 / math.sqrt(limits.rate * pairs)
    assert math.log(limits.high / limits.rate) > 1.5 * chance


def test_nothing_seen_is_not_a_rate_of_nothing() -> None:
    rows, labels = people(50, 2, seed=4)
    limits = rate_limits(rows, labels, 0.9999)
    assert (limits.rate, limits.low, limits.people_pairs) == (0.0, 0.0, 0)
    assert limits.high == pytest.approx(3.69 / (50 * 49 / 2), rel=1e-3)


def test_faces_that_were_not_found_match_nobody() -> None:
    rows, labels = people(50, 2, seed=4)
    rows[::2] = 0
    found = rate_limits(rows, labels, -1.0)
    assert found.rate == pytest.approx(0.25, rel=0.02)  # both ends must be seen


def test_the_command_shows_what_was_asked_and_what_came(
    cli: Callable[..., Any], embedder_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    manifest = embedder_manifest(thresholds=measure_table(*people(300, 3, seed=1), "others"))
    rows, labels = people(200, 3, seed=2)
    monkeypatch.setattr("edgeface.tools.eval_identify._embed", lambda *given: (rows, labels, manifest))
    command = ("eval", "identify", "--images", str(tmp_path), "--enrolled", "20", "--templates", "2", "--halves", "2")
    found = json.loads(cli(*command, "--json").out)
    assert found["templates"] == 2
    assert found["recipe_table"]["limits_origin"] == "300 people of the same photographs"
    for key in ("held_out", "recipe"):
        first = found[key][0]
        assert first["fpir_low"] < first["fpir"] < first["fpir_high"]
    assert found["halves"][0]["judged"] == 2
    assert "does not exist" in cli("eval", "identify", "--images", tmp_path / "nope").err
    shown = cli(*command).out
    for part in ("95 % limits", "table of the other half", "many halves", "table of the model: others"):
        assert part in shown


def table_for(manifest: Callable[..., Manifest], figures: dict[str, Any], precision: Any = "int8") -> Thresholds:
    made = with_thresholds(manifest(thresholds=TABLE), precision, figures, most=0.01).thresholds
    assert made is not None
    return made


MOVED = "its threshold at 1e-4 was measured to move by"


def loss(shift: float, *, supported: bool = True) -> dict[str, Any]:
    return {"losses": [{"far": 1e-3, "shift": 1.0, "supported": True},
                       {"far": 1e-4, "shift": shift, "supported": supported}]}  # fmt: skip


def test_another_precision_says_whose_table_it_has(
    embedder_manifest: Callable[..., Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    assert table_for(embedder_manifest, loss(0.002), "fp32") is TABLE
    risen = table_for(embedder_manifest, loss(0.002))
    assert risen.origin == f"a test; taken over from fp32 for int8: {MOVED} +0.0020"
    assert [point.similarity for point in risen.points] == [point.similarity + 0.002 for point in TABLE.points]
    fallen = table_for(embedder_manifest, loss(-0.002))
    assert fallen.points == TABLE.points
    assert "-0.0020" in fallen.origin
    assert not caplog.records
    for figures in ({}, loss(0.002, supported=False)):
        unknown = table_for(embedder_manifest, figures)
        assert [point.similarity for point in unknown.points] == [point.similarity + 0.01 for point in TABLE.points]
        assert unknown.origin.endswith("not measured, so raised by the largest that the recipe allows, +0.0100")
        assert "was not measured: too few verification pictures" in caplog.text
        caplog.clear()
