"""Who is there: tracks become people who arrive and leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeface.types import Decision, Liveness
from edgeface.video.events import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeface.video.people import TrackedFace


@dataclass
class _Person:
    name: str
    person_id: int
    track_id: int
    arrived_s: float
    seen_s: float


class Presence:
    """Turns named tracks into arrivals and departures: a person who is lost for a moment does not arrive again.

    Args:
        leave_after_s: a person not seen for so long has left.
    """

    def __init__(self, leave_after_s: float) -> None:
        self._leave_after_s = leave_after_s
        self._there: dict[int, _Person] = {}
        self._named: dict[int, int] = {}  # track -> person, while the track lives
        self._told: dict[int, Decision] = {}  # tracks of which a stranger or a doubt was told
        self._spoofs: dict[int, None] = {}  # tracks of which a spoof was told

    def update(self, faces: Sequence[TrackedFace], frame: int, time_s: float) -> list[Event]:
        """Events of a frame's faces."""
        events: list[Event] = []
        tracks = {face.track_id for face in faces}
        for known in (self._named, self._told, self._spoofs):
            for gone in known.keys() - tracks:
                del known[gone]
        for face in faces:
            if time_s - face.seen_s > self._leave_after_s:
                continue  # a track that lives on without a detection
            if face.liveness is Liveness.SPOOF and face.track_id not in self._spoofs:
                self._spoofs[face.track_id] = None
                events.append(_event(EventKind.SPOOF, face, frame, time_s))
            elif face.liveness is Liveness.LIVE:
                self._spoofs.pop(face.track_id, None)
            if face.decision is Decision.MATCH and face.person_id is not None and face.name is not None:
                self._named[face.track_id] = face.person_id
                self._told.pop(face.track_id, None)
                person = self._there.get(face.person_id)
                if person is None:
                    self._there[face.person_id] = _Person(face.name, face.person_id, face.track_id, time_s, face.seen_s)
                    events.append(_event(EventKind.ARRIVED, face, frame, time_s))
                else:
                    person.seen_s, person.track_id = max(person.seen_s, face.seen_s), face.track_id
                    person.name = face.name
            elif face.reason == "crossing" or (face.reason == "not_live" and face.liveness is Liveness.UNSURE):
                # The name is withheld, not withdrawn: whoever arrived with this track is still there.
                person = self._there.get(self._named.get(face.track_id, -1))
                if person is not None:
                    person.seen_s = max(person.seen_s, face.seen_s)
            elif face.reason in ("below_threshold", "near_another") and self._told.get(face.track_id) != face.decision:
                self._told[face.track_id] = face.decision
                kind = EventKind.UNKNOWN if face.decision is Decision.UNKNOWN else EventKind.AMBIGUOUS
                events.append(_event(kind, face, frame, time_s))
        return events + self.leave(time_s, frame=frame)

    def forget(self, track_id: int) -> None:
        """The track is somebody else from now on: it says no more that whoever arrived with it is there."""
        self._named.pop(track_id, None)

    def leave(self, time_s: float, *, frame: int = -1, everybody: str = "") -> list[Event]:
        """Events of those who have not been seen for long enough; of everybody where there is a reason for that."""
        events = []
        for person in list(self._there.values()):
            if everybody or time_s - person.seen_s > self._leave_after_s:
                del self._there[person.person_id]
                events.append(
                    Event(
                        EventKind.LEFT, time_s, frame=frame, track_id=person.track_id, name=person.name,
                        person_id=person.person_id, reason=everybody or "not_seen",
                        details={"stayed_s": round(person.seen_s - person.arrived_s, 3)},
                    )
                )  # fmt: skip
        return events


def _event(kind: EventKind, face: TrackedFace, frame: int, time_s: float) -> Event:
    details: dict[str, object] = {"box": [round(float(value), 1) for value in face.box]}
    if face.liveness_score is not None:
        details["liveness_score"] = face.liveness_score
    if face.withheld_name is not None:
        details["withheld_name"] = face.withheld_name
    return Event(
        kind, time_s, frame=frame, track_id=face.track_id, name=face.name, person_id=face.person_id,
        similarity=face.similarity, margin=face.margin, quality=face.quality, reason=face.reason, details=details,
        liveness=face.liveness,
    )  # fmt: skip
