"""The public surface, word by word: what stands here is what users build on, and changing it is a decision."""

from __future__ import annotations

import dataclasses
import inspect
from enum import Enum

import edgeface

NAMES = [
    "Decision", "Detector", "Embedder", "Engine", "FaceRecognizer", "Faces", "Gallery", "Liveness",
    "LivenessDetector", "Matches", "Person", "Recognition", "Verification", "align_faces", "errors", "load_engine",
]  # fmt: skip

SIGNATURES = """
Detector(engine, *, max_side_px=640, min_score=0.7, max_overlap=0.3, max_faces=100, points='mean')
Detector.detect(self, frame, *, pixel_format='bgr')
Embedder(engine, *, max_batch=None)
Embedder.dimension
Embedder.embed(self, frame, landmarks, *, pixel_format='bgr')
Embedder.model_id
Embedder.prepare(self, frame, landmarks, *, pixel_format='bgr')
Embedder.run(self, tensor)
Engine.close(self)
Engine.run(self, tensor)
FaceRecognizer(detector, embedder, gallery, policy, *, liveness=None)
FaceRecognizer.close(self)
FaceRecognizer.enroll(self, name, photos, *, pixel_format='bgr', limits=None, force=False, metadata=None)
FaceRecognizer.open(gallery, *, detector='yunet', embedder='sface', liveness=None, precision='fp32', runtime='auto',
    fmr=None, fpir=None, threshold=None, margin=None, max_side_px=640, threads=None, prepare='auto',
    frame_size=(1080, 1920), graphs='off', key=None)
FaceRecognizer.policy
FaceRecognizer.recognize(self, frame, *, pixel_format='bgr', stages_ms=None)
FaceRecognizer.recognize_each(self, frames, *, pixel_format='bgr')
FaceRecognizer.reload(self)
FaceRecognizer.verify(self, a, b, *, pixel_format='bgr')
Faces(boxes, scores, landmarks)
Faces.empty()
Faces.sizes
Faces.subject(self, height, width)
Gallery(store, *, exact_up_to, progress)
Gallery.add(self, name, embeddings, *, qualities=None, source_hashes=None, metadata=None)
Gallery.backup(self, path)
Gallery.close(self)
Gallery.dimension
Gallery.encrypted
Gallery.erase(self, name)
Gallery.export(self, path, *, plaintext=False)
Gallery.import_(self, path)
Gallery.model_id
Gallery.open(path, *, model_id, dimension=0, template='int8', busy_timeout_ms=5000, exact_up_to=None,
    progress=None, key=None)
Gallery.path
Gallery.people(self)
Gallery.person(self, person_id)
Gallery.remove(self, name)
Gallery.rename(self, old, new)
Gallery.rotate_key(self, key)
Gallery.search(self, probes, *, k=5)
Gallery.similarities(self, name, probes)
Gallery.stats(self)
Gallery.template
Gallery.template_count
Gallery.wait_for_index(self, timeout_s=None)
LivenessDetector(engine)
LivenessDetector.decide(self, score)
LivenessDetector.prepare(self, frame, boxes, *, pixel_format='bgr')
LivenessDetector.run(self, tensor)
LivenessDetector.scores(self, frame, boxes, *, pixel_format='bgr')
Matches(person_ids, names, similarities)
Matches.margin
Person(person_id, name, templates, metadata, created, updated)
Recognition(name, person_id, decision, similarity, margin, box, score, landmarks, matches,
    liveness=None, liveness_score=None)
Verification(match, similarity, threshold, fmr)
align_faces(frame, landmarks, *, size_px=112, pixel_format='bgr')
load_engine(path, *, threads=None, workers=1, memory='auto', prepare='auto', frame_size=(1080, 1920),
    graphs='off')
"""

ERRORS = [
    "BuildError", "ClosedError", "ConfigurationError", "EdgefaceError", "EngineError", "EngineIncompatibleError",
    "EnrolmentError", "GalleryBusyError", "GalleryCorruptError", "GalleryError", "GalleryFormatError",
    "GalleryKeyError", "GalleryMismatchError", "GateError", "InferenceError", "InputError", "MissingDependencyError",
    "ModelError", "ModelFetchError", "ModelIntegrityError", "ModelNotFoundError", "PersonExistsError",
    "PersonNotFoundError", "RecipeError",
]  # fmt: skip


def described(name: str, value: object) -> list[str]:
    """A line for the name itself and for each public member."""

    def text(of: object) -> str:
        signature = inspect.signature(of)  # type: ignore[arg-type]  # callable, as the caller knows
        plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
        return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))

    if not isinstance(value, type):
        return [name + text(value)] if callable(value) else []
    if issubclass(value, Enum):
        return []
    protocol = bool(getattr(value, "_is_protocol", False))
    lines = [] if protocol else [name + text(value)]
    for member, found in sorted(vars(value).items()):
        if member.startswith("_"):
            continue
        if isinstance(found, property):
            lines.append(f"{name}.{member}")
        elif callable(getattr(value, member)):
            lines.append(f"{name}.{member}{text(getattr(value, member))}")
    return lines


def test_the_names_are_these() -> None:
    assert edgeface.__all__ == NAMES
    assert sorted(set(edgeface.__all__)) == edgeface.__all__
    for name in NAMES:
        assert hasattr(edgeface, name)


def test_the_signatures_are_these() -> None:
    lines = [line for name in NAMES for line in described(name, getattr(edgeface, name))]
    assert "\n".join(lines) == SIGNATURES.strip().replace("\n    ", " ")


def test_the_errors_are_these() -> None:
    found = sorted(name for name, value in vars(edgeface.errors).items() if isinstance(value, type))
    assert found == ERRORS


def test_decisions_are_these() -> None:
    assert [str(member) for member in edgeface.Decision] == ["match", "unknown", "ambiguous"]


def test_every_public_name_and_method_is_documented() -> None:
    for name in NAMES:
        value = getattr(edgeface, name)
        assert inspect.getdoc(value), name
        if isinstance(value, type) and not issubclass(value, Enum):
            for member, found in vars(value).items():
                if (
                    not member.startswith("_")
                    and not dataclasses.is_dataclass(found)
                    and (isinstance(found, (property, classmethod, staticmethod)) or inspect.isfunction(found))
                ):
                    assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_results_cannot_be_changed() -> None:
    for name in ("Faces", "Matches", "Recognition", "Verification", "Person"):
        assert dataclasses.fields(getattr(edgeface, name))
        assert getattr(edgeface, name).__dataclass_params__.frozen
