"""Statistics, limits and figures: what an engine is judged by."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeface.engines import limits, verify, verify_detector
from edgeface.engines.material import check_people, count_people
from edgeface.engines.pictures import Inputs, Picture, split_pictures
from edgeface.engines.plots import lines
from edgeface.engines.ranges import BINS, Statistics
from edgeface.engines.recipe import load_recipe
from edgeface.errors import BuildError, RecipeError
from edgeface.manifest import Preprocessing
from edgeface.tables import Reader

if TYPE_CHECKING:
    import numpy.typing as npt


def people(count: int, each: int, *, noise: float = 0.3, seed: int = 0) -> tuple[npt.NDArray[np.float32], list[str]]:
    draw = np.random.default_rng(seed)
    centres = np.repeat(draw.normal(size=(count, 64)), each, axis=0)
    return verify.unit((centres + noise * draw.normal(size=centres.shape)).astype(np.float32), "made"), [
        f"p{i}" for i in range(count) for _ in range(each)
    ]


@given(st.lists(st.floats(0.01, 1000), min_size=2, max_size=6))
@settings(max_examples=25, deadline=None)
def test_the_histogram_keeps_everything_while_its_range_grows(scales: list[float]) -> None:
    draw = np.random.default_rng(0)
    parts = [(draw.normal(size=(2, 3, 50)) * scale).astype(np.float32) for scale in scales]
    found = Statistics()
    for part in parts:
        found.add("x", part)
    whole = np.abs(np.concatenate(parts))
    assert found.counts.sum() == whole.size
    assert np.allclose(found.maxima, whole.max(axis=(0, 2)))
    assert np.allclose(found.means, np.concatenate(parts).mean(axis=(0, 2), dtype=np.float64), atol=1e-4 * max(scales))
    # A bin's width is the only error that a percentile may have.
    width = found.limit / BINS
    for policy in ("99.99", "99.9999"):
        want = float(np.quantile(whole, float(policy) / 100, method="inverted_cdf"))
        assert abs(found.range(policy) - want) <= 2 * width
    assert found.range("max") == float(whole.max())


def test_nan_in_an_activation_is_refused_by_name() -> None:
    values = np.ones((1, 2, 3), np.float32)
    values[0, 1, 1] = np.nan
    with pytest.raises(BuildError, match=r"tensor 'conv_7': NaN or infinity"):
        Statistics().add("conv_7", values)


def test_an_engine_that_lost_nothing_passes_every_limit() -> None:
    vectors, names = people(60, 5)
    report = verify.compare_embedders(vectors, vectors, names)
    assert (report.people, report.pictures, report.genuine_pairs) == (60, 300, 600)
    assert report.cosine_min > 0.999999
    assert [loss.loss for loss in report.losses] == [0.0, 0.0, 0.0]
    assert [loss.supported for loss in report.losses] == [True, False, False], "44,250 pairs: 1e-4 has four behind it"
    found = limits.judge_embedder(report, 1.0, limits.EmbedderLimits(), quantised=True)
    assert found
    assert all(finding.passed for finding in found)


@pytest.mark.parametrize("damage", [0.02, 0.1, 0.5])
def test_an_engine_that_turned_the_embeddings_fails(damage: float) -> None:
    vectors, names = people(60, 5)
    noise = np.random.default_rng(9).normal(size=vectors.shape)
    worse = verify.unit((vectors + damage * noise).astype(np.float32), "made")
    report = verify.compare_embedders(vectors, worse, names)
    strict = limits.EmbedderLimits(cosine_mean=0.998, cosine_p1=0.996)
    failed = {
        finding.name for finding in limits.judge_embedder(report, 1.0, strict, quantised=True) if not finding.passed
    }
    assert {"cosine_mean", "cosine_p1"} <= failed


def test_losses_of_tar_are_held_beyond_their_own_error_only() -> None:
    loss = verify.Loss(1e-4, 0.97, 0.96, 0.01, 0.0, 0.0, error=0.001, cross_error=0.0, supported=True)
    report = verify.EmbedderReport(1000, 100, 1.0, 1.0, 1.0, 0, 1000, 400_000, losses=[loss])
    allowed = limits.EmbedderLimits(tar_loss_1e4=0.002)

    told: dict[str, str] = {}

    def verdict(**changes: Any) -> dict[str, bool]:
        changed = replace(report, losses=[replace(loss, **changes)])
        found = limits.judge_embedder(changed, 1.0, allowed, quantised=True)
        told.update({f.name: limits.verdict(asdict(f)) for f in found})
        return {f.name: f.passed for f in found}

    assert not verdict()["tar_loss_1e4"]
    assert told["tar_loss_1e4"] == "FAILS"
    assert verdict(error=0.005)["tar_loss_1e4"]
    assert told["tar_loss_1e4"] == "above the limit, within the measurement's error", "no plain pass"
    assert verdict(loss=0.0015)["tar_loss_1e4"]
    assert told["tar_loss_1e4"] == "holds"
    assert "tar_loss_1e4" not in verdict(supported=False), "a rate with a handful of pairs behind it judges nobody"
    assert not verdict(shift=0.02)["threshold_shift"]
    assert not verdict(shift=-0.02)["threshold_shift"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_embedding_without_direction_is_refused(value: float) -> None:
    vectors = np.ones((5, 8), np.float32)
    vectors[3] = value
    with pytest.raises(BuildError, match="1 of 5 embeddings"):
        verify.unit(vectors, "the engine")


def test_pictures_of_one_person_are_refused_with_the_number() -> None:
    one, _ = people(1, 40)
    assert count_people(one) == 1
    with pytest.raises(BuildError, match=r"the 40 calibration pictures show 1 people .* at least 8"):
        check_people(one, "made")
    several, _ = people(20, 3)
    assert check_people(several, "made") == 20


def test_the_split_is_fixed_and_no_person_is_on_both_sides() -> None:
    pictures = [Picture(Path(f"/a/p{i}/{k}.jpg"), f"p{i}") for i in range(40) for k in range(6)]
    elsewhere = [Picture(Path(f"/b/{p.person}/{p.path.name}"), p.person) for p in reversed(pictures)]
    first = split_pictures(pictures, count=50, most_held_out=100)
    second = split_pictures(sorted(elsewhere, key=lambda p: (p.person, p.path)), count=50, most_held_out=100)
    assert len(first.calibration) == 50
    assert len(first.held_out) == 100
    assert not {p.person for p in first.calibration} & {p.person for p in first.held_out}
    assert [p.path.parts[2:] for p in first.calibration] == [p.path.parts[2:] for p in second.calibration]
    other = split_pictures(pictures, count=50, most_held_out=100, seed="another")
    assert {p.person for p in other.calibration} != {p.person for p in first.calibration}
    assert len({p.person for p in split_pictures(pictures, count=9999, most_held_out=9999).calibration}) == 20


def test_inputs_are_what_the_preprocessing_says() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    inputs = Inputs(pixels, Preprocessing("rgb", (10.0, 20.0, 30.0), (2.0, 4.0, 5.0)))
    want = (pixels[1:, :, :, ::-1].astype(np.float64) - [10, 20, 30]) / [2, 4, 5]
    assert np.allclose(inputs[1:], want.transpose(0, 3, 1, 2), atol=1e-5)
    assert len(inputs.part(1, 2)) == 1
    assert inputs.digest() == Inputs(pixels.copy(), Preprocessing()).digest() != inputs.part(0, 2).digest()


def faces(*boxes: tuple[float, float, float, float]) -> verify_detector.Found:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    points = np.stack(
        [rows[:, :2] + (rows[:, 2:] - rows[:, :2]) * share for share in (0.2, 0.4, 0.5, 0.6, 0.8)], axis=1
    )
    return rows, np.full(len(rows), 0.9, np.float32), points.astype(np.float32)


def test_detectors_are_matched_face_by_face() -> None:
    reference = [faces((0, 0, 100, 100), (200, 0, 260, 60)), faces((10, 10, 60, 60)), faces()]
    engine = [faces((202, 0, 262, 60), (1, 0, 101, 100)), faces(), faces((5, 5, 50, 50))]
    report = verify_detector.compare_detectors(reference, engine)
    assert (report.faces, report.found, report.extra) == (3, 2, 1)
    assert np.allclose(sorted(report.point_errors), [0.01, 2 / 60])
    assert report.points_share(0.02) == 0.5
    failed = [
        f.name for f in limits.judge_detector(report, 1.0, limits.DetectorLimits(), quantised=True) if not f.passed
    ]
    assert failed == ["recall", "points_share"]
    with pytest.raises(BuildError, match="no face in any of 1"):
        verify_detector.compare_detectors([faces()], [faces()])


def test_points_of_the_same_cells_are_told_from_points_of_others() -> None:
    """Two cells see one face, and the second one places its points half a cell off; an engine is surer of that one."""
    maps = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    outputs = {
        f"{name}_{stride}": np.zeros((1, (64 // stride) ** 2, width), np.float32)
        for name, width in maps.items()
        for stride in (8, 16, 32)
    }
    pair = [27, 28]
    for name in ("cls_8", "obj_8", "bbox_8", "kps_8"):
        outputs[name][0, pair] = 1.0
    outputs["bbox_8"][0, pair] = 1.5  # large enough to be of one face
    outputs["kps_8"][0, 28] += 0.5
    outputs["cls_8"][0, pair] = [[0.9], [0.8]]
    engine = {**outputs, "cls_8": outputs["cls_8"].copy()}
    engine["cls_8"][0, pair] = [[0.8], [0.9]]
    recipe = load_recipe("yunet")
    wanted = verify_detector.decode(recipe, outputs, (64, 64))
    found = verify_detector.decode(recipe, engine, (64, 64))
    placed = verify_detector.decode(recipe, {**engine, **verify_detector.scores_of(outputs)}, (64, 64))
    assert len(wanted[0][0]) == 1
    assert verify_detector.compare_detectors(wanted, found).point_errors[0] > 0.03
    assert verify_detector.compare_detectors(wanted, placed).point_errors == [0.0]


def test_limits_are_read_strictly() -> None:
    made = limits.parse_limits(Reader({"cosine_mean": 0.9}, "r.toml.limits"), "embedder")
    assert made == limits.EmbedderLimits(cosine_mean=0.9)
    with pytest.raises(RecipeError, match=r"unknown key 'cosine_men'"):
        limits.parse_limits(Reader({"cosine_men": 0.9}, "r.toml.limits"), "embedder")
    with pytest.raises(RecipeError, match=r"recall: expected a number from 0.0 to 1.0"):
        limits.parse_limits(Reader({"recall": 2}, "r.toml.limits"), "detector")


def test_plots_are_escaped_and_skip_what_a_logarithm_lacks() -> None:
    picture = lines("<b>", {"a&b": [(0.0, 1.0), (0.1, 0.2), (1.0, 0.4)]}, x="x", y="y", log_x=True)
    assert "<b>" not in picture
    assert "a&amp;b" in picture
    assert picture.count(",") == 2
    assert lines("t", {"a": [(0.0, 0.0)]}, x="x", y="y", log_x=True) == ""
