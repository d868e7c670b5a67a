"""What a gallery refuses, and in which words: other models, vectors, names and options that are not such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.errors import GalleryMismatchError, InputError
from edgeface.gallery import Gallery

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    Draw = Callable[..., npt.NDArray[np.float32]]


def test_another_model_is_refused_with_both_names(gallery: Gallery, path: Path) -> None:
    with pytest.raises(GalleryMismatchError, match=r"test-model.*other-model"):
        Gallery.open(path, model_id="other-model", dimension=128)
    with pytest.raises(GalleryMismatchError, match=r"128.*512"):
        Gallery.open(path, model_id="test-model", dimension=512)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("net@0123/int8", r"--precision fp32, in the service EDGEFACE_PRECISION=fp32\), or enrol everybody again"),
        ("net@4567/int8", "; open it with that embedder, or enrol everybody again"),
        ("other", "; open it with that embedder, or enrol everybody again"),
    ],
)
def test_another_precision_is_refused_with_the_option_that_opens_it(path: Path, given: str, hint: str) -> None:
    Gallery.open(path, model_id="net@0123/fp32", dimension=128).close()
    with pytest.raises(GalleryMismatchError, match=hint):
        Gallery.open(path, model_id=given, dimension=128)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (np.zeros(128, np.float32), "length 0"),
        (np.full(128, np.nan, np.float32), "length nan"),
        (np.ones(128, np.float32), "length 11.3"),
        (np.eye(1, 64, dtype=np.float32), r"\(1, 64\)"),
        (np.zeros((1, 1, 128), np.float32), r"\(1, 1, 128\)"),
        (np.eye(1, 128, dtype=np.float64), "float64"),
        ([0.0] * 128, "list"),
        (None, "NoneType"),
    ],
)
def test_bad_vectors_are_refused_by_add_and_search(gallery: Gallery, given: Any, word: str) -> None:
    with pytest.raises(InputError, match=word):
        gallery.add("ada", given)
    with pytest.raises(InputError, match=word):
        gallery.search(given)
    assert len(gallery) == 0


def test_a_vector_that_int8_cannot_hold_is_refused_and_float32_takes_it(gallery: Gallery, path: Path) -> None:
    axis = np.eye(1, 128, dtype=np.float32)
    axis[0, 1] = 0.5
    axis /= np.linalg.norm(axis)
    with pytest.raises(InputError, match="float32"):
        gallery.add("ada", axis)
    with Gallery.open(path.with_name("b"), model_id="m", dimension=128, template="float32") as other:
        other.add("ada", axis)
        assert other.search(axis)[0].similarities[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00", "x" * 201, "\ud800", "a\u2028b", 7, None])
def test_names_that_are_no_names_are_refused(gallery: Gallery, units: Draw, name: Any) -> None:
    with pytest.raises(InputError, match="blanks only" if name == " " else "name"):
        gallery.add(name, units(1))


def test_names_are_normalised(gallery: Gallery, units: Draw) -> None:
    gallery.add("Zoe\u0308", units(1))
    assert gallery.add("Zo\u00eb", units(1)).templates == 2


@pytest.mark.parametrize(
    "options",
    [
        {"qualities": [1.0]},
        {"qualities": [1.0, float("nan")]},
        {"source_hashes": "ab"},
        {"source_hashes": ["a", ""]},
        {"source_hashes": ["a", "b\n"]},
        {"metadata": {"a": {1, 2}}},
        {"metadata": {1: "key is no text"}},
        {"metadata": {"a": float("inf")}},
        {"metadata": {"a": "x" * 70_000}},
        {"metadata": [["a", 1]]},
    ],
)
def test_bad_options_are_refused(gallery: Gallery, units: Draw, options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        gallery.add("ada", units(2), **options)
    assert len(gallery) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"busy_timeout_ms": "x"}, {"busy_timeout_ms": True}, {"busy_timeout_ms": 1.5}, {"busy_timeout_ms": None},
        {"exact_up_to": "x"}, {"exact_up_to": -1}, {"exact_up_to": True}, {"dimension": True}, {"dimension": "128"},
    ],
)  # fmt: skip
def test_options_of_a_wrong_type_are_named(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Gallery.open(path, **{"model_id": "m", "dimension": 128, **options})
    for wrong in ("", "a\0b", 3):
        with pytest.raises(InputError, match="path"):
            Gallery.open(wrong, model_id="m", dimension=128)  # type: ignore[arg-type]  # what is tested
    assert list(path.parent.iterdir()) == []


def test_arguments_of_a_wrong_type_are_named(gallery: Gallery, units: Draw) -> None:
    row = units(1)[0]
    for k in (True, "3", 2.0, None):
        with pytest.raises(InputError, match="k: expected"):
            gallery.search(row, k=k)  # type: ignore[arg-type]  # what is tested
    for qualities in (["x"], [None], [True], ["1"], 0.5, {"a": 1.0}, b"1"):
        with pytest.raises(InputError, match="qualities"):
            gallery.add("one", row, qualities=qualities)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InputError, match="source_hashes"):
        gallery.add("one", row, source_hashes=7)  # type: ignore[arg-type]  # what is tested
    assert len(gallery) == 0
    gallery.add("one", row, qualities=np.array([0.5], np.float32))  # type: ignore[arg-type]  # works all the same
    assert gallery.search(row, k=np.int64(1))[0].names == ("one",)
