"""Evidence of liveness ends with what it was of: gaps, rechecks that never came, views that the network fails on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface import LivenessDetector
from edgeface.errors import InferenceError
from edgeface.runtime.fake import FakeEngine
from edgeface.video import LivenessOptions, RecognitionLoop
from edgeface.video.liveness import TrackLiveness, run_views
from tests.unit.video.test_track_liveness import (
    HEIGHT,
    LIVE,
    OPTIONS,
    SPOOF,
    WIDTH,
    corner_level,
    detector,
    heads,
    names_given,
    opened,
    play,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface import FaceRecognizer
    from edgeface.manifest import Manifest
    from edgeface.tools.bench.stream import Cutout
    from edgeface.types import FloatArray

__all__ = ["detector", "heads", "opened"]  # fixtures


def test_a_picture_of_somebody_who_just_left_gives_no_name(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    """The gap is shorter than the life of a track, and the name is the right one: only the verdict is of before."""
    nobody = (np.full((HEIGHT, WIDTH, 3), SPOOF, np.uint8) for _ in range(6))
    results = play(RecognitionLoop(opened), show(heads["em"], LIVE, 80), nobody, show(heads["em"], SPOOF, 60))
    assert results[79].faces[0].name == "em"
    after = [result for result in results if result.number >= 86 and result.faces]
    assert {face.track_id for result in after for face in result.faces} == {1}  # the tracker is deceived
    assert {face.name for result in after for face in result.faces} == {None}


def test_somebody_live_is_named_again_after_a_gap(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    nobody = (np.full((HEIGHT, WIDTH, 3), LIVE, np.uint8) for _ in range(6))
    results = play(RecognitionLoop(opened), show(heads["em"], LIVE, 30), nobody, show(heads["em"], LIVE, 30))
    named = [result.number for result in results if result.number >= 36 and result.faces and result.faces[0].name]
    assert named[0] >= 36 + 2 * OPTIONS.interval_s * 30
    assert named[-1] == 65


@pytest.mark.parametrize(("who", "level"), [("em", SPOOF), ("stranger", LIVE)])
def test_who_takes_the_place_in_a_moment_keeps_neither_name_nor_verdict(
    opened: FaceRecognizer, heads: dict[str, Cutout], who: str, level: int
) -> None:
    """Two frames hide the exchange: too short for the track to be doubted, so that it has to be looked at again."""
    nobody = (np.full((HEIGHT, WIDTH, 3), level, np.uint8) for _ in range(2))
    results = play(RecognitionLoop(opened), show(heads["em"], LIVE, 80), nobody, show(heads[who], level, 60))
    assert results[79].faces[0].name == "em"
    after = [result for result in results if result.number >= 82 and result.faces]
    assert {face.track_id for result in after for face in result.faces} == {1}  # the tracker is deceived
    named = [result.time_s for result in after if result.faces[0].name]
    assert not named or named[-1] - after[0].time_s < 0.5  # two looks; the next recheck is 2 s and 5 s away


def test_a_live_stranger_in_the_place_of_somebody_is_found_with_the_next_look_for_liveness(
    opened: FaceRecognizer, heads: dict[str, Cutout]
) -> None:
    """Not one frame is without a face, and both are live: only the embedder can tell, and it must not wait for 5 s."""
    results = play(RecognitionLoop(opened), show(heads["em"], LIVE, 80), show(heads["stranger"], LIVE, 90))
    assert {face.track_id for result in results for face in result.faces} == {1}
    named = [result.number for result in results if result.faces and result.faces[0].name]
    assert named[-1] - 80 < (OPTIONS.recheck_s + 0.5) * 30


def test_a_slow_camera_gives_names_too(opened: FaceRecognizer, heads: dict[str, Cutout]) -> None:
    """Every gap between its frames is longer than the one that hides a change, but no detection missed the face."""
    from edgeface.video import Frame

    loop = RecognitionLoop(opened)
    frames = enumerate(show(heads["em"], LIVE, 10))
    results = [loop.step(Frame(image, number, number / 5, 0.0, "bgr")) for number, image in frames]
    assert names_given(results) == {"em"}


def test_live_expires_when_it_is_not_looked_at(detector: LivenessDetector) -> None:
    track, options = TrackLiveness(), LivenessOptions(recheck_s=1.0)
    for time_s in (0.0, 0.2, 0.4):
        track.offer(np.zeros((1, 3, 1, 1), np.float32), time_s)
        track.take(1.0, detector, options)
    assert not track.stale(3.3, options)
    assert track.stale(3.5, options)


def test_a_loop_that_leaves_out_the_rechecks_withdraws_the_name(
    opened: FaceRecognizer, heads: dict[str, Cutout], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = RecognitionLoop(opened, liveness=LivenessOptions(recheck_s=0.5))
    assert names_given(play(loop, show(heads["em"], LIVE, 1))) == set()
    fits = loop.budget.faces_that_fit
    monkeypatch.setattr(
        loop.budget, "faces_that_fit",
        lambda cost, ms, n: 0 if cost is loop.budget.liveness and loop.counts.frames > 25 else fits(cost, ms, n),
    )  # fmt: skip
    results = play(loop, show(heads["em"], LIVE, 90))
    assert results[30].faces[0].name == "em"
    assert results[89].faces[0].name is None


def test_a_view_that_the_network_fails_on_is_not_run_again(
    opened: FaceRecognizer,
    heads: dict[str, Cutout],
    liveness_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = []

    def once_nan(tensor: FloatArray) -> dict[str, FloatArray]:
        runs.append(len(tensor))
        return {"scores": np.full((len(tensor), 1), np.nan, np.float32)} if len(runs) == 1 else corner_level(tensor)

    monkeypatch.setattr(opened, "liveness", LivenessDetector(FakeEngine(liveness_manifest(), once_nan)))
    from edgeface.tools.endure import EnduringLoop

    loop = EnduringLoop(opened)
    results = play(loop, show(heads["em"], LIVE, 40))
    assert [result.left_out for result in results].count(("frame",)) == 1
    assert loop.lost == 1
    assert names_given(results) == {"em"}


def test_a_crop_that_the_embedder_fails_on_is_not_run_again(
    opened: FaceRecognizer, heads: dict[str, Cutout], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeface.tools.endure import EnduringLoop

    loop, run = EnduringLoop(opened, require_live=False), opened.embedder.run
    failed: list[FloatArray] = []

    def poisoned(tensor: FloatArray) -> FloatArray:
        if not failed or np.array_equal(tensor, failed[0]):
            failed.append(tensor.copy())
            raise InferenceError("this view only")
        return run(tensor)

    monkeypatch.setattr(opened.embedder, "run", poisoned)
    darker = (np.asarray(image * 0.9, np.uint8) for image in show(heads["em"], LIVE, 1))  # seen once only
    results = play(loop, darker, show(heads["em"], LIVE, 30))
    assert len(failed) == loop.lost == 1
    assert names_given(results) == {"em"}


def test_one_bad_view_costs_the_others_nothing() -> None:
    def run(tensor: FloatArray) -> FloatArray:
        if (tensor < 0).any():
            raise InferenceError("negative")
        return tensor * 2

    views = [np.array([value], np.float32) for value in (1, -1, 3)]
    dropped: list[int] = []
    assert run_views(run, views, dropped.append) == {0: 2, 2: 6}
    assert dropped == [1]
    with pytest.raises(InferenceError, match="negative"):
        run_views(run, views[1:2], dropped.append)
    assert dropped == [1, 0]
