"""How well the quality score foretells errors: degraded photographs, error-versus-reject curves, and the fit."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.align import align_faces
from edgeface.engines.degrade import LEVELS, degrade
from edgeface.errors import InputError
from edgeface.photos import read_photo
from edgeface.quality import Quality, recognizability, view_features, view_logit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.types import ByteArray, FloatArray, IntArray

REJECTED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)


@dataclass(frozen=True, eq=False)
class Study:
    """Genuine comparisons of a good photograph with a second one, clean and degraded; one row a comparison.

    Attributes:
        people: (N,) number of the person.
        kinds: N names of the degradation, ``clean`` where there is none.
        similarities: (N,) cosine to the good photograph of the same person.
        embeddings: (N, D) of the second photograph.
        quality: of the second photograph.
        undetected: comparisons of each kind that never came to be, since no face was found.
    """

    people: IntArray
    kinds: npt.NDArray[np.str_]
    similarities: FloatArray
    embeddings: FloatArray
    quality: Quality
    undetected: dict[str, int]

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Study:
        """The chosen comparisons."""
        quality = Quality(**{f.name: getattr(self.quality, f.name)[chosen] for f in fields(Quality)})
        return replace(
            self,
            people=self.people[chosen],
            kinds=self.kinds[chosen],
            similarities=self.similarities[chosen],
            embeddings=self.embeddings[chosen],
            quality=quality,
        )


def known_half(name: str) -> bool:
    """Whether a person belongs to the half that the shipped weights were fitted on: by name, the same everywhere."""
    return zlib.crc32(name.encode()) % 2 == 0


def run_study(
    pairs: Sequence[tuple[Path, Path]],
    detector: Detector,
    embedder: Embedder,
    *,
    progress: Callable[[int], None] | None = None,
) -> Study:
    """Compare the first photograph of each person with the second, clean and degraded in every way of `LEVELS`.

    Args:
        pairs: two photographs of each person.
        progress: called with the number of people done.

    Raises:
        InputError: no pair could be compared.
    """
    people: list[int] = []
    kinds: list[str] = []
    similarities: list[float] = []
    embeddings: list[FloatArray] = []
    qualities: list[Quality] = []
    undetected: dict[str, int] = {}
    for number, (good, second) in enumerate(pairs):
        reference, clean = _view(read_photo(good), detector, embedder), read_photo(second)
        found = _view(clean, detector, embedder)
        if progress is not None:
            progress(number + 1)
        if reference is None or found is None:
            undetected["clean"] = undetected.get("clean", 0) + 1
            continue
        width = float(found[0].size_px[0])
        worse: list[tuple[str, ByteArray | None]] = [("clean", None)]
        worse += [
            (kind, degrade(clean, kind, level, face_width_px=width, seed=number))
            for kind, levels in LEVELS.items()
            for level in levels
        ]
        for kind, photo in worse:
            view = found if photo is None else _view(photo, detector, embedder)
            if view is None:
                undetected[kind] = undetected.get(kind, 0) + 1
                continue
            people.append(number)
            kinds.append(kind)
            similarities.append(float(view[1] @ reference[1]))
            embeddings.append(view[1])
            qualities.append(view[0])
    if not people:
        raise InputError("no pair of photographs could be compared: no face was found in them")
    joined: dict[str, Any] = {
        f.name: np.concatenate([getattr(one, f.name) for one in qualities]) for f in fields(Quality)
    }
    return Study(
        np.array(people, np.int64), np.array(kinds), np.array(similarities, np.float32),
        np.stack(embeddings), Quality(**joined), undetected,
    )  # fmt: skip


def _view(photo: ByteArray, detector: Detector, embedder: Embedder) -> tuple[Quality, FloatArray] | None:
    faces = detector.detect(photo).subject(*photo.shape[:2])
    if len(faces) == 0:
        return None
    quality = Quality.of_view(align_faces(photo, faces.landmarks), faces)
    return quality, embedder.embed(photo, faces.landmarks)[0]


def reject_curve(measure: FloatArray, missed: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """What dropping the views of lowest measure does to the false non-matches.

    Returns:
        ``fnmr``: the false non-match rate of what is left, by the share dropped (`REJECTED`), and ``removed``: the
        share of all false non-matches that is among the worst 20 %.

    Source: P. Grother and E. Tabassi, "Performance of Biometric Quality Measures", 2007.
    """
    order = np.argsort(measure, kind="stable")
    missed = missed[order]
    left = {f"{share:g}": float(missed[round(share * len(missed)) :].mean()) for share in REJECTED}
    worst = missed[: round(0.2 * len(missed))]
    return {"fnmr": left, "removed": float(worst.sum() / max(missed.sum(), 1))}


def fit_centre(study: Study, impostor_similarity: float) -> FloatArray:
    """(D,) unit vector: the mean embedding of the degraded views that are no more similar to their own person than
    strangers are (below the similarity of a false match rate of 1e-3)."""
    lost = (study.similarities < impostor_similarity) & (study.kinds != "clean")
    if lost.sum() < 20:
        raise InputError(f"expected at least 20 unrecognisable views to find their centre, got {int(lost.sum())}")
    mean = study.embeddings[lost].mean(axis=0)
    centre: FloatArray = mean / np.linalg.norm(mean)
    return centre


def fit_view(study: Study, threshold: float) -> FloatArray:
    """Weights of a constant and of `view_features` for whether the similarity reaches the threshold."""
    return logistic(view_features(study.quality), study.similarities >= threshold)


def fit_score(study: Study, threshold: float, centre: FloatArray) -> FloatArray:
    """Weights of a constant, of the view's logit and of recognizability, for the same."""
    columns = np.stack([view_logit(study.quality), recognizability(study.embeddings, centre)], axis=1)
    return logistic(columns, study.similarities >= threshold)


def logistic(features: FloatArray, outcome: npt.NDArray[np.bool_], *, ridge: float = 1.0) -> FloatArray:
    """Logistic regression by Newton's method; `ridge` is the weight of the squared weights, the constant is free."""
    x = np.concatenate([np.ones((len(features), 1)), features.astype(np.float64)], axis=1)
    y = outcome.astype(np.float64)
    weights = np.zeros(x.shape[1])
    penalty = np.diag([0.0] + [ridge] * features.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - y) + penalty @ weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty + 1e-9 * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    fitted: FloatArray = weights.astype(np.float32)
    return fitted
