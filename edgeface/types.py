"""Results, as frozen dataclasses of numpy arrays that are checked when they are made.

Coordinates are pixels of the frame, x to the right and y down, with (0, 0) the centre of the first pixel.
Left and right are the viewer's. A similarity is the cosine of two embeddings: -1 to 1, higher is closer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    ByteArray = npt.NDArray[np.uint8]


class Decision(str, Enum):
    """What the similarities say about one face. Members compare equal to their strings."""

    MATCH = "match"  #: one enrolled person reaches the threshold, and nobody else comes near
    UNKNOWN = "unknown"  #: nobody reaches the threshold
    AMBIGUOUS = "ambiguous"  #: the best two people are closer than the margin: no name is given

    def __str__(self) -> str:
        return str(self.value)


class Liveness(str, Enum):
    """What a presentation attack detection model says about one face. Members compare equal to their strings."""

    LIVE = "live"  #: a bona fide presentation: the score reaches the model's `live_from`
    SPOOF = "spoof"  #: an attack presentation, such as a print or a screen: the score is below `spoof_below`
    UNSURE = "unsure"  #: neither, or too little was seen: not to be admitted

    def __str__(self) -> str:
        return str(self.value)


def _hold(owner: object, field: str, shape: tuple[int | None, ...], dtype: type[np.generic]) -> int:
    """Replace an array field by a read-only array of `dtype`; return the length of its first axis."""
    given: Any = getattr(owner, field)
    try:
        array = np.array(given, dtype=dtype, order="C")
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{type(owner).__name__}.{field}: expected an array of {dtype.__name__}, got {type(given).__name__}"
        ) from error
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        want = tuple("N" if size is None else size for size in shape)
        raise InputError(f"{type(owner).__name__}.{field}: expected shape {want}, got {array.shape}")
    array.flags.writeable = False
    object.__setattr__(owner, field, array)
    return int(array.shape[0])


@dataclass(frozen=True, eq=False)
class Faces:
    """The N faces of one frame, best score first, one row a face.

    Attributes:
        boxes: (N, 4) float32, left, top, right, bottom in pixels of the frame. A face partly outside the
            frame has a box that reaches outside it.
        scores: (N,) float32, the detector's confidence, 0 to 1.
        landmarks: (N, 5, 2) float32, (x, y) in pixels: the viewer's left eye, right eye, nose tip, left and
            right corner of the mouth.
    """

    boxes: FloatArray
    scores: FloatArray
    landmarks: FloatArray

    def __post_init__(self) -> None:
        sizes = (
            _hold(self, "boxes", (None, 4), np.float32),
            _hold(self, "scores", (None,), np.float32),
            _hold(self, "landmarks", (None, 5, 2), np.float32),
        )
        if len(set(sizes)) != 1:
            raise InputError(f"Faces: boxes, scores and landmarks differ in length: {sizes}")

    @classmethod
    def empty(cls) -> Faces:
        """No face at all."""
        return cls(*(np.empty(shape, np.float32) for shape in ((0, 4), 0, (0, 5, 2))))

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Faces]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | np.integer[Any] | slice | npt.NDArray[Any]) -> Faces:
        """The chosen faces, by number, slice, mask or array of numbers; always a `Faces`."""
        if isinstance(index, (int, np.integer)):  # np.integer: what argmax gives
            if not -len(self) <= index < len(self):
                raise IndexError(f"face {index} of {len(self)}")
            index = np.array([index])
        return Faces(self.boxes[index], self.scores[index], self.landmarks[index])

    def subject(self, height: int, width: int) -> Faces:
        """The face that a portrait of (height, width) px is of, as `Faces` of length one; empty when there is none.

        Large and near the middle wins: area less twice the squared distance of the centres.
        """
        if len(self) < 2:
            return self
        area = np.prod(self.sizes, axis=1)
        offset = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2 - np.array([width / 2, height / 2], np.float32)
        return self[int(np.argmax(area - 2 * (offset**2).sum(axis=1)))]

    @property
    def sizes(self) -> FloatArray:
        """(N, 2) float32: height and width of each box in pixels."""
        return np.stack([self.boxes[:, 3] - self.boxes[:, 1], self.boxes[:, 2] - self.boxes[:, 0]], axis=1)


@dataclass(frozen=True, eq=False)
class Matches:
    """The K people of the gallery nearest to one probe, nearest first, each with their best template.

    Attributes:
        person_ids: (K,) int64, stable for the life of the gallery.
        names: K names.
        similarities: (K,) float32 cosines, falling.
    """

    person_ids: IntArray
    names: tuple[str, ...]
    similarities: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        sizes = (
            _hold(self, "person_ids", (None,), np.int64),
            len(self.names),
            _hold(self, "similarities", (None,), np.float32),
        )
        if len(set(sizes)) != 1:
            raise InputError(f"Matches: person_ids, names and similarities differ in length: {sizes}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def margin(self) -> float:
        """Similarity of the best person less that of the next; infinity when there is no next."""
        if len(self) < 2:
            return float("inf")
        return float(self.similarities[0]) - float(self.similarities[1])


@dataclass(frozen=True, eq=False)
class Recognition:
    """One face of a frame and what the gallery says about it.

    Attributes:
        name: the person's name where `decision` is ``match``, otherwise None.
        person_id: likewise the person's id.
        decision: ``match``, ``unknown`` or ``ambiguous``.
        similarity: of the nearest person, whatever the decision; -1 when the gallery is empty.
        margin: that similarity less the next person's; infinity when there is no next.
        box: (4,) float32, left, top, right, bottom in pixels of the frame.
        score: the detector's confidence, 0 to 1.
        landmarks: (5, 2) float32, as in `Faces`.
        matches: the nearest people, for callers who decide for themselves.
        liveness: what the liveness model says of this one view, None without such a model. The name stands whatever
            it says: whoever opens a door asks for both.
        liveness_score: the model's score behind it, 0 to 1, high for live; None without a model.
    """

    name: str | None
    person_id: int | None
    decision: Decision
    similarity: float
    margin: float
    box: FloatArray
    score: float
    landmarks: FloatArray
    matches: Matches
    liveness: Liveness | None = None
    liveness_score: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "decision", Decision(self.decision))
        if (self.decision is Decision.MATCH) != (self.name is not None):
            raise InputError(f"Recognition: decision {self.decision} with name {self.name!r}")
        _hold(self, "box", (4,), np.float32)
        _hold(self, "landmarks", (5, 2), np.float32)


@dataclass(frozen=True)
class Verification:
    """Whether two photographs show one person.

    Attributes:
        match: `similarity` reaches `threshold`.
        similarity: cosine of the two embeddings.
        threshold: the similarity from which on it is a match.
        fmr: false match rate of one comparison at that threshold; None where the caller chose the threshold.
    """

    match: bool
    similarity: float
    threshold: float
    fmr: float | None
