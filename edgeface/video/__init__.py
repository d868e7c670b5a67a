"""From frames to events: sources, tracks, decisions over time, and the loop that keeps a time budget.

    with edgeface.FaceRecognizer.open("kiosk.gallery") as recognizer:
        loop = RecognitionLoop(recognizer, budget_ms=100)
        for result in loop.run(open_source(0)):
            for event in result.events:
                print(event.kind, event.name)
"""

from edgeface.video.events import Event, EventKind
from edgeface.video.liveness import LivenessOptions
from edgeface.video.loop import FrameResult, RecognitionLoop
from edgeface.video.people import TrackedFace
from edgeface.video.sources import Frame, Source, open_source

__all__ = [
    "Event", "EventKind", "Frame", "FrameResult", "LivenessOptions", "RecognitionLoop", "Source", "TrackedFace",
    "open_source",
]  # fmt: skip
