"""What the numbers of a presentation attack detection (PAD) model mean: the `liveness` table of recipes and manifests.

edgeface ships no such model. Terms are those of ISO/IEC 30107-3: a *bona fide* presentation is a person before the
camera, an *attack presentation* is a print, screen or mask held up to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from edgeface.errors import RecipeError

if TYPE_CHECKING:
    from edgeface.tables import Reader

Meaning = Literal["logits", "probabilities", "logit", "probability"]
MEANINGS = ("logits", "probabilities", "logit", "probability")
CROPS = ("square", "box")
KEYS = {"crop", "scale", "meaning", "classes", "live", "live_from", "spoof_below"}


@dataclass(frozen=True)
class LivenessSpec:
    """How a PAD model is fed with a face and how its output is read.

    Attributes:
        crop: ``square``: the side is the longer side of the face's box; ``box``: the box's own two sides.
        scale: sides of the crop as a multiple of those: 2.7 shows the face with its surroundings.
        meaning: of the output: ``logits`` or ``probabilities`` of all classes (N, C), or one ``logit`` or
            ``probability`` of the second of two classes (N, 1) or (N,).
        classes: names, in the order of the output.
        live: the class of bona fide presentations; all others are attacks.
        live_from: the score, the probability of `live`, from which on a face is live.
        spoof_below: the score below which it is a spoof; between the two it is unsure.
    """

    crop: Literal["square", "box"]
    scale: float
    meaning: Meaning
    classes: tuple[str, ...]
    live: str
    live_from: float
    spoof_below: float

    @property
    def columns(self) -> int:
        """Numbers that the network gives for one face."""
        return len(self.classes) if self.meaning in ("logits", "probabilities") else 1


def parse_liveness(read: Reader) -> LivenessSpec:
    """Check the liveness table of a recipe or manifest. Raises RecipeError."""
    meaning, classes, live = read.choice("meaning", MEANINGS), read.texts("classes"), read.text("live")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise RecipeError(f"{read.where}: classes: expected two names or more, each once, got {list(classes)}")
    if live not in classes:
        raise RecipeError(f"{read.where}: live: expected one of the classes {', '.join(classes)}, got {live!r}")
    if meaning in ("logit", "probability") and len(classes) != 2:
        raise RecipeError(
            f"{read.where}: classes: one {meaning} tells two classes apart, got {len(classes)}; name the class of low "
            "values first"
        )
    live_from, spoof_below = read.number("live_from", 0.0, 1.0), read.number("spoof_below", 0.0, 1.0)
    if not 0.0 < spoof_below <= live_from:
        raise RecipeError(
            f"{read.where}: expected 0 < spoof_below <= live_from, got spoof_below {spoof_below} and live_from "
            f"{live_from}: nothing would ever be a spoof, or one score would be both"
        )
    return LivenessSpec(
        crop=cast("Literal['square', 'box']", read.choice("crop", CROPS)),
        scale=read.number("scale", 1.0, 10.0),
        meaning=cast("Meaning", meaning),
        classes=classes,
        live=live,
        live_from=live_from,
        spoof_below=spoof_below,
    )
