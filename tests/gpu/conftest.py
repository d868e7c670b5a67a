"""The GPU of this machine, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeface.errors import MissingDependencyError
from edgeface.runtime.cuda import Gpu, acquire_gpu, release_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    try:
        opened = acquire_gpu()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    yield opened
    release_gpu(opened)
