"""The gate before the gallery: which photographs may become templates, and why others may not.

A bad template is found by nobody and stays for years, so the gate measures every photograph and refuses with a stable
reason code, the measured value and the limit. Nothing is ever enrolled without a call that asks for it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.align import align_faces
from edgeface.errors import EnrolmentError
from edgeface.gallery import check_name
from edgeface.numbers import real
from edgeface.quality import Quality
from edgeface.runtime.frame import HeldFrame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.gallery import Gallery
    from edgeface.policy import Policy
    from edgeface.types import FloatArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnrolmentLimits:
    """What a photograph must reach. The defaults keep 98 of 100 photographs of LFW, whose faces are 70 px and larger.

    Attributes:
        min_size_px: shorter side of the face's box.
        min_sharpness: variance of the Laplacian of the aligned face, in grey levels squared.
        min_exposure, max_exposure: mean grey of the face, 0 to 1.
        min_contrast: standard deviation of its grey, 0 to 0.5.
        max_yaw_deg, max_pitch_deg, max_roll_deg: turned away from the camera to either side.
        min_quality: score of the view, 0 to 1.
        min_agreement: similarity to a template of the person; of a new person, the similarity that joins photographs,
            all of which must hang together. None is the gallery's threshold less its margin, so that hardly anybody is
            refused for being photographed twice differently.
        max_other_similarity: from this similarity to another enrolled person on, the face is theirs; None is the
            threshold for a match.
    """

    min_size_px: float = 50.0
    min_sharpness: float = 30.0
    min_exposure: float = 0.15
    max_exposure: float = 0.85
    min_contrast: float = 0.05
    max_yaw_deg: float = 40.0
    max_pitch_deg: float = 35.0
    max_roll_deg: float = 45.0
    min_quality: float = 0.3
    min_agreement: float | None = None
    max_other_similarity: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                real(value, f"EnrolmentLimits.{name}", "a number", above=-1e6, below=1e6)


@dataclass(frozen=True)
class Refusal:
    """Why a view may not be enrolled.

    Attributes:
        reason: ``too_small``, ``blurred``, ``too_dark``, ``too_bright``, ``low_contrast``, ``not_frontal``,
            ``low_quality``, ``disagrees`` or ``already_enrolled``.
        measure: what was measured, such as ``size_px``.
        value, limit: of it.
        hint: what the person in front of the camera can do.
    """

    reason: str
    measure: str
    value: float
    limit: float
    hint: str


def measure_photo(
    photo: Any, detector: Detector, embedder: Embedder, *, pixel_format: str, number: int
) -> tuple[Quality, FloatArray]:
    """The quality of a photograph's one face, and its (1, D) embedding. `number`, from 1, is for messages.

    Raises:
        EnrolmentError: not exactly one face. InputError: not a photograph.
    """
    with HeldFrame(photo, pixel_format=pixel_format) as held:
        faces = detector.detect(held)
        if len(faces) == 0:
            raise EnrolmentError(f"photograph {number}: expected one face, got none", reason="no_face")
        if len(faces) > 1:
            raise EnrolmentError(
                f"photograph {number}: expected one face, got {len(faces)}; crop it to the person",
                reason="several_faces",
                value=len(faces),
                limit=1,
            )
        embedding = embedder.embed(held, faces.landmarks)
    quality = Quality.of_view(align_faces(photo, faces.landmarks, pixel_format=pixel_format), faces)
    return quality.with_embeddings(embedding, embedder.engine.manifest.recognizability), embedding


def check_view(quality: Quality, limits: EnrolmentLimits, index: int = 0) -> list[Refusal]:
    """Everything that speaks against one view; an empty list where nothing does. `quality` may lack embeddings."""
    part = quality.parts(index)
    # Sharpness comes after the light: what is dark has no sharp edges either.
    least = (
        ("size_px", "too_small", limits.min_size_px, "come closer"),
        ("exposure", "too_dark", limits.min_exposure, "turn on a light"),
        ("contrast", "low_contrast", limits.min_contrast, "turn away from the window behind you"),
        ("sharpness", "blurred", limits.min_sharpness, "hold still, or clean and focus the lens"),
    )
    most = (
        ("exposure", "too_bright", limits.max_exposure, "step out of the bright light"),
        ("yaw_deg", "not_frontal", limits.max_yaw_deg, "look into the camera"),
        ("pitch_deg", "not_frontal", limits.max_pitch_deg, "raise or lower your chin"),
        ("roll_deg", "not_frontal", limits.max_roll_deg, "hold your head upright"),
    )
    # Written so that NaN, which the pose of an impossible face is, is refused.
    found = [Refusal(code, key, part[key], limit, hint) for key, code, limit, hint in least if not part[key] >= limit]
    found += [
        Refusal(code, key, part[key], limit, hint) for key, code, limit, hint in most if not abs(part[key]) <= limit
    ]
    if not found and not part["score"] >= limits.min_quality:
        found.append(Refusal("low_quality", "score", part["score"], limits.min_quality, "try another place or moment"))
    return found


def check_agreement(
    name: str, embeddings: FloatArray, gallery: Gallery, policy: Policy, limits: EnrolmentLimits
) -> list[tuple[int, Refusal]]:
    """Photographs, by number from 0, that show another person than the rest, or one who is enrolled already."""
    least = policy.threshold - policy.margin if limits.min_agreement is None else limits.min_agreement
    most = policy.threshold if limits.max_other_similarity is None else limits.max_other_similarity
    name = check_name("name", name)
    refused: list[tuple[int, Refusal]] = []
    own = gallery.similarities(name, embeddings)
    for number, found in enumerate(gallery.search(embeddings, k=2)):  # the person's own name and the nearest other
        other = [(float(s), n) for n, s in zip(found.names, found.similarities, strict=True) if n != name]
        if other and other[0][0] >= most and not (own is not None and own[number] > other[0][0]):
            similarity, who = other[0]
            hint = f"the face is enrolled as {who!r}: add the photograph to them, or rename or remove them first"
            refused.append((number, Refusal("already_enrolled", "similarity", similarity, most, hint)))
        elif own is not None and own[number] < least:
            hint = f"another person than the {name!r} that is enrolled? use another name or photograph"
            refused.append((number, Refusal("disagrees", "similarity", float(own[number]), least, hint)))
    if own is None and len(embeddings) > 1:  # otherwise the templates enrolled before say who it is
        refused += _strays(embeddings, least)
    return refused


def _strays(embeddings: FloatArray, least: float) -> list[tuple[int, Refusal]]:
    """Photographs outside the largest group that similarities of `least` or more join.

    To have a mate among the others is not enough: two photographs each of two people would all have one. Where the
    largest groups are equally large, nobody can say whose photographs they are, and all are refused.
    """
    alike = embeddings @ embeddings.T
    group = _groups(alike >= least)
    sizes = np.bincount(group)
    largest = np.flatnonzero(sizes == sizes.max())
    if len(largest) == 1:
        main = group == largest[0]
        others = np.broadcast_to(main, alike.shape)
        numbers = ", ".join(str(number + 1) for number in np.flatnonzero(main))
        hint = f"photographs {numbers} show one person and this one somebody else: leave it out"
    else:
        main = np.zeros(len(embeddings), bool)
        others = group[:, None] != group
        hint = "the photographs show several people, nobody most often: give those of one person"
    best = np.max(alike, axis=1, where=others, initial=-1)
    return [
        (int(number), Refusal("disagrees", "similarity", float(best[number]), least, hint))
        for number in np.flatnonzero(~main)
    ]


def _groups(joined: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) the group of each of N, named by its lowest member: whom `joined` (N, N) joins, directly or in steps."""
    count = len(joined)
    joined = joined | np.eye(count, dtype=bool)
    group = np.arange(count)
    while True:
        lower = np.where(joined, group, count).min(axis=1)
        if (lower == group).all():
            return group
        group = lower


def refuse(name: str, refused: Sequence[tuple[int, Refusal]], *, force: bool) -> None:
    """Raise EnrolmentError for the first refusal, or log all of them when the caller forces the enrolment."""
    for number, one in refused:
        text = (
            f"photograph {number + 1}: {one.reason}: expected {one.measure} "
            f"{'of at most' if _is_ceiling(one) else 'of at least'} {one.limit:.4g}, got {one.value:.4g}; {one.hint}"
        )
        if not force:
            raise EnrolmentError(text, reason=one.reason, value=one.value, limit=one.limit)
        log.warning("enrolment of %r forced although %s", name, text)


def _is_ceiling(one: Refusal) -> bool:
    return one.reason in ("too_bright", "not_frontal", "already_enrolled")
