"""Who a track is: evidence, decisions that do not flicker, drift and doubt. Templates are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface import Decision, Gallery
from edgeface.errors import InputError
from edgeface.policy import Policy
from edgeface.video.people import KEPT_VIEWS, DecisionOptions, TrackIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeface.types import FloatArray

POLICY = Policy(threshold=0.4, margin=0.05, fmr=1e-4, origin="a test")
OPTIONS = DecisionOptions()


def unit(*values: float) -> FloatArray:
    vector = np.array([*values, *([0.0] * (8 - len(values)))], np.float32)
    length: FloatArray = vector / np.linalg.norm(vector)
    return length


def toward(similarity: float, axis: int = 0) -> FloatArray:
    """A template of that similarity to the person of an axis, and none to the others."""
    vector = np.zeros(8, np.float32)
    vector[axis], vector[7] = similarity, np.sqrt(1 - similarity**2)
    return vector


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "g", model_id="made up", dimension=8, template="float32") as opened:
        opened.add("ada", unit(1))
        opened.add("bob", unit(0, 1))
        yield opened


def look(person: TrackIdentity, gallery: Gallery, template: FloatArray, quality: float = 0.9, *, time_s: float = 0.0,
         crossed: bool = False) -> bool:  # fmt: skip
    other = person.look(template, quality, time_s, crossed=crossed, policy=POLICY, options=OPTIONS)
    person.decide(gallery, POLICY, OPTIONS)
    return other


def test_one_good_and_clear_view_decides(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, toward(0.6))
    assert (person.verdict.decision, person.verdict.name, person.verdict.reason) == (Decision.MATCH, "ada", "match")
    assert person.verdict.similarity == pytest.approx(0.6, abs=1e-3)


def test_poor_views_need_company(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, toward(0.6), 0.5)
    assert (person.verdict.name, person.verdict.reason) == (None, "undecided")
    look(person, gallery, toward(0.6), 0.5)
    assert person.verdict.reason == "undecided"
    look(person, gallery, toward(0.6), 0.5)
    assert person.verdict.name == "ada"


def test_a_stranger_is_unknown_once_seen_enough(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, toward(0.1))
    assert (person.verdict.decision, person.verdict.reason) == (Decision.UNKNOWN, "undecided")
    look(person, gallery, toward(0.1))
    assert (person.verdict.decision, person.verdict.reason) == (Decision.UNKNOWN, "below_threshold")


def test_between_two_people_there_is_no_name(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, unit(1, 1))
    look(person, gallery, unit(1, 1))
    assert (person.verdict.decision, person.verdict.name, person.verdict.reason) == (
        Decision.AMBIGUOUS, None, "near_another",
    )  # fmt: skip


def test_a_name_does_not_flicker_at_the_threshold(gallery: Gallery) -> None:
    person, names, reasons = TrackIdentity(), [], []
    look(person, gallery, toward(0.46))
    for similarity in (0.39, 0.37, 0.385, 0.38, 0.39):
        look(person, gallery, toward(similarity))
        names.append(person.verdict.name)
        reasons.append(person.verdict.reason)
    assert names == ["ada"] * 5
    assert "held" in reasons


def test_a_name_goes_when_the_similarity_really_falls(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, toward(0.5))
    for _ in range(KEPT_VIEWS + 1):
        look(person, gallery, toward(0.25), 0.95)
    assert person.verdict.name is None


def test_another_person_is_seen_at_once_after_a_crossing_and_at_the_second_look_otherwise(gallery: Gallery) -> None:
    for crossed, looks in ((True, 1), (False, 2)):
        person = TrackIdentity()
        look(person, gallery, toward(0.9))
        assert person.verdict.name == "ada"
        changed = [look(person, gallery, toward(0.9, 1), crossed=crossed) for _ in range(looks)]
        assert changed == [False] * (looks - 1) + [True]
        assert person.verdict.name == "bob"


def test_views_that_are_useless_are_no_evidence(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, toward(0.9), 0.05)
    assert person.verdict.reason == "not_seen_well"
    assert person.embeddings == 1
    assert person.evidence == 0


def test_when_a_view_is_worth_the_network(gallery: Gallery) -> None:
    person = TrackIdentity()
    assert not person.wants(0.05, 0.0, OPTIONS)
    assert person.wants(0.5, 0.0, OPTIONS)
    look(person, gallery, toward(0.6), 0.7, time_s=0.0)
    assert not person.wants(0.75, 0.5, OPTIONS)  # decided, and hardly better
    assert person.wants(0.95, 0.5, OPTIONS)
    assert person.wants(0.3, 6.0, OPTIONS)
    assert person.wants(0.3, 0.1, OPTIONS, crossed=True)
    assert person.wants(0.3, 0.6, OPTIONS, near=True)
    assert not person.wants(0.3, 0.3, OPTIONS, near=True)


def test_the_best_waiting_view_is_kept_but_none_from_before_a_doubt() -> None:
    person = TrackIdentity()
    first, better, later = (np.full((112, 112, 3), level, np.uint8) for level in (1, 2, 3))
    person.offer(first, 0.5, 0.0, float("-inf"))
    person.offer(better, 0.8, 0.1, float("-inf"))
    person.offer(first, 0.4, 0.2, float("-inf"))
    assert person.crop is not None
    assert (int(person.crop[0, 0, 0]), person.crop_quality) == (2, 0.8)
    person.offer(later, 0.4, 0.4, 0.3)
    assert (int(person.crop[0, 0, 0]), person.crop_quality) == (3, 0.4)


def test_a_view_agrees_only_where_it_alone_would_match(gallery: Gallery) -> None:
    person, view = TrackIdentity(), np.zeros((112, 112, 3), np.uint8)
    agreed = []
    for time_s, similarity in enumerate((1.0, 0.9, 0.35, 0.2, 0.9)):  # threshold 0.4, drift below 0.3
        person.offer(view, 0.9, float(time_s), float("-inf"))
        template = np.zeros(8, np.float32)
        template[0], template[7 - time_s] = similarity, np.sqrt(1 - similarity**2)  # alike in the first axis only
        look(person, gallery, template, time_s=float(time_s))
        agreed.append(person.agreed_s)
    assert agreed == [0, 1, 1, 1, 4]
    person.offer(view, 0.05, 5.0, float("-inf"))
    look(person, gallery, toward(0.9), 0.05, time_s=5.0)
    assert person.agreed_s == 4  # too poor a view to say anything


def test_the_mean_is_weighted_by_quality(gallery: Gallery) -> None:
    person = TrackIdentity()
    look(person, gallery, toward(0.5), 0.9)
    look(person, gallery, toward(0.95), 0.3)
    plain = unit(*(toward(0.5) * 0.9 + toward(0.95) * 0.3))
    assert np.allclose(person.mean(), plain, atol=1e-5)


def test_options_are_numbers() -> None:
    with pytest.raises(InputError, match="recheck_s"):
        DecisionOptions(recheck_s=-1)


def test_a_view_that_turned_out_poor_has_checked_nobody(gallery: Gallery) -> None:
    """After a moment in which the face was not found: a poor view is no answer to who it is now."""
    person = TrackIdentity()
    look(person, gallery, toward(0.6), time_s=1.0)
    assert person.checked_s == 1.0
    look(person, gallery, toward(0.0, 1), 0.05, time_s=2.0)
    assert (person.looked_s, person.checked_s) == (2.0, 1.0)
    soon = 2.0 + OPTIONS.recheck_near_s + 0.01
    assert person.wants(0.9, soon, OPTIONS, near=True)
