"""Embeddings: unit rows, batches that never exceed the engine's, and no vector without direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import Embedder, align_faces
from edgeface.errors import ClosedError, ConfigurationError, InferenceError, InputError
from edgeface.manifest import ARCFACE_112, Preprocessing
from edgeface.runtime.fake import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.manifest import Manifest
    from edgeface.types import FloatArray

FRAME = np.random.default_rng(2).integers(0, 256, (300, 400, 3), np.uint8)
POINTS = np.array(ARCFACE_112, np.float32)
FACES = np.stack([POINTS + shift for shift in (0, 20, 50, 90, 130)]) + np.float32(10)


def test_rows_have_length_one(tone_embedder: Callable[..., FakeEngine]) -> None:
    embeddings = Embedder(tone_embedder()).embed(FRAME, FACES)
    assert embeddings.shape == (5, 8)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("limit", "engine_limit", "batches"),
    [(None, None, [5]), (2, None, [2, 2, 1]), (None, 1, [1] * 5), (4, 2, [2, 2, 1]), (2, 4, [2, 2, 1]), (9, None, [5])],
)
def test_batches_keep_the_smaller_limit_and_the_order(
    limit: int | None, engine_limit: int | None, batches: list[int], tone_embedder: Callable[..., FakeEngine]
) -> None:
    engine = tone_embedder(max_batch=engine_limit)
    embeddings = Embedder(engine, max_batch=limit).embed(FRAME, FACES)
    assert [shape[0] for shape in engine.shapes] == batches
    alone = [Embedder(tone_embedder()).embed(FRAME, face)[0] for face in FACES]
    assert np.allclose(embeddings, alone, atol=1e-6)


def test_no_face_runs_nothing(tone_embedder: Callable[..., FakeEngine]) -> None:
    engine = tone_embedder()
    assert Embedder(engine).embed(FRAME, np.empty((0, 5, 2))).shape == (0, 8)
    assert engine.shapes == []


def test_the_input_is_the_aligned_crop_as_the_manifest_wants_it(embedder_manifest: Callable[..., Manifest]) -> None:
    (crop,) = align_faces(FRAME, FACES[2])
    levels = crop.astype(np.float32).transpose(2, 0, 1)
    for preprocessing, expected in (
        (Preprocessing("bgr"), levels),
        (Preprocessing("rgb"), levels[::-1]),
        (Preprocessing("rgb", (127.5, 100.0, 90.0), (128.0, 64.0, 32.0)),
         (levels[::-1] - np.array([127.5, 100, 90])[:, None, None]) / np.array([128, 64, 32])[:, None, None]),
    ):  # fmt: skip
        engine = FakeEngine(embedder_manifest(preprocessing=preprocessing), lambda _: {})
        tensor = Embedder(engine).prepare(FRAME, FACES[2])
        assert tensor.shape == (1, 3, 112, 112)
        # Crops are rounded to whole levels, the tensor is not.
        step = 0.51 / min(preprocessing.std)
        assert np.abs(tensor[0] - expected).max() < step


def test_the_input_of_another_pixel_format(tone_embedder: Callable[..., FakeEngine]) -> None:
    embedder = Embedder(tone_embedder())
    tensor = embedder.prepare(FRAME[:, :, ::-1], FACES, pixel_format="rgb")
    assert np.array_equal(tensor, embedder.prepare(FRAME, FACES))
    assert np.array_equal(embedder.run(tensor), embedder.embed(FRAME[:, :, ::-1], FACES, pixel_format="rgb"))


def test_an_input_that_is_not_square_keeps_the_manifests_template(embedder_manifest: Callable[..., Manifest]) -> None:
    template = tuple((x * 96 / 112, y) for x, y in ARCFACE_112)
    engine = FakeEngine(embedder_manifest(input_size=(112, 96), template=template), lambda _: {})
    tensor = Embedder(engine).prepare(FRAME, np.array(template, np.float32) + 30)
    assert tensor.shape == (1, 3, 112, 96)
    assert np.abs(tensor[0, 0] - FRAME[30:142, 30:126, 2]).max() < 1


@pytest.mark.parametrize("vector", [np.zeros(8), np.full(8, np.nan), np.r_[np.inf, np.ones(7)]])
def test_a_vector_without_direction_is_an_error(vector: FloatArray, embedder_manifest: Callable[..., Manifest]) -> None:
    engine = FakeEngine(embedder_manifest(), lambda t: {"embedding": np.tile(vector.astype(np.float32), (len(t), 1))})
    with pytest.raises(InferenceError, match=r"tones@0/fp32: the network gave an embedding without direction"):
        Embedder(engine).embed(FRAME, FACES)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_length_of_the_networks_vectors_does_not_matter(
    scale: float, embedder_manifest: Callable[..., Manifest]
) -> None:
    vector = (np.arange(8) * scale).astype(np.float32)
    engine = FakeEngine(embedder_manifest(), lambda t: {"embedding": np.tile(vector, (len(t), 1))})
    expected = np.arange(8) / np.linalg.norm(np.arange(8))
    assert np.allclose(Embedder(engine).embed(FRAME, POINTS)[0], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7), (1, 9), (2, 8), (1, 8, 1), (8,)])
def test_outputs_of_another_shape_are_an_error(
    shape: tuple[int, ...], embedder_manifest: Callable[..., Manifest]
) -> None:
    engine = FakeEngine(embedder_manifest(), lambda _: {"embedding": np.ones(shape, np.float32)})
    with pytest.raises(InferenceError, match=r"expected embeddings of shape \(1, 8\)"):
        Embedder(engine).embed(FRAME, POINTS)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
def test_a_batch_that_is_none_is_refused(limit: Any, tone_embedder: Callable[..., FakeEngine]) -> None:
    with pytest.raises(InputError, match="max_batch: expected a whole number"):
        Embedder(tone_embedder(), max_batch=limit)


def test_misuse_is_refused(spot_detector: Callable[..., FakeEngine], tone_embedder: Callable[..., FakeEngine]) -> None:
    with pytest.raises(ConfigurationError, match="spots: expected an embedder, got kind 'detector'"):
        Embedder(spot_detector())
    engine = tone_embedder()
    embedder = Embedder(engine)
    assert (embedder.model_id, embedder.dimension) == ("tones@0/fp32", 8)
    with pytest.raises(InputError, match="frame: expected"):
        embedder.embed(None, FACES)
    with pytest.raises(InputError, match="landmarks: expected"):
        embedder.embed(FRAME, FACES[:, :3])
    engine.close()
    with pytest.raises(ClosedError):
        embedder.embed(FRAME, FACES)
