"""The recognition loop of a service: a frame that is not a picture, or that a network fails on, is lost; it goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgeface.errors import InferenceError, InputError
from edgeface.video import FrameResult, RecognitionLoop

if TYPE_CHECKING:
    from edgeface.video import Frame

log = logging.getLogger(__name__)
LOGGED = 50  # frames lost are logged one by one, then every so many: every second one for a month would fill the disk
MOST_FAILURES = 100  # frames in a row; then no reload mends it, and whoever started the process must


class EnduringLoop(RecognitionLoop):
    """A `RecognitionLoop` that outlives failed runs and, after a good frame, frames that a camera gave in part; after
    a lost GPU context it loads the engines again.

    The result of a lost frame has the number -1 and nothing in it. What `FaceRecognizer.reload` raises ends the loop.
    """

    failures = 0  # frames lost in a row
    lost = 0  # and in all

    def step(self, frame: Frame) -> FrameResult:
        """See `RecognitionLoop.step`. Raises InferenceError or InputError after `MOST_FAILURES` lost frames in a row,
        and InputError of the first frame.
        """
        try:
            result = super().step(frame)
        except (InferenceError, InputError) as error:
            if isinstance(error, InputError) and self.counts.frames == 0:
                raise  # the camera gives something else than was asked for
            self.failures += 1
            self.lost += 1
            if self.failures >= MOST_FAILURES:
                raise
            if self.lost <= LOGGED or self.lost % LOGGED == 0:
                log.error("frame %d is lost: %s (%d in all)", frame.number, error, self.lost)
            parts = (self.recognizer.detector, self.recognizer.embedder, self.recognizer.liveness)
            engines = (part.engine for part in parts if part is not None)
            if any(getattr(getattr(engine, "current", None), "lost", None) for engine in engines):
                log.error("the GPU's context was lost; loading the engines again")
                self.recognizer.reload()
            return FrameResult(-1, frame.time_s, (), (), ("frame",), 0.0, {})
        self.failures = 0
        return result
