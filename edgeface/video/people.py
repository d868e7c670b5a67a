"""Who a track is: evidence from several views, a decision that does not flicker, and doubt after a crossing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.numbers import real
from edgeface.types import Decision, Matches

if TYPE_CHECKING:
    from edgeface.gallery import Gallery
    from edgeface.policy import Policy
    from edgeface.types import ByteArray, FloatArray, Liveness

KEPT_VIEWS = 5  # templates behind a track's mean: later ones replace the worst


@dataclass(frozen=True)
class DecisionOptions:
    """When a track is looked at, and when it is decided. Qualities are scores from 0 to 1.

    Attributes:
        min_quality: views below it are not embedded, and templates below it are no evidence.
        enough_evidence: sum of the qualities of a track's templates from which on it is decided. A single view
            decides where its quality reaches `good_quality` and its similarity the threshold and the margin.
        good_quality: see there.
        next_view_s: an undecided track is looked at again after this time: views at once tell nothing new.
        better_by: a decided track is looked at again when a view is better than its best by so much.
        recheck_s: a decided track is looked at again after so long, whatever the view; a stranger too.
        recheck_near_s: the same while another face is so near that the two could be exchanged, and after a moment in
            which the face was not found.
        hold: a name is kept while the similarity stays above the threshold less this share of the margin.
        drift_margins: a template that falls below the threshold by more margins than this, against its own track's
            mean, is another person's. A margin is a factor of ten in the false match rate: two below a threshold of
            1e-4 every hundredth stranger is as near.
    """

    min_quality: float = 0.1
    enough_evidence: float = 1.2
    good_quality: float = 0.7
    next_view_s: float = 0.12
    better_by: float = 0.15
    recheck_s: float = 5.0
    recheck_near_s: float = 0.5
    hold: float = 0.5
    drift_margins: float = 2.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            real(value, f"DecisionOptions.{name}", "a number of at least 0", least=0.0, below=1e6)


@dataclass(frozen=True, eq=False)
class TrackedFace:
    """One face of a frame and who it is.

    Attributes:
        track_id: the same from frame to frame for one face.
        box: (4,) float32, left, top, right, bottom in pixels of the frame.
        landmarks: (5, 2) float32, as in `Faces`.
        extrapolated: the box was not detected in this frame but moved on from the last detection.
        decision: ``match``, ``unknown`` or ``ambiguous``.
        name, person_id: where the decision is ``match``, otherwise None.
        similarity, margin: of the track's mean template; -1 and infinity before there is one.
        quality: score of the track's best view so far.
        reason: ``match``, ``held`` (a little below the threshold, the name is kept), ``below_threshold``,
            ``near_another`` (the margin is too small), ``undecided`` (too little evidence yet), ``not_seen_well`` (no
            view reached the least quality), ``crossing`` (faces met: the name is withheld until the face was
            looked at again) or ``not_live`` (the name is withheld while the liveness model does not say live).
        age_s: since the first detection.
        seen_s: time of the last detection, on the clock of the frames.
        embeddings: how often the network ran for this track.
        liveness: ``live``, ``spoof`` or ``unsure``; None without a liveness model.
        liveness_score: mean of the last looks, 0 to 1; None before the first.
        withheld_name: whose face it would be, where `reason` is ``not_live``: for a log, not for a door.
    """

    track_id: int
    box: FloatArray
    landmarks: FloatArray
    extrapolated: bool
    decision: Decision
    name: str | None
    person_id: int | None
    similarity: float
    margin: float
    quality: float
    reason: str
    age_s: float
    seen_s: float
    embeddings: int
    liveness: Liveness | None = None
    liveness_score: float | None = None
    withheld_name: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the evidence says. `reason` is one of those of `TrackedFace`."""

    decision: Decision
    name: str | None
    person_id: int | None
    similarity: float
    margin: float
    reason: str


UNSEEN = Verdict(Decision.UNKNOWN, None, None, -1.0, float("inf"), "not_seen_well")


class TrackIdentity:
    """The evidence of one track and the verdict on it."""

    def __init__(self) -> None:
        self.verdict = UNSEEN
        self.decided = False
        self.best_quality = 0.0
        self.embeddings = 0
        self.crop: ByteArray | None = None  # the best view that waits for the network, (112, 112, 3) BGR
        self.crop_quality = 0.0
        self.crop_s = float("-inf")
        self.looked_s = self.failed_s = float("-inf")
        self.checked_s = float("-inf")  # the last look at a view that was good enough to tell whose face it is
        self.agreed_s = float("-inf")  # of the last view whose template alone matches the track's others
        self.doubts = 0
        self._templates: list[FloatArray] = []
        self._qualities: list[float] = []

    @property
    def evidence(self) -> float:
        """Sum of the qualities of the templates."""
        return sum(self._qualities)

    def mean(self) -> FloatArray:
        """(D,) unit vector: the mean of the templates, weighted by quality."""
        total = np.einsum("n,nd->d", np.array(self._qualities, np.float32), np.stack(self._templates))
        unit: FloatArray = total / np.float32(max(float(np.linalg.norm(total)), 1e-6))
        return unit

    def wants(
        self, quality: float, time_s: float, options: DecisionOptions, *, crossed: bool = False, near: bool = False
    ) -> bool:
        """Whether a view of that quality is worth a run of the network now."""
        if quality < options.min_quality or time_s - self.failed_s < options.next_view_s:
            return False
        if crossed or not self._templates:
            return True
        since = time_s - self.looked_s
        if not self.decided or self.doubts:
            return since >= options.next_view_s
        if near and since >= options.recheck_near_s:
            return True
        return quality >= self.best_quality + options.better_by or since >= options.recheck_s

    def offer(self, crop: ByteArray, quality: float, time_s: float, since_s: float) -> None:
        """Keep a view for the network if it is the best one that waits; those from before `since_s` no longer count."""
        if self.crop is None or quality >= self.crop_quality or self.crop_s < since_s:
            self.crop = crop if self.crop is None else self.crop
            np.copyto(self.crop, crop)
            self.crop_quality, self.crop_s = quality, time_s

    def drop(self, time_s: float) -> None:
        """The network failed on the view that waited: do without it, and take a later one."""
        self.crop_quality, self.failed_s = 0.0, time_s

    def look(self, embedding: FloatArray, quality: float, time_s: float, *, crossed: bool, policy: Policy,
             options: DecisionOptions) -> bool:  # fmt: skip
        """Take in a template. Returns whether it showed that the track is another person than before."""
        self.embeddings += 1
        self.looked_s = time_s
        self.crop_quality = 0.0
        if quality < options.min_quality:
            return False
        self.checked_s = time_s
        other, alike = False, 1.0
        if self._templates:
            floor = policy.threshold - options.drift_margins * policy.margin
            alike = float(embedding @ self.mean())
            if alike < floor:
                self.doubts += 1
                # After a crossing one look suffices; otherwise a second one must say the same: a hand, a blink.
                if not crossed and self.doubts < 2:
                    return False
                self.forget()
                other, alike = True, 1.0
        self.doubts = 0
        if alike >= policy.threshold:
            self.agreed_s = self.crop_s
        self.best_quality = max(self.best_quality, quality)
        if len(self._templates) == KEPT_VIEWS:
            worst = int(np.argmin(self._qualities))
            del self._templates[worst], self._qualities[worst]
        self._templates.append(np.array(embedding, np.float32))
        self._qualities.append(quality)
        return other

    def forget(self) -> None:
        """Start anew: what was seen is another person's."""
        self._templates.clear()
        self._qualities.clear()
        self.best_quality = 0.0
        self.decided = False
        self.doubts = 0
        self.verdict = UNSEEN

    def decide(self, gallery: Gallery, policy: Policy, options: DecisionOptions) -> Verdict:
        """Search the gallery for the track's mean, and decide."""
        if not self._templates:
            return self.verdict
        matches = gallery.search(self.mean()[None], k=2)[0]
        self.verdict = self._judge(matches, policy, options)
        return self.verdict

    def _judge(self, matches: Matches, policy: Policy, options: DecisionOptions) -> Verdict:
        similarity = float(matches.similarities[0]) if len(matches) else -1.0
        margin = matches.margin
        strong = self._qualities[-1] >= options.good_quality and similarity >= policy.threshold + policy.margin
        enough = self.evidence >= options.enough_evidence or strong
        before = self.verdict

        def verdict(decision: Decision, reason: str) -> Verdict:
            named = decision is Decision.MATCH
            name, person = (matches.names[0], int(matches.person_ids[0])) if named else (None, None)
            return Verdict(decision, name, person, similarity, margin, reason)

        if not enough and before.decision is not Decision.MATCH:
            return verdict(Decision.UNKNOWN, "undecided")
        self.decided = True
        decision = policy.decide(matches)
        if decision is Decision.MATCH:
            return verdict(decision, "match")
        same = before.decision is Decision.MATCH and len(matches) and before.person_id == int(matches.person_ids[0])
        floor = policy.threshold - options.hold * policy.margin
        if same and similarity >= floor and margin >= policy.margin * (1 - options.hold):
            return verdict(Decision.MATCH, "held")
        return verdict(decision, "near_another" if decision is Decision.AMBIGUOUS else "below_threshold")


def plain_face(face: TrackedFace) -> dict[str, Any]:
    """A face as a mapping, for JSON."""
    return {**vars(face), "decision": str(face.decision)}
