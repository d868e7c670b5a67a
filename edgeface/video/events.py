"""What the loop tells: who came, who left, and what went wrong."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeface.types import Liveness


class EventKind(str, Enum):
    """Members compare equal to their strings."""

    ARRIVED = "arrived"  #: an enrolled person was recognised and had not been there
    LEFT = "left"  #: a person who had arrived has not been seen for `leave_after_s`
    UNKNOWN = "unknown"  #: a face that was looked at enough belongs to nobody enrolled
    AMBIGUOUS = "ambiguous"  #: a face that was looked at enough is as near to two people
    CHANGED = "changed"  #: a track that had a name turned out to be somebody else
    SPOOF = "spoof"  #: the liveness model takes a face for a print, a screen or a mask held up to the camera
    SOURCE_LOST = "source_lost"  #: the camera, file or stream gave no frame and is being opened again
    SOURCE_STALLED = "source_stalled"  #: it is open and gives no frame
    SOURCE_BACK = "source_back"  #: frames come again
    CALLBACK_FAILED = "callback_failed"  #: a callback or sink raised; the loop goes on

    def __str__(self) -> str:
        return str(self.value)


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: what.
        time_s: when, on the clock of the source's frames.
        frame: number of the frame; -1 where there is none.
        track_id: of the face; None where the event is about no face.
        name, person_id: of the enrolled person, where one is meant.
        similarity, margin: of the decision behind it; None where there is none.
        quality: score of the best view of the track, 0 to 1; None where there is none.
        reason: why, in a word of snake case or a sentence.
        details: more, in types that JSON knows.
        liveness: of the face; None where there is no liveness model, or no face.
        utc: when it was found out, by this machine's time of day: for readers whom it reaches late.
    """

    kind: EventKind
    time_s: float
    frame: int = -1
    track_id: int | None = None
    name: str | None = None
    person_id: int | None = None
    similarity: float | None = None
    margin: float | None = None
    quality: float | None = None
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    liveness: Liveness | None = None
    utc: datetime = field(default_factory=_now, compare=False)

    def to_json(self) -> str:
        """One line of JSON without a line end; what is None is left out, infinity and NaN are null."""
        utc = self.utc.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document: dict[str, Any] = {"event": str(self.kind), "time_s": round(self.time_s, 4), "utc": utc}
        for key in ("frame", "track_id", "name", "person_id", "similarity", "margin", "quality", "reason", "liveness"):
            value = getattr(self, key)
            if value is not None and value not in (-1, ""):
                document[key] = value
        if self.details:
            document["details"] = dict(self.details)
        return json.dumps(plain(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """The value in JSON's own types: arrays become lists, infinity and NaN null, floats keep five digits, above 1000
    four after the point: seconds since the start of a board that runs for months stay as fine as in its first hour.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.5g}") if abs(value) < 1e3 else round(value, 4)
    if isinstance(value, Enum):
        return str(value)
    return value
