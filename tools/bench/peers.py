"""The whole pipeline, photograph in memory to embedding, against other libraries' own pipelines."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.tools.bench.harness import Row, measure
from edgeface.tools.output import not_nan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface import Detector, Embedder
    from edgeface.types import ByteArray, FloatArray

    Pipeline = Callable[[ByteArray], FloatArray]

TITLE = "one photograph, detection to embedding"
OPTIONS = [
    click.Option(["--photo"], type=click.Path(dir_okay=False, path_type=Path), default=None,
                 help="A photograph with one face, run as it is (default: one that comes with edgeface, 250x250)."),
    click.Option(["--seconds"], type=click.FloatRange(0.5, 600), callback=not_nan, default=6.0, show_default=True,
                 help="Time for each row."),
]  # fmt: skip


def rows(*, photo: Path | None, seconds: float) -> Iterator[Row]:
    """One row a peer: the same photograph, the same two networks where the peer has them."""
    import cv2

    from edgeface import Detector, Embedder, load_engine
    from edgeface.engines.recipe import load_recipe
    from edgeface.photos import read_photo
    from edgeface.tools.demo import demo_photo
    from edgeface.tools.models import DEFAULT, ensure_models

    if photo is None:
        frame = np.asarray(cv2.resize(read_photo(demo_photo("jacinda_ardern_2022.jpg"))[:689], (250, 250)), np.uint8)
    else:
        frame = read_photo(photo)
    yunet, sface = ensure_models([load_recipe(name) for name in DEFAULT])
    with load_engine(yunet, threads=1) as detecting, load_engine(sface, threads=1) as embedding:
        # The points of one cell, as OpenCV takes them: embeddings can be compared, and the work is the same.
        detector, embedder = Detector(detecting, points="best"), Embedder(embedding)
        mine = embed_subject(frame, detector, embedder)
        for name, make in (("OpenCV YuNet + SFace", _opencv), ("dlib HOG + ResNet", _dlib)):
            try:
                title, theirs = make(yunet, sface)
            except ImportError as error:
                yield measure(name, lambda: embed_subject(frame, detector, embedder), peer_name=f"lacking: {error}",
                              seconds=seconds)  # fmt: skip
                continue
            other = theirs(frame)
            if other.shape == mine.shape and name.startswith("OpenCV"):
                agree = f"cosine of the embeddings {float(mine @ other / np.linalg.norm(other)):.6f}"
            else:
                agree = "another network: embeddings are not comparable"
            yield measure(
                f"{frame.shape[1]}x{frame.shape[0]} photo, whole pipeline",
                lambda: embed_subject(frame, detector, embedder),
                lambda run=theirs: run(frame),  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                peer_name=title,
                target=1.0 if name.startswith("OpenCV") else None,
                correctness=agree,
                seconds=seconds,
            )


def embed_subject(frame: ByteArray, detector: Detector, embedder: Embedder) -> FloatArray:
    """Our side: detect, align, embed the main face."""
    faces = detector.detect(frame).subject(*frame.shape[:2])
    embedding: FloatArray = embedder.embed(frame, faces.landmarks)[0]
    return embedding


def _opencv(yunet: Path, sface: Path) -> tuple[str, Pipeline]:
    """OpenCV's own two classes on the same two ONNX files."""
    import cv2

    cv2.setNumThreads(1)
    sizes: dict[tuple[int, int], Any] = {}
    try:
        recognizer = cv2.FaceRecognizerSF.create(str(sface), "")
    except cv2.error as error:
        raise ImportError(f"OpenCV {cv2.__version__} cannot read these models ({error.err})") from error

    def run(frame: ByteArray) -> FloatArray:
        size = (frame.shape[1], frame.shape[0])
        if size not in sizes:
            sizes[size] = cv2.FaceDetectorYN.create(str(yunet), "", size, 0.7, 0.3, 5000)
        _, faces = sizes[size].detect(frame)
        crop = recognizer.alignCrop(frame, faces[0])
        return np.array(recognizer.feature(crop), np.float32, ndmin=1).ravel()

    return f"OpenCV {cv2.__version__}", run


def _dlib(yunet: Path, sface: Path) -> tuple[str, Pipeline]:
    import face_recognition

    def run(frame: ByteArray) -> FloatArray:
        return np.array(face_recognition.face_encodings(np.ascontiguousarray(frame[:, :, ::-1]))[0], np.float32)

    return f"face_recognition {metadata.version('face_recognition')}", run
