"""The SDK's pipeline over many photographs of one subject each: resumable, with the time of every stage."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import kernels
from edgeface.errors import InferenceError, InputError
from edgeface.home import home, write_atomically
from edgeface.photos import read_photo
from edgeface.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from edgeface.detect import Detector
    from edgeface.embed import Embedder
    from edgeface.types import FloatArray

_log = logging.getLogger(__name__)

STAGES = ("read", "detect", "align", "embed")
SAVE_EVERY_S = 10.0


@dataclass
class Embedded:
    """What the pipeline made of some photographs, one row a photograph.

    Attributes:
        embeddings: (N, D) float32 unit rows; all zeros where no face was found or the photograph failed.
        detected: (N,) bool.
        stages_ms: (N, 4) float32 milliseconds of reading, detection, alignment and embedding; NaN where not run.
        errors: what went wrong with single files, by their path: unreadable, or the runtime failed on them.
    """

    embeddings: FloatArray
    detected: npt.NDArray[np.bool_]
    stages_ms: FloatArray
    errors: dict[str, str]


def embed_photos(
    photos: Sequence[Path],
    detector: Detector,
    embedder: Embedder,
    *,
    resume: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Embedded:
    """Detect, align and embed the subject of every photograph.

    What is done is kept in the model folder every ten seconds, so that an interrupted run goes on where it stopped:
    same photographs (by path, length and time), same models and options. A finished run leaves nothing behind.

    Args:
        resume: False starts anew.
        progress: called with the number of photographs done.
    """
    state = Embedded(
        np.zeros((len(photos), embedder.dimension), np.float32),
        np.zeros(len(photos), bool),
        np.full((len(photos), len(STAGES)), np.nan, np.float32),
        {},
    )
    checkpoint = home() / "unfinished" / f"{_key(photos, detector, embedder)}.npz"
    done = _load(checkpoint, state) if resume else 0
    saved = time.monotonic()
    try:
        for index in range(done, len(photos)):
            _one(photos[index], index, detector, embedder, state)
            done = index + 1
            if progress is not None:
                progress(done)
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(checkpoint, state, done)
                saved = time.monotonic()
    except KeyboardInterrupt:
        _save(checkpoint, state, done)
        raise
    checkpoint.unlink(missing_ok=True)
    return state


def _one(photo: Path, index: int, detector: Detector, embedder: Embedder, state: Embedded) -> None:
    laps: dict[str, float] = {}
    watch = Stopwatch(laps)
    try:
        frame = read_photo(photo)
        watch.lap("read")
        faces = detector.detect(frame).subject(*frame.shape[:2])
        watch.lap("detect")
        if len(faces):
            tensor = embedder.prepare(frame, faces.landmarks)
            watch.lap("align")
            state.embeddings[index] = embedder.run(tensor)[0]
            watch.lap("embed")
            state.detected[index] = True
    except (InputError, InferenceError) as error:  # one photograph must not end a run of hours
        state.errors[str(photo)] = str(error)
        return
    state.stages_ms[index] = [laps.get(stage, np.nan) for stage in STAGES]


def _key(photos: Sequence[Path], detector: Detector, embedder: Embedder) -> str:
    """Names a run by everything that its result depends on."""
    digest = hashlib.sha256()
    models = (detector.engine.manifest, embedder.engine.manifest)
    facts: list[Any] = [(m.model_id, m.sha256) for m in models]
    facts += [detector.max_side_px, detector.min_score, detector.max_overlap, detector.points]
    facts += [kernels.IMPLEMENTATION]
    digest.update(repr(facts).encode())
    for photo in photos:
        try:
            status = photo.stat()
            digest.update(f"{photo.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{photo.absolute()}\0absent\n".encode())
    return digest.hexdigest()[:24]


def _save(checkpoint: Path, state: Embedded, done: int) -> None:
    packed = io.BytesIO()
    np.savez(
        packed,
        done=np.array(done),
        embeddings=state.embeddings[:done],
        detected=state.detected[:done],
        stages_ms=state.stages_ms[:done],
        errors=np.array([f"{path}\0{text}" for path, text in state.errors.items()], dtype=np.str_),
    )
    try:
        write_atomically(checkpoint, packed.getvalue(), mode=0o600)
    except OSError as error:  # hours of work do not end because of it
        _log.warning("%s: cannot keep what is done, so that this run cannot be resumed: %s", checkpoint, error)


def _load(checkpoint: Path, state: Embedded) -> int:
    """Take over an earlier run's rows; a file that does not fit is as good as none."""
    try:
        with np.load(checkpoint, allow_pickle=False) as kept:
            done = int(kept["done"])
            rows = {name: kept[name] for name in ("embeddings", "detected", "stages_ms")}
            errors = [str(line).partition("\0") for line in kept["errors"]]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        return 0
    for name, value in rows.items():
        target = getattr(state, name)
        if value.shape != (done, *target.shape[1:]) or done > len(target):
            return 0
    for name, value in rows.items():
        getattr(state, name)[:done] = value
    state.errors.update({path: text for path, _, text in errors})
    return done
