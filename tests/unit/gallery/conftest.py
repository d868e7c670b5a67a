"""Galleries of made-up people for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from edgeface.gallery import Gallery

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt


class Units(Protocol):
    def __call__(self, count: int, dimension: int = 128) -> npt.NDArray[np.float32]: ...


@pytest.fixture
def units() -> Units:
    """A function that draws unit rows, the same in every run."""
    random = np.random.default_rng(7)

    def draw(count: int, dimension: int = 128) -> npt.NDArray[np.float32]:
        rows = random.standard_normal((count, dimension))
        unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    return draw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kiosk.gallery"


@pytest.fixture
def gallery(path: Path) -> Iterator[Gallery]:
    with Gallery.open(path, model_id="test-model", dimension=128) as opened:
        yield opened
