"""Made-up models: manifests, and engines that answer without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing
from edgeface.pad import LivenessSpec
from edgeface.runtime.fake import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.types import FloatArray

STRIDES = (8, 16, 32)


@pytest.fixture
def detector_manifest() -> Callable[..., Manifest]:
    """`detector_manifest(key=value)`: of a YuNet head, any input size unless told."""

    def make(**changes: object) -> Manifest:
        names = [f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
        fields: dict[str, object] = {
            "name": "spots", "model_id": "spots@0/fp32", "file": "spots.fp32.onnx", "sha256": "0" * 64, "size": 1,
            "kind": "detector", "precision": "fp32", "runtime": "onnxruntime", "licence": "none", "source": "a test",
            "input_name": "input", "input_size": None, "max_batch": None, "preprocessing": Preprocessing("bgr"),
            "outputs": {name: name for name in names}, "head": "yunet",
        }  # fmt: skip
        return Manifest(**{**fields, **changes})  # type: ignore[arg-type]  # the fields' values are of many types

    return make


@pytest.fixture
def embedder_manifest() -> Callable[..., Manifest]:
    """`embedder_manifest(key=value)`: 112x112 RGB in, 8 numbers out, unless told."""

    def make(**changes: object) -> Manifest:
        fields: dict[str, object] = {
            "name": "tones", "model_id": "tones@0/fp32", "file": "tones.fp32.onnx", "sha256": "0" * 64, "size": 1,
            "kind": "embedder", "precision": "fp32", "runtime": "onnxruntime", "licence": "none", "source": "a test",
            "input_name": "data", "input_size": (112, 112), "max_batch": None, "preprocessing": Preprocessing("rgb"),
            "outputs": {"embedding": "out"}, "dimension": 8, "template": ARCFACE_112,
        }  # fmt: skip
        return Manifest(**{**fields, **changes})  # type: ignore[arg-type]  # the fields' values are of many types

    return make


@pytest.fixture(scope="session")
def liveness_manifest() -> Callable[..., Manifest]:
    """`liveness_manifest(key=value)`: 32x32 BGR crops of 2.7 boxes in, the probability of live out, unless told."""

    def make(**changes: object) -> Manifest:
        fields: dict[str, object] = {
            "name": "pad", "model_id": "pad@0/fp32", "file": "pad.fp32.onnx", "sha256": "0" * 64, "size": 1,
            "kind": "liveness", "precision": "fp32", "runtime": "onnxruntime", "licence": "none", "source": "a test",
            "input_name": "data", "input_size": (32, 32), "max_batch": None, "preprocessing": Preprocessing("bgr"),
            "outputs": {"scores": "out"},
            "liveness": LivenessSpec("square", 2.7, "probability", ("spoof", "live"), "live", 0.8, 0.4),
        }  # fmt: skip
        return Manifest(**{**fields, **changes})  # type: ignore[arg-type]  # the fields' values are of many types

    return make


@pytest.fixture
def spot_detector(detector_manifest: Callable[..., Manifest]) -> Callable[..., FakeEngine]:
    """A detector that sees a face in every 8x8 cell of its input whose mean level is above 128.

    Its box is the cell, its five points are the cell's corner: where a spot in the frame is found says exactly how
    the frame was put into the network's input and how results were brought back.
    """

    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        height, width = tensor.shape[2:]
        outputs: dict[str, FloatArray] = {}
        for stride in STRIDES:
            cells = height // stride * (width // stride)
            for part, columns in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
                outputs[f"{part}_{stride}"] = np.zeros((1, cells, columns), np.float32)
        level = tensor[0].mean(axis=0).reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)).reshape(-1)
        outputs["cls_8"][0, :, 0] = np.where(level > 128, level / 255, 0)
        outputs["obj_8"][0, :, 0] = 1
        outputs["bbox_8"][0, :, :2] = 0.5  # centre of the box, from the cell's corner; sides are exp(0) strides
        return outputs

    def make(**changes: object) -> FakeEngine:
        return FakeEngine(detector_manifest(**changes), respond)

    return make


@pytest.fixture
def tone_embedder(embedder_manifest: Callable[..., Manifest]) -> Callable[..., FakeEngine]:
    """An embedder whose numbers are the mean levels of parts of the crop: equal crops, equal embeddings."""

    def respond(tensor: FloatArray) -> dict[str, FloatArray]:
        bands = tensor.reshape(len(tensor), 3, 4, -1).mean(axis=3)
        return {"embedding": np.concatenate([bands[:, 0], bands[:, 2] + 1], axis=1)}

    def make(**changes: object) -> FakeEngine:
        return FakeEngine(embedder_manifest(**changes), respond)

    return make
